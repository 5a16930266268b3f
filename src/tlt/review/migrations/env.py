"""Alembic runs this for every upgrade; the connection is handed over by `tlt.review.store`."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
with context.begin_transaction():
    context.run_migrations()
