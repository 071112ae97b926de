"""Seals what was appended to the record, signs it, and publishes the checkpoint; one daemon at a time."""

from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID

from service.audit import publish, seal
from service.errors import LeaseLost, SealingStopped
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.runtime.scheduled_runs import ClaimedRun, claim
from service.storage import scheduled_jobs, seals
from service.storage.engine import begin, transact

_JOB: Final = "seal"
_UNPUBLISHED: Final = "checkpoints not published"
#: Extended while pages of rows are sealed, so that a daemon that was killed does not hold others up.
_LEASE: Final = timedelta(seconds=15)
#: Seconds between two extensions: each is a commit.
_EXTENDED_EVERY: Final = 2.0
#: Checkpoints to publish in a run, if the place was away.
_AT_ONCE: Final = 100


async def run_once(rt: Runtime) -> int:
    """Seal everything that is committed, sign and publish. Returns how many rows were sealed."""
    token = await claim(rt, _JOB, lease=_LEASE)
    if token is None:
        return 0
    async with ClaimedRun(rt, _JOB, token):
        return await _run(rt, token)


async def _run(rt: Runtime, token: UUID) -> int:
    extended_at = rt.clock.monotonic()

    async def extend() -> None:
        nonlocal extended_at
        if rt.clock.monotonic() - extended_at < _EXTENDED_EVERY:
            return
        extended_at = rt.clock.monotonic()
        until = rt.clock.now() + _LEASE
        if not await transact(rt.engine, lambda conn: scheduled_jobs.extend_if_leased(conn, _JOB, token, until=until)):
            raise LeaseLost("the sealing of the record")

    rows = 0
    try:
        rows = await seal.seal(rt, extend)
        rt.health.resolve(seal.STOPPED)
        await _publish(rt)
    except SealingStopped as error:
        rt.health.report(seal.STOPPED, str(error), severity="error")
    except LeaseLost:
        return rows
    now = rt.clock.now()
    due_at = now + timedelta(seconds=rt.settings.seal_interval_seconds)
    await transact(rt.engine, lambda conn: scheduled_jobs.complete_if_leased(conn, _JOB, token, now=now, due_at=due_at))
    return rows


async def run_at_stop(rt: Runtime) -> None:
    """Seal what is not sealed yet although it is not due."""
    await transact(rt.engine, lambda conn: scheduled_jobs.bring_forward(conn, _JOB, now=rt.clock.now()))
    await run_once(rt)


async def _publish(rt: Runtime) -> None:
    """Publish the checkpoints that are not published yet, in their order."""
    async with begin(rt.engine) as conn:
        log = await seals.newest(conn)
        waiting = await seals.unpublished(conn, log.log_id, limit=_AT_ONCE) if log else []
    try:
        for one in waiting:
            await publish.publish(rt.settings, one.note, day=f"{one.signed_at:%Y-%m-%d}")
            await transact(rt.engine, partial(seals.mark_published, checkpoint=one, now=rt.clock.now()))
        rt.health.resolve(_UNPUBLISHED)
    except OSError as error:
        rt.health.report(_UNPUBLISHED, f"a checkpoint cannot be published: {error}")
        logger().error("a checkpoint cannot be published", action="seal", outcome="put off", error=str(error))
