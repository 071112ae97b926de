"""Reads the record for an export, as lines of JSON, in pages: memory stays flat, and secrets are struck out.

A row has the columns of its table, as in its leaf (docs/reference/proof.md). What holds a callback token has it cut; if
that changes something that was sealed, the row also has the hash of its leaf, so that it can still be found in the log.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from itertools import chain, count
from typing import Any, Final

import orjson
from msgspec.structs import asdict
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.audit.export_formats import BODY_ENCODING, LEAF_HASH, STRUCK_OUT
from service.audit.export_tables import COSTS, LOG, RECORD, Selection, statement
from service.audit.leaf import Raw, leaf_of
from service.audit.merkle import leaf_hash
from service.core.token import redact, redact_bytes
from service.queries import cost
from service.queries.cost import Period
from service.runtime.cpu import GivingWay
from service.storage import leaf_sql, partitions, seals, unsealed
from service.storage.engine import begin, cursor, driver
from service.storage.leaf_sql import LEFT_OUT, SEALED
from service.storage.tables import metadata

#: Rows, and bytes of them, that are fetched at once, and of which lines are made without a pause: less than a millisecond.
_ROWS, _BYTES = 250, 4_000_000
#: The same while others have work: neither they nor Postgres, which works for them too, are held up.
_ROWS_BESIDE: Final = 50
#: Pages until it is looked again whether others have work.
_LOOK: Final = 4
#: VMs whose cost is read at once.
_COSTS_AT_ONCE: Final = 1000
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SHORTEST_TOKEN: Final = b"h" * 70
#: Maps every hexadecimal digit to one letter, so that a search for a run of them is fast.
_DIGITS: Final = bytes(ord("h") if chr(one) in "0123456789abcdefABCDEF" else ord(" ") for one in range(256))


async def begin_export(conn: AsyncConnection) -> dict[str, Any]:
    """What an export begun now is of: its snapshot, the log that it is verified with, and its tables.

    `snapshot` is null if the record was restored from another server, which counted transactions differently.
    """
    log = await seals.newest(conn)  # before the snapshot, so that the rows of the log are all seen
    highest = [await _highest(conn, table) for table in SEALED]
    snapshot = await unsealed.snapshot(conn)
    return {
        "snapshot": str(snapshot) if max(highest) < snapshot.xmax else None,
        "server": await unsealed.server_identifier(conn),
        "log": None if log is None else asdict(log),
        "tables": list(RECORD),
    }


async def _highest(conn: AsyncConnection, table: str) -> int:
    found = await (await driver(conn)).fetchval(f"SELECT max(xact_id) FROM {table}")  # noqa: S608  our own names
    return found or 0


async def pages(
    engine: AsyncEngine, table: str, which: Selection, *, after: Sequence[Any] | None, others: GivingWay | None = None
) -> AsyncIterator[list[bytes]]:
    """The rows of a table as lines of NDJSON, in pages, in one transaction. `after` is the place of the last row seen.

    Rests after each page, for what was worked in `others` too.
    """
    others = others or GivingWay()
    if table == COSTS:
        async for some in _costs(engine, which, None if after is None else str(after[0]), others):
            yield some
            await others.rest()
        return
    async with begin(engine) as conn:
        relations = [table, *(await partitions.apart(conn) if table == "events" else [])]
        query = statement(table, which, after, relations)
        rows = await cursor(conn, query.text, *query.values)
        page = await rows.fetch(_ROWS)
        for number in count():
            if not page:
                break
            size = sum(len(value) for row in page for value in row) / len(page)
            fetch = partial(rows.fetch, max(1, min(_ROWS_BESIDE if others.busy else _ROWS, int(_BYTES / size))))
            following = None
            # What is read meanwhile would pass for work of others, so that they are looked for where nothing is.
            if not others.busy and number % _LOOK:
                following = asyncio.ensure_future(fetch())
                await asyncio.sleep(0)  # it is sent, and Postgres works meanwhile
            try:
                with others.work():
                    lines = lines_of(table, page)
                yield lines
            finally:
                if following is not None:
                    page = await following
            if following is None:
                await others.rest()
                with others.work() if others.busy else nullcontext():  # Postgres has as much of it
                    page = await fetch()


async def _costs(
    engine: AsyncEngine, which: Selection, after: str | None, others: GivingWay
) -> AsyncIterator[list[bytes]]:
    until = which.until or datetime.now(UTC)
    async with begin(engine) as conn:
        unit = await cost.currency(conn, at=until)
    period = Period(since=which.since or _BEGINNING, until=until, submission_id=which.submission_id, currency=unit)
    while True:
        async with begin(engine) as conn:
            found = await cost.page(conn, period, by="vm", after=after, limit=_COSTS_AT_ONCE)
        if not found:
            return
        with others.work():
            lines = [orjson.dumps(_cost_row(row) | {"currency": unit}) + b"\n" for row in found]
        yield lines
        after = found[-1].key


def _cost_row(row: cost.CostRow) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in row.__slots__}
    return {name: value if isinstance(value, int | str) else f"{value:f}" for name, value in values.items()}


def lines_of(table: str, rows: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Rows, as `statement` reads them, as lines of NDJSON without callback tokens."""
    in_log = table in LOG  # it has long hashes, and no secrets
    if in_log or not _may_hold_token(b"".join(chain.from_iterable(rows))):
        return [_line(*row) for row in rows]
    return [_struck(table, *row) if _may_hold_token(b"".join(row)) else _line(*row) for row in rows]


def _line(members: bytes, body: bytes | None = None) -> bytes:
    if body is None:
        return b"{%b}\n" % members
    try:
        text, encoding = body.decode(), b"utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(body).decode(), b"base64"
    return b'{%b,"body":%b,"%b":"%b"}\n' % (members, orjson.dumps(text), BODY_ENCODING.encode(), encoding)


def _may_hold_token(data: bytes) -> bool:
    return _SHORTEST_TOKEN in data.translate(_DIGITS)


def _struck(table: str, members: bytes, body: bytes | None = None) -> bytes:
    """A row's line without callback tokens; it says in which columns something was struck out."""
    line = _line(members, body)
    shown = _line(redact(members.decode()).encode(), None if body is None else redact_bytes(body))
    row, rest = json.loads(line), json.loads(shown)
    changed = sorted(name for name in row if rest[name] != row[name])
    if not changed:
        return line
    also: dict[str, Any] = {STRUCK_OUT: changed}
    if table in SEALED and any((table, name) not in LEFT_OUT for name in changed):
        also[LEAF_HASH] = hash_of(table, row).hex()
    return shown.removesuffix(b"}\n") + b"," + orjson.dumps(also)[1:] + b"\n"


def hash_of(table: str, row: Mapping[str, Any]) -> bytes:
    """The hash of the leaf of a row, from its values as an export has them."""
    values = {name: value_of(table, name, row.get(name)) for name in leaf_sql.of(table).columns}
    return leaf_hash(leaf_of(table, values))


def value_of(table: str, name: str, value: Any) -> Any:
    """A value as the leaf has it, from an export's JSON."""
    if value is None:
        return None
    if isinstance(metadata.tables[table].c[name].type, TIMESTAMP):
        return datetime.fromisoformat(value)
    return Raw(value) if name == "value" else value  # numbers that JSON would round


def body_matches(row: Mapping[str, Any]) -> bool:
    """Whether the body of an exported event is what its digest says."""
    body: bytes = row["body"].encode() if row[BODY_ENCODING] == "utf-8" else base64.b64decode(row["body"])
    return sha256(body).hexdigest() == str(row["digest"])
