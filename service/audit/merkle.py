"""The Merkle tree of RFC 6962 (and RFC 9162) over SHA-256. Pure: hashes in, hashes out.

Hashes are stored in tiles of 256, as C2SP tlog-tiles does: level 0 holds the hashes of leaves, and each entry of level L + 1
is the root of a full tile of level L. So any hash of the tree is found in a few tiles, however large it is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

#: Entries of a tile, and how many levels of the tree that is.
WIDTH: Final = 256
HEIGHT: Final = 8
SIZE: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()


class TileId(NamedTuple):
    """Which tile of a tree: its level, and its number within the level."""

    level: int
    number: int


class TilePart(NamedTuple):
    """Entries of a tile, which together are a perfect subtree."""

    tile: TileId
    first: int
    length: int


#: Hashes of tiles by level and number: a `TileId`, or a pair that is equal to one.
Tiles = Mapping[tuple[int, int], bytes]


def leaf_hash(leaf: bytes) -> bytes:
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def split(hashes: bytes) -> list[bytes]:
    """The single hashes of a tile."""
    return [hashes[at : at + SIZE] for at in range(0, len(hashes), SIZE)]


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes."""
    row = list(hashes)
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


class Peaks:
    """The tree as it grows: the roots of its perfect subtrees, from left to right. Takes 2 hashes a leaf."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []

    def append(self, hash_: bytes) -> None:
        """Add the hash of a leaf."""
        at = self.size
        while at & 1:
            hash_ = node_hash(self._peaks.pop(), hash_)
            at >>= 1
        self._peaks.append(hash_)
        self.size += 1

    def root(self) -> bytes:
        return joined(self._peaks)

    def root_with(self, smaller: Sequence[bytes]) -> bytes:
        """The root if these leaves, fewer than each subtree here has, come behind."""
        behind = Peaks()
        for hash_ in smaller:
            behind.append(hash_)
        return joined([*self._peaks, *behind._peaks])


def joined(peaks: Sequence[bytes]) -> bytes:
    """The root over perfect subtrees that get smaller from left to right."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over the hashes of leaves."""
    peaks = Peaks()
    for hash_ in leaves:
        peaks.append(hash_)
    return peaks.root()


def last_tiles(size: int) -> list[TileId]:
    """The tiles at the end of each level of a tree that are not full, which is where it grows."""
    found, level = [], 0
    while entries := size >> (HEIGHT * level):
        if entries % WIDTH:
            found.append(TileId(level, entries // WIDTH))
        level += 1
    return found


def grown(size: int, last: Tiles, leaves: Sequence[bytes]) -> dict[TileId, bytes]:
    """The tiles that are new or longer once these hashes of leaves are appended; `last` are those of `last_tiles`."""
    written: dict[TileId, bytes] = {}
    level, new = 0, list(leaves)
    while new:
        entries = size >> (HEIGHT * level)
        number, filled = divmod(entries, WIDTH)
        row = split(last[TileId(level, number)][: filled * SIZE]) if filled else []
        row += new
        new = []
        for at in range(0, len(row), WIDTH):
            tile = row[at : at + WIDTH]
            written[TileId(level, number + at // WIDTH)] = b"".join(tile)
            if len(tile) == WIDTH:
                new.append(perfect_root(tile))
        level += 1
    return written


def subtrees(start: int, end: int) -> Iterator[TilePart]:
    """The largest perfect subtrees that cover the leaves from `start` up to `end`, from left to right."""
    while start < end:
        height = (end - start).bit_length() - 1
        if start:
            height = min(height, (start & -start).bit_length() - 1)
        level, within = divmod(height, HEIGHT)
        number, first = divmod(start >> (HEIGHT * level), WIDTH)
        yield TilePart(TileId(level, number), first, 1 << within)
        start += 1 << height


def path_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The ranges of leaves whose roots prove the leaf at `index` in a tree of `size`, from its sibling up (RFC 6962, 2.1.1)."""
    ranges, start, end = [], 0, size
    while end - start > 1:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def tiles_needed(ranges: Iterable[tuple[int, int]]) -> set[TileId]:
    """The tiles that `root_in` reads for these ranges."""
    return {part.tile for start, end in ranges for part in subtrees(start, end)}


def root_in(tiles: Tiles, start: int, end: int) -> bytes:
    """The root over the leaves from `start`, which a split of the tree begins with, up to `end`."""
    parts = subtrees(start, end)
    return joined([perfect_root(_entries(tiles[part.tile], part)) for part in parts])


def _entries(hashes: bytes, part: TilePart) -> list[bytes]:
    return split(hashes[part.first * SIZE : (part.first + part.length) * SIZE])


def root_from_path(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes | None:
    """The root that a leaf's hash and its path lead to; None if the path does not fit the tree."""
    if not 0 <= index < size or len(path) != len(path_ranges(index, size)):
        return None
    root = leaf
    for hash_, (_, end) in zip(path, path_ranges(index, size), strict=True):
        root = node_hash(hash_, root) if end <= index else node_hash(root, hash_)
    return root
