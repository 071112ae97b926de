"""When to read the events history of a VM, and when a VM was wished away.

The previous release is still running while this is applied, and leaves both columns empty. The index holds few
rows, and is made in one look at a table that has a row for each VM.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("vms", sa.Column("history_due_at", postgresql.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("vms", sa.Column("wish_at", postgresql.TIMESTAMP(timezone=True), nullable=True))
    op.create_index(
        "vms_history_idx",
        "vms",
        ["history_due_at"],
        unique=False,
        postgresql_where=sa.text("history_due_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("vms_history_idx", table_name="vms", postgresql_where=sa.text("history_due_at IS NOT NULL"))
    op.drop_column("vms", "wish_at")
    op.drop_column("vms", "history_due_at")
