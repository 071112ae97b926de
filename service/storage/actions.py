"""The table `actions`: what callers requested, and when. Append-only."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.arrays import is_any
from service.storage.rows import from_rows, insert_many
from service.storage.tables import actions


class Action(Struct, frozen=True):
    """One row of `actions`. `vm_no` is None if it is about the whole submission.

    What is about no submission has the `submission_id` `FLEET`: changes of tokens, and who exported, read with an audit
    token, or was refused.
    """

    submission_id: UUID
    action_id: UUID
    kind: Literal[
        "submit", "delete", "cancel", "replay", "change", "limit", "import", "attach", "release", "token", "export", "read",
        "refused",
    ]  # fmt: skip
    caller: str
    at: datetime
    vm_no: int | None = None
    detail: str | None = None  # what else there is to say, such as the event that was replayed


async def insert(conn: AsyncConnection, asked: Action) -> None:
    """Insert an action, in the transaction that carries it out."""
    await insert_many(conn, actions, [asked])


async def insert_once(conn: AsyncConnection, noted: Action) -> None:
    """Insert an action unless one with its id is on record; another daemon may have been first."""
    await insert_many(conn, actions, [noted], or_ignore=True)


async def of_submissions(conn: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, list[Action]]:
    """The actions on each submission as a whole, oldest first; not those on single VMs, which may be thousands."""
    rows = await conn.execute(
        select(actions)
        .where(is_any(actions.c.submission_id, ids), actions.c.vm_no.is_(None))
        .order_by(actions.c.at, actions.c.action_id)
    )
    found: dict[UUID, list[Action]] = {id_: [] for id_ in ids}
    for one in await from_rows(Action, rows):
        found[one.submission_id].append(one)
    return found
