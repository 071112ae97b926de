"""Replay of messages: one that was not delivered, or was lost at its target, is delivered again."""

from datetime import timedelta
from functools import partial
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import NotAllowed, NotFound
from service.runtime.runtime import Runtime
from service.storage import actions, messages
from service.storage.actions import Action
from service.storage.engine import transact
from service.storage.messages import Message


async def find(conn: AsyncConnection, message_id: UUID) -> Message:
    """A message. Raises `NotFound`."""
    found = await messages.find(conn, message_id)
    if found is None:
        raise NotFound(f"there is no message {message_id}; messages are deleted after ROLLCALL_NOTIFY_KEEP_SECONDS")
    return found


async def replay(rt: Runtime, message_id: UUID, *, caller: str) -> None:
    """Deliver a message again; who did it goes on record. Raises `NotFound`, or `NotAllowed` if it still waits."""
    await transact(rt.engine, partial(_replay, rt, message_id, caller))


async def _replay(rt: Runtime, message_id: UUID, caller: str, conn: AsyncConnection) -> None:
    now = rt.clock.now()
    found = await find(conn, message_id)
    give_up_at = now + timedelta(seconds=rt.settings.notify_give_up_seconds)
    if not await messages.replay(conn, found, now=now, give_up_at=give_up_at):
        raise NotAllowed("the message waits to be delivered; it needs no replay")
    await actions.insert(
        conn,
        Action(
            submission_id=found.submission_id,
            action_id=rt.uuid(),
            kind="replay",
            caller=caller,
            at=now,
            detail=f"message {message_id} to {found.target}",
        ),
    )
