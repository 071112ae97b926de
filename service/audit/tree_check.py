"""Checks the hashes of a log against its signed checkpoints: the roots at their sizes, and the tiles against each other."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from service.audit import merkle
from service.audit.merkle import HEIGHT, SIZE, WIDTH, TileId, Tiles

_TILES_AT_ONCE: Final = 32
_TILES_HELD: Final = 256


class TileSource(Protocol):
    """What has the tiles of a log."""

    async def tiles(self, wanted: Iterable[TileId]) -> Tiles:
        """Those that are there."""


class LeafHashes:
    """The hashes of a log's leaves, as it stores them; read in the order of the leaves, or nearly."""

    def __init__(self, source: TileSource, size: int) -> None:
        self._source = source
        self._size = size
        self._held: dict[int, bytes] = {}

    async def of(self, first: int, count: int) -> list[bytes]:
        """The hashes from `first` on; an empty one where the log has none."""
        start, end = first // WIDTH, (first + count - 1) // WIDTH
        if not self._held.keys() >= set(range(start, end + 1)):
            await self._fetch(start, end)
        whole = (self._held[number][: WIDTH * SIZE].ljust(WIDTH * SIZE, b"\0") for number in range(start, end + 1))
        row = merkle.split(b"".join(whole))
        at = first - start * WIDTH
        return row[at : at + count]

    async def _fetch(self, start: int, end: int) -> None:
        last = min(max(end, start + _TILES_AT_ONCE - 1), (self._size - 1) // WIDTH)
        numbers = range(start, max(last, end) + 1)
        found = await self._source.tiles(TileId(0, number) for number in numbers)
        if len(self._held) > _TILES_HELD:
            self._held.clear()
        self._held |= {number: found.get(TileId(0, number), b"") for number in numbers}


@dataclass(slots=True)
class TreeCheck:
    """The roots that a log's leaves have at some sizes, and the tiles that are missing or contradict the leaves."""

    roots: dict[int, bytes] = field(default_factory=dict)
    missing: int | None = None  #: the first leaf without a hash
    contradicting: list[TileId] = field(default_factory=list)


async def check_tree(
    source: TileSource, size: int, sizes: Iterable[int], instead: Mapping[int, bytes] | None = None
) -> TreeCheck:
    """Compute the roots at `sizes` from the hashes of the leaves; `instead` replaces the hashes of some."""
    result = TreeCheck()
    wanted = sorted({one for one in sizes if one <= size}, reverse=True)
    full = merkle.Peaks()
    roots: list[bytes] = []
    async for number, row in _tiles_of_leaves(source, size, instead or {}):
        while wanted and wanted[-1] < number * WIDTH + WIDTH:
            one = wanted.pop()
            if one - number * WIDTH > len(row):
                break
            result.roots[one] = full.root_with(row[: one - number * WIDTH])
        if len(row) < min(WIDTH, size - number * WIDTH):
            result.missing = number * WIDTH + len(row)
            return result
        if len(row) == WIDTH:
            roots.append(merkle.perfect_root(row))
            full.append(roots[-1])
    for one in wanted:
        result.roots[one] = full.root()
    result.contradicting = await _check_upper(source, size, roots)
    return result


async def _tiles_of_leaves(
    source: TileSource, size: int, instead: Mapping[int, bytes]
) -> AsyncIterator[tuple[int, Sequence[bytes]]]:
    """Each tile of leaves by its number, up to the first that is not whole."""
    tiles = -(-size // WIDTH)
    for start in range(0, tiles, _TILES_AT_ONCE):
        numbers = range(start, min(start + _TILES_AT_ONCE, tiles))
        found = await source.tiles(TileId(0, number) for number in numbers)
        for number in numbers:
            hashes = found.get(TileId(0, number), b"")
            row = merkle.split(hashes[: min(len(hashes) // SIZE, WIDTH, size - number * WIDTH) * SIZE])
            for at in instead.keys() & range(number * WIDTH, number * WIDTH + len(row)):
                row[at - number * WIDTH] = instead[at]
            yield number, row


async def _check_upper(source: TileSource, size: int, roots: Sequence[bytes]) -> list[TileId]:
    """The tiles above the leaves that are not what the leaves make them: only proofs are read from these."""
    wrong, level = [], 1
    while size >> (HEIGHT * level):
        numbers = range(-(-len(roots) // WIDTH))
        found = await source.tiles(TileId(level, number) for number in numbers)
        rows = [roots[number * WIDTH : (number + 1) * WIDTH] for number in numbers]
        for number, row in enumerate(rows):
            if found.get(TileId(level, number), b"")[: len(row) * SIZE] != b"".join(row):
                wrong.append(TileId(level, number))
        roots = [merkle.perfect_root(row) for row in rows if len(row) == WIDTH]
        level += 1
    return wrong
