"""The queue of events is vacuumed early, quickly and to the end: every event leaves a dead row in it.

By default a table waits until a fifth of it is dead, which in a queue that has grown in a storm is a long time; it is
then vacuumed slowly, to spare the disk for others; and the index entries of the last dead rows are left for another
time, which keeps the table from becoming short again. A queue that is empty and not short is what the planner guesses
wrong about: it expects no row in it, and reads all of it for each group when the next storm has come.

Only settings are changed, under a lock that neither reads nor writes wait for.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SETTINGS = {
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_analyze_scale_factor": "0.01",
    "autovacuum_analyze_threshold": "1000",
    "autovacuum_vacuum_cost_delay": "0",
    "vacuum_index_cleanup": "on",
}


def upgrade() -> None:
    settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    op.execute(sa.text(f"ALTER TABLE event_queue SET ({settings})"))


def downgrade() -> None:
    op.execute(sa.text(f"ALTER TABLE event_queue RESET ({', '.join(SETTINGS)})"))
