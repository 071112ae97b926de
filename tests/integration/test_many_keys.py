"""Every statement that takes many keys takes 40,000 of them, which is more than the driver has parameters for."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from clock import ManualClock
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.core.token import CreationRef
from service.core.vm import Vm
from service.queries import timeline
from service.storage import actions, apply_callbacks, arrays, creations, events, orphans, refreshes, submissions, vms
from service.storage.engine import begin
from service.storage.events import DeadLetter, InboxEvent
from service.storage.orphans import Suspect
from service.storage.refreshes import ListedVm
from service.storage.tables import dead_letters

MANY = 40_000
IDS = [UUID(int=number + 1) for number in range(MANY)]
NUMBERS = range(1, MANY + 1)
REFS = [CreationRef(UUID(int=1), number) for number in NUMBERS]
AT = ManualClock().now()

Statement = Callable[[AsyncConnection], Awaitable[Any]]
STATEMENTS: dict[str, Statement] = {
    "vms.lock": lambda conn: vms.lock(conn, REFS),
    "vms.by_provider_id": lambda conn: vms.by_provider_id(conn, NUMBERS),
    "creations.lock": lambda conn: creations.lock(conn, REFS),
    "creations.read": lambda conn: creations.read(conn, REFS),
    "creations.by_names": lambda conn: creations.by_names(conn, map(str, NUMBERS)),
    "orphans.by_provider_id": lambda conn: orphans.by_provider_id(conn, NUMBERS),
    "submissions.read": lambda conn: submissions.read(conn, IDS),
    "submissions.tallies": lambda conn: submissions.tallies(conn, IDS),
    "actions.of_submissions": lambda conn: actions.of_submissions(conn, IDS),
    "events.inbox_of": lambda conn: events.inbox_of(conn, REFS, limit=10),
    "events.remove_from_inbox": lambda conn: events.remove_from_inbox(conn, INBOX),
    "events.defer": lambda conn: events.defer(conn, INBOX, now=AT, longest=timedelta(seconds=1)),
    "events.record_failure": lambda conn: events.record_failure(conn, INBOX, until=AT),
    "events.insert_dead_letters": lambda conn: events.insert_dead_letters(conn, LETTERS),
    "apply_callbacks.lock_bound": lambda conn: apply_callbacks.lock_bound(conn, REFS),
    "vms.read": lambda conn: vms.read(conn, REFS),
    "vms.lock_free": lambda conn: vms.lock_free(conn, REFS),
    "refreshes.to_refresh": lambda conn: refreshes.to_refresh(conn, LISTED, now=AT),
    "refreshes.unknown_ids": lambda conn: refreshes.unknown_ids(conn, NUMBERS, at=AT),
    "refreshes.defer_refreshes": lambda conn: refreshes.defer_refreshes(conn, REFS, until=AT),
    "orphans.suspect": lambda conn: orphans.suspect(conn, [Suspect(*ref, 1) for ref in REFS], now=AT),
    "timeline": lambda conn: timeline.calls_of(conn, VM, IDS),
}
INBOX = [
    InboxEvent(
        submission_id=id_, received_at=AT, event_id=id_, creation_no=1, body=b"", attempts=0, place=f"({number},1)"
    )
    for number, id_ in zip(NUMBERS, IDS, strict=True)
]
LISTED = [ListedVm(number, "ACTIVE", "ACTIVE", None, None, None) for number in NUMBERS]
LETTERS = [
    DeadLetter(submission_id=id_, received_at=AT, event_id=id_, kind="unknown_vm", reason="a test", at=AT)
    for id_ in IDS
]
VM = Vm(
    submission_id=UUID(int=1), vm_no=1, creation_no=1, provider_id=1, flavor="f", environment="e",
    state_since=AT, created_at=AT,
)  # fmt: skip


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_takes_more_keys_than_the_driver_has_parameters(engine: AsyncEngine, name: str) -> None:
    async with begin(engine) as conn:
        await STATEMENTS[name](conn)


async def test_keys_are_matched_as_a_whole(engine: AsyncEngine) -> None:
    async with begin(engine) as conn:
        await events.insert_dead_letters(conn, LETTERS[:3])
        key = (dead_letters.c.submission_id, dead_letters.c.event_id)
        keys = [(IDS[0], IDS[0]), (IDS[1], IDS[2]), (IDS[2], IDS[2])]
        found = await conn.execute(select(func.count()).select_from(dead_letters).where(arrays.are_any(key, keys)))
        assert found.scalar_one() == 2
        none = await conn.execute(select(func.count()).select_from(dead_letters).where(arrays.are_any(key, [])))
        assert none.scalar_one() == 0
