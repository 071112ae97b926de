"""Who asked for what, and when: kept as it was written, also where the record of a VM goes on to something else.

The previous release is still running while this is applied, and writes none of these rows.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "requests",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("request_id", sa.UUID(), nullable=False),
        sa.Column("vm_no", sa.Integer(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('submit', 'delete', 'cancel')", name=op.f("requests_kind_known_check")),
        sa.CheckConstraint("(kind = 'delete') = (vm_no IS NOT NULL)", name=op.f("requests_delete_names_a_vm_check")),
        sa.PrimaryKeyConstraint("submission_id", "request_id", name=op.f("requests_pkey")),
    )
    op.execute(
        sa.text(
            "CREATE TRIGGER requests_kept BEFORE UPDATE OR DELETE ON requests "
            "FOR EACH ROW EXECUTE FUNCTION rollcall_append_only()"
        )
    )
    op.execute(
        sa.text(
            "CREATE TRIGGER requests_kept_whole BEFORE TRUNCATE ON requests "
            "FOR EACH STATEMENT EXECUTE FUNCTION rollcall_append_only()"
        )
    )


def downgrade() -> None:
    op.drop_table("requests")
