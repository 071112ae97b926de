"""${message}

The previous release is still running while this is applied: add, do not rename; fill in steps, not in one
statement; no lock on a large table that outlives a second.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ''}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
