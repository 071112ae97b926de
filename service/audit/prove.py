"""Makes the file that proves what is on record of a VM (bundle.py)."""

from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from service.audit import merkle
from service.audit.bundle import Bundle, Entry
from service.audit.note import Note, Proof
from service.core.ids import FLEET
from service.core.vm import Vm
from service.errors import NotFound
from service.storage import leaf_sql, seals
from service.storage.engine import driver
from service.storage.seals import Log

_MOVES: Final = "SELECT evidence_id FROM transitions WHERE submission_id = $1 AND vm_no = $2"
_CALLS: Final = f"""
    (submission_id = $1 AND (vm_no = $2 OR (creation_no = $3 AND vm_no IS NULL) OR provider_id = $4))
    OR (submission_id = '{FLEET}' AND call_id IN ({_MOVES}))
"""
#: Which rows of each table tell something of a VM: its submission, its number, its creation, its provider's id.
_WHICH: Final = {
    "actions": "submission_id = $1 AND (vm_no = $2 OR vm_no IS NULL)",
    "calls": _CALLS,
    "call_ends": f"(submission_id, call_id) IN (SELECT submission_id, call_id FROM calls WHERE {_CALLS})",  # noqa: S608  as above
    "events": f"submission_id = $1 AND (creation_no = $3 OR event_id IN ({_MOVES}))",
    "transitions": "submission_id = $1 AND vm_no = $2",
    "assignments": "submission_id = $1 AND vm_no = $2",
}


async def prove(conn: AsyncConnection, vm: Vm) -> Bundle:
    """A proof of every row on record that tells something of a VM. Raises `NotFound` if nothing is sealed yet."""
    log = await seals.newest(conn)
    checkpoint = await seals.latest_checkpoint(conn, log.log_id) if log else None
    if log is None or checkpoint is None:
        raise NotFound("nothing is sealed yet")
    leaves: dict[int, str] = {}
    unsealed = 0
    for table in _WHICH:
        for xact_id, key, leaf in await _rows(conn, table, vm):
            place = await _place(conn, log, table, xact_id, key, checkpoint.size)
            if place is None:
                unsealed += 1
            else:
                leaves[place] = leaf
    proofs = await _proofs(conn, log, sorted(leaves), checkpoint.note)
    about = {"submission_id": str(vm.submission_id), "vm_no": vm.vm_no, "provider_id": vm.provider_id, "name": vm.name}
    entries = [Entry(leaves[one.index], str(one)) for one in proofs]
    return Bundle(about, await seals.keys_of(conn, log.log_id), entries, unsealed)


async def _rows(conn: AsyncConnection, table: str, vm: Vm) -> list[Any]:
    sql = leaf_sql.of(table)
    statement = f"""
        WITH vm (s, n, c, p) AS (VALUES ($1::uuid, $2::int, $3::int, $4::bigint))
        SELECT xact_id, {sql.key_text}, {sql.leaf} FROM {table}
        WHERE {_WHICH[table]} ORDER BY {", ".join(sql.key)}
    """  # noqa: S608  constants of ours
    return await (await driver(conn)).fetch(statement, vm.submission_id, vm.vm_no, vm.creation_no, vm.provider_id)


async def _place(conn: AsyncConnection, log: Log, table: str, xact_id: int, key: str, size: int) -> int | None:
    """The leaf of a row, below `size`."""
    for seal in await seals.seals_with(conn, log.log_id, table, xact_id, below=size):
        lines = seal.key_lines
        if key in lines:
            return seal.first_leaf + lines.index(key)
    return None


async def _proofs(conn: AsyncConnection, log: Log, leaves: list[int], note: str) -> list[Proof]:
    size = Note.parse(note).checkpoint.size
    paths = {leaf: merkle.path_ranges(leaf, size) for leaf in leaves}
    needed = merkle.tiles_needed(one for path in paths.values() for one in path)
    tiles = await seals.read_tiles(conn, log.log_id, needed)
    return [
        Proof(leaf, tuple(merkle.root_in(tiles, start, end) for start, end in path), note)
        for leaf, path in paths.items()
    ]
