"""Replay of dead letters: an event that could not be applied is queued again, such as after an upgrade."""

from datetime import datetime
from functools import partial
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import NotFound
from service.queries import events as event_queries
from service.queries.events import EventSummary
from service.runtime.runtime import Runtime
from service.storage import actions, events
from service.storage.actions import Action
from service.storage.engine import transact


async def replay(rt: Runtime, event_id: UUID, *, caller: str) -> None:
    """Queue a dead letter again; who did it goes on record. Raises `NotFound` if it is none, or was dropped."""
    await transact(rt.engine, partial(_replay, rt, event_id, caller))
    rt.events_stored.set()


async def _replay(rt: Runtime, event_id: UUID, caller: str, conn: AsyncConnection) -> None:
    now = rt.clock.now()
    found = await event_queries.find(conn, event_id)
    if found is None or not await events.requeue_dead_letter(conn, _key(found.event), now=now):
        raise NotFound(f"event {event_id} is not a dead letter whose body is still in the database")
    action = Action(
        submission_id=found.event.submission_id,
        action_id=rt.uuid(),
        kind="replay",
        caller=caller,
        at=now,
        detail=f"event {event_id}",
    )
    await actions.insert(conn, action)


def _key(event: EventSummary) -> tuple[UUID, datetime, UUID]:
    return event.submission_id, event.received_at, event.event_id
