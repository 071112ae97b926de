"""What every question about the past is checked for: its times, and the submission that it is about."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import FieldError, Invalid, NotFound
from service.storage import submissions


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


async def require_submission(conn: AsyncConnection, submission_id: UUID | None) -> None:
    """Raise `NotFound` for an id that names none: a mistyped one would give an empty result, which would be believed."""
    if submission_id and await submissions.get(conn, submission_id) is None:
        raise NotFound(f"there is no submission {submission_id}")
