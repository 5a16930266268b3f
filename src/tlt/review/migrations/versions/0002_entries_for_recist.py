"""Entries for RECIST: what is said of the study itself has a row, as each lesion has.

New lesions get theirs with their first entry. The number of this form keeps programs away that do
not know these entries.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the row of each study."""
    op.execute("INSERT INTO lesions (study_id, lesion_id, version) SELECT id, '', 0 FROM studies")


def downgrade() -> None:
    """There is no way back: it would lose what readers entered."""
    raise NotImplementedError("an older form cannot hold the readers' entries")
