"""Verifies the record: every row against the log, the log against its signed checkpoints, and those against published ones.

It goes through rows and seals side by side, both in the order of their transactions, so that memory stays flat. What has
the rows is a `SealedRecord`: a database (live.py), or an export. It shares no code with what seals, but the formats.
"""

import re
import zlib
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from service.audit.findings import Discrepancy, Report, moment, named
from service.audit.leaf import log_leaf, seal_leaf
from service.audit.live import Row
from service.audit.merkle import HEIGHT, TileId, Tiles, leaf_hash
from service.audit.note import VerifierKey
from service.audit.signatures import Signed, read_checkpoints, trusted
from service.audit.tree_check import LeafHashes, TreeCheck, check_tree
from service.storage.leaf_sql import SEALED
from service.storage.seals import DroppedMonth, Log, Seal, StoredCheckpoint, XactSnapshot

#: A row that was sealed this long after the time that it claims is named.
LATE: Final = timedelta(hours=1)
#: Rows that are kept to be explained at the end; more of them are only counted.
_MOST: Final = 10_000


class SealedRecord(Protocol):
    """What verification reads: rows by transaction and key, and the log."""

    log: Log
    sealed: XactSnapshot | None  #: every row that it shows is sealed; None if that is not known

    async def checkpoints(self) -> Sequence[StoredCheckpoint]: ...
    async def tiles(self, wanted: Iterable[TileId]) -> Tiles: ...
    def seals(self) -> AsyncIterator[Seal]: ...
    def seals_by_transaction(self, table: str) -> AsyncIterator[Seal]: ...
    def rows(self, table: str) -> AsyncIterator[list[Row]]: ...
    async def existing(self, table: str, keys: Collection[str]) -> Collection[str]: ...
    def expects(self, table: str, key: str) -> bool: ...
    async def dropped_months(self) -> Sequence[DroppedMonth]: ...
    async def keys(self) -> Sequence[str]: ...


async def verify(
    record: SealedRecord,
    keys: Sequence[VerifierKey],
    published: Sequence[tuple[str, str]] = (),
    *,
    late: timedelta = LATE,
) -> Report:
    """Verify a record. `keys` are those that are trusted; `published` are checkpoints, each with where it was found."""
    report = Report(record.log.origin, record.log.size)
    found = await read_checkpoints(record, published, report)
    tree = await check_tree(record, record.log.size, [one.checkpoint.size for one in found])
    hashes = LeafHashes(record, record.log.size)
    signed = await trusted(record, keys, found, tree.roots, hashes, report)
    instead: dict[int, bytes] = {}
    await _check_seals(record, hashes, report, instead)
    for table in SEALED:
        await _Table(record, table, hashes, report, late, instead).check()
    await _check_roots(record, signed, tree, report, instead)
    report.findings.sort()
    return report


async def _check_seals(record: SealedRecord, hashes: LeafHashes, report: Report, instead: dict[int, bytes]) -> None:
    """The log's own rows: the first leaf, and a seal behind each set of rows, without a gap."""
    log = record.log
    first = leaf_hash(log_leaf(log_id=log.log_id, origin=log.origin, begun_at=log.begun_at, reason=log.reason))
    if log.size and await hashes.of(0, 1) != [first]:
        instead[0] = first
        report.add(Discrepancy(0, "log changed", f"the log {log.log_id} does not say of itself what was sealed"))
    expected = 1
    async for seal in record.seals():
        if seal.first_leaf != expected:
            report.add(Discrepancy(expected, "log changed", _gap(expected, seal.first_leaf)))
        expected = seal.first_leaf + seal.rows + 1
        if await hashes.of(expected - 1, 1) != [hash_ := _seal_hash(seal)]:
            _keep(instead, expected - 1, hash_)
            report.add(
                Discrepancy(seal.first_leaf, "log changed", f"{_rows_of(seal)} are not listed as they were sealed")
            )
    if expected != log.size:
        report.add(Discrepancy(expected, "log changed", _gap(expected, log.size)))


