"""What was recorded between two snapshots, in an order that is the same whenever it is read again.

Rows become visible in the order of their commits, not of their ids or times. But which transactions one snapshot shows and an
earlier one does not is decided for ever (decision 0061). So a place in the stream is two snapshots and how many rows between
them were seen, and going on from there neither misses nor repeats a row.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final, Self

from sqlalchemy.ext.asyncio import AsyncEngine

from service.audit.export import pages
from service.audit.export_tables import Selection
from service.storage.engine import begin
from service.storage.seals import XactSnapshot
from service.storage.unsealed import snapshot

#: What is streamed, in this order between two snapshots.
STREAMED: Final = ("transitions", "events", "calls", "call_ends")
_SNAPSHOT: Final = r"[0-9]{1,18}:[0-9]{1,18}:(?:[0-9]{1,18}(?:,[0-9]{1,18})*)?"
_PLACE: Final = re.compile(rf"({_SNAPSHOT})/({_SNAPSHOT})/([0-9]{{1,12}})")


@dataclass(frozen=True, slots=True)
class StreamPlace:
    """Everything that `seen` shows was seen, and `rows` rows of what `shown` shows besides."""

    seen: XactSnapshot
    shown: XactSnapshot
    rows: int = 0

    def __str__(self) -> str:
        return f"{self.seen}/{self.shown}/{self.rows}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None if it is no place."""
        found = _PLACE.fullmatch(text)
        if found is None:
            return None
        return cls(XactSnapshot.parse(found[1]), XactSnapshot.parse(found[2]), int(found[3]))


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A row that was recorded: its table, its line of JSON without secrets, and the place behind it."""

    table: str
    line: bytes
    place: StreamPlace


async def here(engine: AsyncEngine) -> XactSnapshot:
    """What is committed now."""
    async with begin(engine) as conn:
        return await snapshot(conn)


async def rows_between(engine: AsyncEngine, place: StreamPlace) -> AsyncIterator[StreamRow]:
    """The rows behind a place, up to its second snapshot."""
    which = Selection(xmax=place.shown.xmax, in_progress=place.shown.in_progress, seen=place.seen)
    count = 0
    for table in STREAMED:
        async for page in pages(engine, table, which, after=None):
            for line in page:
                count += 1
                if count > place.rows:
                    yield StreamRow(table, line, replace(place, rows=count))
