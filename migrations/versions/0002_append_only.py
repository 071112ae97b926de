"""What is kept cannot be edited, and events have somewhere to go in any month.

The previous release is still running while this is applied: nothing here changes a column, and no trigger fires
on INSERT.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = ("events", "transitions", "calls", "call_ends", "assignments")


def upgrade() -> None:
    # RC001 is ours, so that the code can tell this refusal from any other.
    op.execute(
        sa.text("""
        CREATE FUNCTION rollcall_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'the rows of % are kept as they were written', TG_TABLE_NAME USING ERRCODE = 'RC001';
        END $$
        """)
    )
    for table in TABLES:
        op.execute(
            sa.text(
                f"CREATE TRIGGER {table}_kept BEFORE UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION rollcall_append_only()"
            )
        )
        op.execute(
            sa.text(
                f"CREATE TRIGGER {table}_kept_whole BEFORE TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION rollcall_append_only()"
            )
        )
    # The daemon makes a partition for each month ahead of time; whatever fits none is kept all the same.
    op.execute(sa.text("CREATE TABLE events_pdefault PARTITION OF events DEFAULT"))
    # A row trigger of the whole table is one of each partition too; a trigger against TRUNCATE is not.
    op.execute(
        sa.text(
            "CREATE TRIGGER events_pdefault_kept_whole BEFORE TRUNCATE ON events_pdefault "
            "FOR EACH STATEMENT EXECUTE FUNCTION rollcall_append_only()"
        )
    )


def downgrade() -> None:
    op.execute(sa.text("DROP TABLE events_pdefault"))
    for table in TABLES:
        op.execute(sa.text(f"DROP TRIGGER {table}_kept ON {table}"))
        op.execute(sa.text(f"DROP TRIGGER {table}_kept_whole ON {table}"))
    op.execute(sa.text("DROP FUNCTION rollcall_append_only()"))