def _keep(instead: dict[int, bytes], leaf: int, hash_: bytes) -> None:
    if len(instead) < _MOST:
        instead[leaf] = hash_


def _seal_hash(seal: Seal) -> bytes:
    """The hash that the seal's leaf should have; one that no leaf has if its keys cannot be read."""
    try:
        return leaf_hash(seal_leaf(seal))
    except (zlib.error, UnicodeDecodeError):
        return b""


def _lines(seal: Seal) -> list[str]:
    try:
        return seal.key_lines
    except (zlib.error, UnicodeDecodeError):
        return []  # `_check_seals` says so


def _month(key: str) -> str | None:
    """The month of an event, such as 2026-03, by its key."""
    found = re.search(r'","(\d{4}-\d\d)', key)
    return found[1] if found else None


def _gap(expected: int, found: int) -> str:
    return f"the log lists no rows for the leaves from {min(expected, found)} up to {max(expected, found)}"


def _rows_of(seal: Seal) -> str:
    return f"the {seal.rows} rows of {seal.table_name} from leaf {seal.first_leaf} on"


@dataclass(slots=True)
class _Batch:
    """A seal whose rows are expected: which leaf each key is, and the hashes of all."""

    seal: Seal
    places: dict[str, int]
    hashes: list[bytes]


@dataclass(slots=True)
class _Table:
    """Compares the rows of one table with its seals."""

    record: SealedRecord
    table: str
    hashes: LeafHashes
    report: Report
    late: timedelta
    instead: dict[int, bytes]  #: hashes of rows that are not what the log has at their leaf
    live: deque[_Batch] = field(default_factory=deque)
    missing: dict[str, int] = field(default_factory=dict)
    unmatched: dict[str, Row] = field(default_factory=dict)
    months: frozenset[str] = frozenset()

    async def check(self) -> None:
        pages = self.record.rows(self.table)
        page = await anext(pages, None)
        if self.table == "events":  # Whatever the rows do not have was dropped before they were opened.
            self.months = frozenset(f"{one.month:%Y-%m}" for one in await self.record.dropped_months())
        seals = self.record.seals_by_transaction(self.table)
        ahead = await anext(seals, None)
        while page is not None:
            self._evict(page[0].xact_id)
            left = [row for row in page if not self._matched(row)]
            while left and ahead is not None and ahead.first_xact <= left[-1].xact_id:
                await self._expect(ahead)
                ahead = await anext(seals, None)
                left = [row for row in left if not self._matched(row)]
            for row in left:
                self._not_sealed(row)
            page = await anext(pages, None)
        while ahead is not None:
            await self._expect(ahead)
            self._evict(ahead.last_xact + 1)
            ahead = await anext(seals, None)
        self._evict(None)
        await self._explain()

    async def _expect(self, seal: Seal) -> None:
        lines = _lines(seal)
        places = {key: place for place, key in enumerate(lines)}
        batch = _Batch(seal, places, await self.hashes.of(seal.first_leaf, len(lines)))
        for key in places.keys() & self.unmatched.keys():
            self._compare(batch, self.unmatched.pop(key))
        self.live.append(batch)

    def _matched(self, row: Row) -> bool:
        for batch in self.live:
            if row.key in batch.places:
                self._compare(batch, row)
                if not batch.places:
                    self.live.remove(batch)
                return True
        return False

    def _compare(self, batch: _Batch, row: Row) -> None:
        place = batch.places.pop(row.key)
        leaf = batch.seal.first_leaf + place
        self.report.rows += 1
        if batch.hashes[place] != row.hash:
            _keep(self.instead, leaf, row.hash)
            moved = row.hash in batch.hashes
            what = f"{named(self.table, row.key)} was {'sealed at another place' if moved else 'changed'}"
            self.report.add(Discrepancy(leaf, "reordered" if moved else "changed", what))
            return
        since = max(row.at, self.record.log.begun_at)
        if batch.seal.sealed_at - since > self.late:
            self.report.late.add(
                f"{named(self.table, row.key)} claims {moment(row.at)} and was sealed at {moment(batch.seal.sealed_at)}"
            )

    def _evict(self, xact_id: int | None) -> None:
        """Give up waiting for rows of transactions before this one."""
        for batch in [one for one in self.live if xact_id is None or one.seal.last_xact < xact_id]:
            self.live.remove(batch)
            for key, place in batch.places.items():
                self._is_missing(key, batch.seal.first_leaf + place)

    def _is_missing(self, key: str, leaf: int) -> None:
        month = _month(key) if self.months else None
        if not self.record.expects(self.table, key):
            self.report.outside += 1
        elif month is not None and month in self.months:
            self.report.dropped[month] = self.report.dropped.get(month, 0) + 1
        elif len(self.missing) < _MOST:
            self.missing[key] = leaf
        else:
            self.report.more_findings += 1

    def _not_sealed(self, row: Row) -> None:
        if row.key in self.missing or len(self.unmatched) < _MOST:
            self.unmatched[row.key] = row
        else:
            self.report.unsealed.add(named(self.table, row.key))

    async def _explain(self) -> None:
        """Say of what is left what became of it."""
        unknown = self.missing.keys() - self.unmatched.keys()
        there = await self.record.existing(self.table, unknown) if unknown else ()
        for key, leaf in self.missing.items():
            row = self.unmatched.pop(key, None)
            if row is not None and [row.hash] == await self.hashes.of(leaf, 1):
                text = f"{named(self.table, key)} is at another place than its transaction says"
                self.report.add(Discrepancy(leaf, "reordered", text))
            elif row is not None or key in there:
                self.report.add(Discrepancy(leaf, "changed", f"{named(self.table, key)} was changed"))
            else:
                self.report.add(Discrepancy(leaf, "removed", f"{named(self.table, key)} was removed"))
        sealed = self.record.sealed
        for key, row in self.unmatched.items():
            if sealed is not None and sealed.shows(row.xact_id):
                text = f"{named(self.table, key)} is not in the log, which is past transaction {row.xact_id}: it was inserted"
                self.report.add(Discrepancy(self.report.size, "inserted", text))
            else:
                self.report.unsealed.add(f"{named(self.table, key)}, {moment(row.at)}")


