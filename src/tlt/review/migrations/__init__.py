"""The steps by which the review's database came to its present form (alembic)."""
