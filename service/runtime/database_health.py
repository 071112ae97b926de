"""The health issues of the database: whether it answers, and whether it can be written to."""

from typing import Final

from service.runtime.health import Health
from service.storage.sqlstates import READ_ONLY

_AWAY: Final = "database"
_READ_ONLY: Final = "database read-only"


def report_database(health: Health, error: str, *, owner: str = "") -> None:
    """Report a failure of the database under the name of its kind: a database is away or read-only, never both."""
    if error.startswith(READ_ONLY):
        health.resolve(_AWAY, owner=owner)
        health.report(_READ_ONLY, f"the database is read-only: {error}", owner=owner)
    else:
        health.report(_AWAY, error, owner=owner)


def resolve_database(health: Health, *, owner: str = "") -> None:
    """The database works again, as far as the owner can tell."""
    for issue in (_AWAY, _READ_ONLY):
        health.resolve(issue, owner=owner)