async def _check_roots(
    record: SealedRecord, signed: Sequence[Signed], tree: TreeCheck, report: Report, instead: Mapping[int, bytes]
) -> None:
    """The roots of the log against those that were signed; if they differ, whether the rows make them right."""
    size = record.log.size
    if tree.missing is not None:
        report.add(Discrepancy(tree.missing, "log changed", f"the log has no hash for leaf {tree.missing}"))
        return
    for tile in tree.contradicting:
        text = f"the log's hashes of level {tile.level}, tile {tile.number} are not those of the leaves below"
        report.add(Discrepancy(tile.number << (HEIGHT * (tile.level + 1)), "log changed", text))
    wanted = {one.checkpoint.size: one.checkpoint.root for one in signed if one.checkpoint.size <= size}
    wrong = [one for one in sorted(wanted) if tree.roots[one] != wanted[one]]
    if not wrong:
        return
    if instead and (await check_tree(record, size, wanted, instead)).roots == wanted:
        _blame_log(report, instead)
        return
    good = max((one for one in wanted if one < wrong[0]), default=0)
    text = f"the leaves from {good} up to {wrong[0]} are not those that were signed: the log was rewritten there"
    report.add(Discrepancy(good, "rewritten", text))


def _blame_log(report: Report, instead: Mapping[int, bytes]) -> None:
    """The rows are what was signed: it is the log's copies of their hashes that were changed."""
    for place, one in enumerate(report.findings):
        if one.leaf in instead and one.kind == "changed":
            text = f"the log's hash of leaf {one.leaf} was changed; the row is as it was signed"
            report.findings[place] = Discrepancy(one.leaf, "log changed", text)
