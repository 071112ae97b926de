"""Health issues about the database: it does not answer, or is read-only."""

from typing import Final

from service.runtime.health import Health
from service.storage.sqlstates import READ_ONLY

_AWAY: Final = "database"
_READ_ONLY: Final = "database read-only"


def report_database(health: Health, error: str, *, owner: str = "") -> None:
    """Report that the database is away, or that it is read-only; never both."""
    if error.startswith(READ_ONLY):
        health.resolve(_AWAY, owner=owner)
        health.report(_READ_ONLY, f"the database is read-only: {error}", owner=owner)
    else:
        health.report(_AWAY, error, owner=owner)


def resolve_database(health: Health, *, owner: str = "") -> None:
    """Report that the database works again for `owner`."""
    for issue in (_AWAY, _READ_ONLY):
        health.resolve(issue, owner=owner)
