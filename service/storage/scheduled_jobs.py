"""The table `scheduled_jobs`: periodic work for the whole fleet, done by one daemon at a time."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.tables import scheduled_jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRun:
    """A run of a scheduled job that failed, and had the lease `token`; without `due_at` the job is still due."""

    part_of: str  #: the job of the daemon that ran it
    token: UUID
    at: datetime
    due_at: datetime | None


async def claim(conn: AsyncConnection, job: str, *, now: datetime, lease: timedelta, token: UUID) -> bool:
    """Lease a job to `token` if it is due. Returns whether it was. A job without a row is due at once."""
    await conn.execute(insert(scheduled_jobs).values(job=job, due_at=now).on_conflict_do_nothing())
    done = await conn.execute(
        update(scheduled_jobs)
        .where(scheduled_jobs.c.job == job, scheduled_jobs.c.due_at <= now)
        .where(or_(scheduled_jobs.c.lease_token.is_(None), scheduled_jobs.c.lease_until < now))
        .values(lease_token=token, lease_until=now + lease)
    )
    return done.rowcount > 0


async def extend_if_leased(conn: AsyncConnection, job: str, token: UUID, *, until: datetime) -> bool:
    """Extend a lease until `until`. Returns whether `token` still had it."""
    done = await conn.execute(
        update(scheduled_jobs)
        .where(scheduled_jobs.c.job == job, scheduled_jobs.c.lease_token == token)
        .values(lease_until=until)
    )
    return done.rowcount > 0


async def complete_if_leased(conn: AsyncConnection, job: str, token: UUID, *, now: datetime, due_at: datetime) -> bool:
    """Record that a job was done, and when it is due again. Returns whether `token` still had the lease."""
    done = await conn.execute(
        update(scheduled_jobs)
        .where(scheduled_jobs.c.job == job, scheduled_jobs.c.lease_token == token)
        .values(lease_token=None, lease_until=None, done_at=now, due_at=due_at)
    )
    return done.rowcount > 0


async def release_if_leased(conn: AsyncConnection, job: str, run: FailedRun) -> None:
    """Give back the lease of a run that failed, if it still has it."""
    due = {} if run.due_at is None else {"due_at": run.due_at}
    await conn.execute(
        update(scheduled_jobs)
        .where(scheduled_jobs.c.job == job, scheduled_jobs.c.lease_token == run.token)
        .values(lease_token=None, lease_until=None, **due)
    )


async def was_done_since(conn: AsyncConnection, job: str, at: datetime) -> bool:
    """Whether a job was done after a moment, by any daemon."""
    found = await conn.execute(select(scheduled_jobs.c.done_at > at).where(scheduled_jobs.c.job == job))
    return bool(found.scalar())


async def was_deferred(conn: AsyncConnection, job: str) -> bool:
    """Whether a job was to be done later than it was done last."""
    found = await conn.execute(
        select(scheduled_jobs.c.due_at > scheduled_jobs.c.done_at).where(scheduled_jobs.c.job == job)
    )
    return bool(found.scalar())


async def bring_forward(conn: AsyncConnection, job: str, *, now: datetime) -> None:
    """Make a job due now, if it is not yet."""
    await conn.execute(
        update(scheduled_jobs).where(scheduled_jobs.c.job == job, scheduled_jobs.c.due_at > now).values(due_at=now)
    )


async def write_probe(conn: AsyncConnection, *, now: datetime) -> None:
    """Write a row without meaning. Raises `StorageUnavailable` if the database is read-only."""
    probe = insert(scheduled_jobs).values(job="write check", due_at=now)
    await conn.execute(probe.on_conflict_do_update(constraint="scheduled_jobs_pkey", set_={"due_at": now}))
