"""What every question about the past is checked for: its times, and the submission that it is about."""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import FieldError, Invalid, NotFound
from service.storage import submissions

_DEFAULT_PERIOD: Final = timedelta(days=30)
#: The earliest moment that there is.
_FIRST: Final = datetime.min.replace(tzinfo=UTC)


def check_times(now: datetime, **times: datetime | None) -> None:
    """Raise `Invalid` for every time that is in the future."""
    wrong = [
        FieldError(name, "is in the future; nothing is on record yet")
        for name, time in times.items()
        if time is not None and time > now
    ]
    if wrong:
        raise Invalid(wrong)


def check_period(now: datetime, *, since: datetime | None, until: datetime | None, end: datetime) -> None:
    """Raise `Invalid` for a period that is wrong. `end` is when it ends if `until` was left out."""
    check_times(now, since=since, until=until)
    if since is not None and since >= end:
        raise Invalid([FieldError("since", "must be before the end of the period")])


def period_of(now: datetime, *, since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    """When a period begins and ends: it ends now if `until` was left out, and is 30 days long if `since` was.

    Raises `Invalid` as `check_period` does.
    """
    end = until or now
    check_period(now, since=since, until=until, end=end)
    return since or end - min(_DEFAULT_PERIOD, end - _FIRST), end


async def require_submission(conn: AsyncConnection, submission_id: UUID | None) -> None:
    """Raise `NotFound` for an id that names none: a mistyped one would give an empty result, which would be believed."""
    if submission_id and await submissions.get(conn, submission_id) is None:
        raise NotFound(f"there is no submission {submission_id}")
