"""Reads the record for an export, as lines of JSON, in pages: memory stays flat, and secrets are struck out.

A row has the columns of its table, as in its leaf (docs/reference/proof.md). What holds a callback token has it cut; if
that changes something that was sealed, the row also has the hash of its leaf, so that it can still be found in the log.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

import orjson
from msgspec.structs import asdict
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.types import Numeric

from service.audit.export_formats import BODY_ENCODING, LEAF_HASH, STRUCK_OUT
from service.audit.export_tables import COSTS, LOG, RECORD, Selection, columns_of, statement
from service.audit.leaf import Raw, leaf_of
from service.audit.merkle import leaf_hash
from service.core.planning import batched
from service.core.token import redact
from service.queries import cost
from service.queries.cost import Period
from service.runtime.cpu import GivingWay
from service.storage import leaf_sql, partitions, seals, unsealed
from service.storage.engine import begin, cursor, driver
from service.storage.leaf_sql import LEFT_OUT, SEALED
from service.storage.tables import metadata

#: Values of rows of which lines are made without a pause: a millisecond.
_VALUES: Final = 1200
#: So many times as many are fetched at once: a fetch costs a round trip.
_PARTS: Final = 8
#: VMs whose cost is read at once.
_COSTS_AT_ONCE: Final = 1000
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
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
        at_once = _VALUES // len(columns_of(table))
        page = await rows.fetch(_PARTS * at_once)
        while page:
            following = asyncio.ensure_future(rows.fetch(_PARTS * at_once))  # Postgres works meanwhile
            for part in batched(page, at_once):
                with others.work():
                    lines = lines_of(table, part)
                try:
                    yield lines
                finally:
                    await following  # before the rest, to which it would be somebody's work
                await others.rest()
            page = following.result()


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


def lines_of(table: str, read: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """Rows, as they were read, as lines of NDJSON without callback tokens."""
    rows = [dict(row) for row in read]
    struck = [_show_body(row) for row in rows] if table == "events" else [False] * len(rows)
    jsonb = _jsonb(table)
    lines = [_line(row, jsonb) for row in rows]
    if table in LOG:  # long hashes, and no secrets
        return lines
    if not any(struck) and _SHORTEST_TOKEN not in b"".join(lines).translate(_DIGITS):
        return lines
    return [
        _line(_struck(table, dict(row)), jsonb) if was_struck or _SHORTEST_TOKEN in line.translate(_DIGITS) else line
        for row, line, was_struck in zip(read, lines, struck, strict=True)
    ]


def _line(row: dict[str, Any], jsonb: Sequence[str]) -> bytes:
    """A row as its line. What the row has as text of JSON is then no text any more."""
    for name in jsonb:
        if row[name] is not None:
            row[name] = orjson.Fragment(row[name])
    return orjson.dumps(row, option=_OPTIONS)


def _show_body(row: dict[str, Any]) -> bool:
    """Make the body text; whether something was struck out of what is not UTF-8."""
    body: bytes = row["body"]
    try:
        row["body"], row[BODY_ENCODING] = body.decode(), "utf-8"
    except UnicodeDecodeError:
        # Latin-1 maps each byte to a character: tokens are found, and all other bytes survive.
        redacted = redact(body.decode("latin-1")).replace("…", "...").encode("latin-1")
        row["body"], row[BODY_ENCODING] = base64.b64encode(redacted).decode(), "base64"
        return redacted != body
    return False


def _struck(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row without callback tokens; it says in which columns something was struck out."""
    body_struck = table == "events" and _show_body(row)
    redacted = {name: redact(value) if isinstance(value, str) else value for name, value in row.items()}
    changed = [name for name in row if redacted[name] != row[name]]
    if body_struck:
        changed.append("body")
    if not changed:
        return row
    redacted[STRUCK_OUT] = sorted(changed)
    if table in SEALED and any((table, name) not in LEFT_OUT for name in changed):
        redacted[LEAF_HASH] = _leaf_hash(table, row).hex()
    return redacted


def _leaf_hash(table: str, row: dict[str, Any]) -> bytes:
    return leaf_hash(leaf_of(table, leaf_values(table, row)))


def leaf_values(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """The values of a row's leaf, from its values as the export reads them."""
    columns = metadata.tables[table].c
    return {
        name: Raw(row[name]) if row[name] is not None and isinstance(columns[name].type, JSONB | Numeric) else row[name]
        for name in leaf_sql.of(table).columns
    }


def body_matches(row: dict[str, Any]) -> bool:
    """Whether the body of an exported event is what its digest says."""
    body: bytes = row["body"].encode() if row[BODY_ENCODING] == "utf-8" else base64.b64decode(row["body"])
    return sha256(body).hexdigest() == str(row["digest"])


def _jsonb(table: str) -> tuple[str, ...]:
    return tuple(name for name in columns_of(table) if isinstance(metadata.tables[table].c[name].type, JSONB))
