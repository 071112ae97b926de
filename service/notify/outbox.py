"""Makes messages of notices, for each target that wants them, and writes health issues down so that they are told too."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from functools import partial
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.ids import FLEET
from service.core.notices import About, Notice, NoticeGroup, grouped
from service.errors import LeaseLost
from service.notify_rules import TEST, NotifyTarget, wanted_kinds, with_built_in
from service.operations import notify_url
from service.runtime.runtime import Runtime
from service.runtime.scheduled_runs import ClaimedRun, claim
from service.storage import health_issues, messages, notices, scheduled_jobs, submissions
from service.storage.engine import transact
from service.storage.messages import Message
from service.storage.submissions import Submission

JOB: Final = "notify"
_CLEANING: Final = "notify cleaning"
_LEASE: Final = timedelta(seconds=60)
#: Notices of one transaction.
_AT_ONCE: Final = 2000
_CLEANED: Final = 5000
_HOUR: Final = timedelta(hours=1)
#: An issue that no daemon has reported for so long is over.
_GONE: Final = timedelta(seconds=90)
#: Failures in a row that make a target a health issue.
_FAILING: Final = 5
_ISSUE: Final = "notifications"
_NAMED: Final = 3


class _Claimed(Enum):
    NOTHING = auto()
    FIRST = auto()  #: the first notice for a while: others may follow, so a window opens
    WINDOW_OVER = auto()


@dataclass(frozen=True, slots=True)
class _Draft:
    """A message without its number."""

    target: str
    lane: str
    group: NoticeGroup


async def prepare(rt: Runtime) -> None:
    """From now on notices are written of what the settings want."""
    await transact(rt.engine, partial(notices.set_wanted, kinds=wanted_kinds(with_built_in(rt.settings.notify))))


async def group(rt: Runtime) -> int:
    """Make messages of the notices, a window after the first of them. Returns how many notices there were."""
    token = rt.uuid()
    claimed = await transact(rt.engine, partial(_claim, rt, token))
    if claimed is _Claimed.NOTHING:
        return 0
    async with ClaimedRun(rt, JOB, token):
        return await _group_all(rt, token, claimed)


async def _group_all(rt: Runtime, token: UUID, claimed: _Claimed) -> int:
    window = timedelta(seconds=rt.settings.notify_window_seconds if claimed is _Claimed.FIRST else 0.0)
    done = 0
    try:
        while claimed is _Claimed.WINDOW_OVER:
            some = await transact(rt.engine, partial(_group, rt, token))
            done += some
            if some < _AT_ONCE:
                break
    except LeaseLost:
        return done
    now = rt.clock.now()
    await transact(
        rt.engine, lambda conn: scheduled_jobs.complete_if_leased(conn, JOB, token, now=now, due_at=now + window)
    )
    return done


async def _claim(rt: Runtime, token: UUID, conn: AsyncConnection) -> _Claimed:
    """Lease the job if there are notices. It is due later than it was done while a window is open."""
    if not await notices.any_left(conn):
        return _Claimed.NOTHING
    if not await scheduled_jobs.claim(conn, JOB, now=rt.clock.now(), lease=_LEASE, token=token):
        return _Claimed.NOTHING
    return _Claimed.WINDOW_OVER if await scheduled_jobs.was_deferred(conn, JOB) else _Claimed.FIRST


async def _group(rt: Runtime, token: UUID, conn: AsyncConnection) -> int:
    now = rt.clock.now()
    taken = await notices.take(conn, limit=_AT_ONCE)
    if taken:
        await messages.insert(conn, await _messages(rt, conn, taken, now), now=now)
    if not await scheduled_jobs.extend_if_leased(conn, JOB, token, until=now + _LEASE):
        raise LeaseLost("the grouping of notices")
    return len(taken)


async def _messages(rt: Runtime, conn: AsyncConnection, taken: Sequence[Notice], now: datetime) -> list[Message]:
    found = await submissions.read(conn, [one.submission_id for one in taken])
    groups = grouped(taken, {id_: _about(one) for id_, one in found.items()})
    return await number(rt, conn, [one for some in groups for one in _drafts(rt, some, found)], now)


def _about(found: Submission) -> About:
    return About(found.submission_id, found.name, found.spec.get("labels") or ())


def _drafts(rt: Runtime, group_: NoticeGroup, found: Mapping[UUID, Submission]) -> Iterator[_Draft]:
    """The group for each target that wants it."""
    labels = group_.about.labels if group_.about else ()
    for target in with_built_in(rt.settings.notify):
        if target.wants(group_.kind, labels):
            yield draft(target, group_)
    submission = found.get(group_.submission_id)
    if submission is not None and submission.notify is not None:
        # By host: one that hangs holds one slot, whatever number of submissions name it.
        lane = f"host {submission.notify['shown'].split('/')[2]}"
        yield _Draft(notify_url.TARGET, lane, group_)


def draft(target: NotifyTarget, group_: NoticeGroup) -> _Draft:
    return _Draft(target.name, lane_of(target), group_)


def lane_of(target: NotifyTarget) -> str:
    """What is delivered one after the other with the messages of a target."""
    return f"target {target.name}"


async def number(rt: Runtime, conn: AsyncConnection, drafts: Sequence[_Draft], now: datetime) -> list[Message]:
    """The messages of drafts, each with the next number of its target and submission."""
    counts = Counter((one.group.submission_id, one.target) for one in drafts)
    numbers = await messages.next_numbers(conn, counts)
    made = []
    for one in drafts:
        key = (one.group.submission_id, one.target)
        seq, numbers[key] = numbers[key], numbers[key] + 1
        made.append(_message(rt, one, seq, now))
    return made


def _message(rt: Runtime, one: _Draft, seq: int, now: datetime) -> Message:
    return Message(
        submission_id=one.group.submission_id,
        target=one.target,
        seq=seq,
        message_id=rt.uuid(),
        lane=one.lane,
        kind=one.group.kind,
        text=one.group.text(),
        body=one.group.body(seq=seq, at=now),
        created_at=now,
        due_at=now,
        give_up_at=now + timedelta(seconds=rt.settings.notify_give_up_seconds),
    )


async def send_test(rt: Runtime, target: NotifyTarget, *, caller: str) -> UUID:
    """Write a message to a target, whatever its rules are. Returns its id."""
    now = rt.clock.now()
    notice = Notice(FLEET, 0, TEST, now, detail=f"asked for by {caller}")

    async def write(conn: AsyncConnection) -> UUID:
        made = await number(rt, conn, [draft(target, NoticeGroup(TEST, [notice]))], now)
        await messages.insert(conn, made, now=now)
        await messages.wake(conn, [made[0].lane], now=now, failing=True)
        return made[0].message_id

    return await transact(rt.engine, write)


async def tell_health(rt: Runtime) -> None:
    """Write down our health issues, and report targets that keep failing."""
    now = rt.clock.now()
    if rt.health_saved_since is None:
        rt.health_saved_since = now
    # What was reported before we started is ours to report again, as soon as we know.
    gone = now - _GONE if now - rt.health_saved_since > _GONE else rt.health_saved_since - timedelta(days=36500)
    save = partial(health_issues.save, issues=rt.health.issues, now=now, gone_before=gone)
    await transact(rt.engine, save)
    failing = await transact(rt.engine, partial(messages.failing, failures=_FAILING, limit=_NAMED + 1))
    if failing:
        some = "; ".join(f"{one.lane}: {one.failures} failures in a row, {one.error}" for one in failing[:_NAMED])
        more = "; and more" if len(failing) > _NAMED else ""
        rt.health.report(_ISSUE, f"messages wait for {some}{more}", owner=JOB, advisory=True)
    else:
        rt.health.resolve(_ISSUE, owner=JOB)


async def clean(rt: Runtime) -> None:
    """Delete what is old, every hour."""
    token = await claim(rt, _CLEANING, lease=_LEASE)
    if token is None:
        return
    async with ClaimedRun(rt, _CLEANING, token, part_of=JOB):
        await _clean(rt, token)


async def _clean(rt: Runtime, token: UUID) -> None:
    now = rt.clock.now()
    before = now - timedelta(seconds=rt.settings.notify_keep_seconds)
    deleted = await transact(rt.engine, partial(messages.forget, before=before, limit=_CLEANED))
    due_at = now if deleted == _CLEANED else now + _HOUR
    await transact(
        rt.engine, lambda conn: scheduled_jobs.complete_if_leased(conn, _CLEANING, token, now=now, due_at=due_at)
    )
