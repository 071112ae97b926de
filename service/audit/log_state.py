"""The state of the log: how far it has come, and whether its last checkpoint is signed and is of the hashes that are stored.

That is a small part of what `verify` does: no row is read, and no checkpoint but the last.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from service.audit import merkle
from service.audit.note import Note, VerifierKey
from service.errors import NotFound, ProofInvalid
from service.storage import seals
from service.storage.seals import StoredCheckpoint

#: `unsigned`: by none of the log's keys. `contradicted`: the stored hashes have another root.
Found = Literal["as signed", "unsigned", "contradicted", "damaged"]


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """The last checkpoint that was signed, and what a look at it found."""

    size: int
    signed_at: datetime
    published_at: datetime | None
    note: str
    found: Found


class LogState(Struct, frozen=True):
    """The newest log: its leaves, its verifier keys, and its last checkpoint."""

    log_id: UUID
    origin: str
    begun_at: datetime
    reason: str
    size: int
    keys: list[str]
    checkpoint: CheckpointState | None
    issue: str | None  #: why this daemon seals nothing, if it does not


async def state(conn: AsyncConnection, *, issue: str | None) -> LogState:
    """The state of the newest log. Raises `NotFound` if there is none."""
    log = await seals.newest(conn)
    if log is None:
        raise NotFound("nothing is sealed yet")
    keys = await seals.keys_of(conn, log.log_id)
    last = await seals.latest_checkpoint(conn, log.log_id)
    checkpoint = None
    if last is not None:
        found = await _found(conn, last, keys)
        checkpoint = CheckpointState(last.size, last.signed_at, last.published_at, last.note, found)
    return LogState(log.log_id, log.origin, log.begun_at, log.reason, log.size, list(keys), checkpoint, issue)


async def _found(conn: AsyncConnection, last: StoredCheckpoint, keys: list[str]) -> Found:
    try:
        note = Note.parse(last.note)
        signed = note.signed_by(map(VerifierKey.parse, keys))
    except ProofInvalid:
        return "damaged"
    if not signed:
        return "unsigned"
    if note.checkpoint.size != last.size:
        return "contradicted"
    tiles = await seals.read_tiles(conn, last.log_id, merkle.tiles_needed([(0, last.size)]))
    root = _root(tiles, last.size)
    return "as signed" if root == note.checkpoint.root else "contradicted"


def _root(tiles: merkle.Tiles, size: int) -> bytes | None:
    try:
        return merkle.root_in(tiles, 0, size)
    except (KeyError, IndexError):
        return None  # a tile is missing
