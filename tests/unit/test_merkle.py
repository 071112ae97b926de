"""The tree against RFC 6962's own definition, known roots, and software that nobody here wrote (tlog-scales)."""

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tlog_scales.tlog import InclusionProof, InclusionProofInvalid
from tlog_scales.writer import TilesWriter

from service.audit import merkle
from service.audit.merkle import TileId

#: The leaves and roots that certificate transparency's own tests use.
LEAVES = [bytes.fromhex(one) for one in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def hashes(count: int) -> list[bytes]:
    return [merkle.leaf_hash(b"leaf %d" % number) for number in range(count)]


def defined_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256(b"").digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\x01" + defined_root(leaves[:k]) + defined_root(leaves[k:])).digest()


def grown_in_steps(steps: list[int]) -> tuple[int, dict[TileId, bytes]]:
    """A tree that grew by so many leaves at a time, and its tiles."""
    leaves, size, tiles = hashes(sum(steps)), 0, {}
    for step in steps:
        last = {tile: tiles[tile] for tile in merkle.last_tiles(size)}
        tiles |= merkle.grown(size, last, leaves[size : size + step])
        size += step
    return size, tiles


def test_the_roots_are_those_of_certificate_transparency():
    for size, root in enumerate(ROOTS, 1):
        assert merkle.root_of(map(merkle.leaf_hash, LEAVES[:size])).hex() == root
    assert merkle.root_of([]) == sha256(b"").digest()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_a_tree_that_grows_in_any_steps_has_the_root_of_its_leaves_at_every_size(steps):
    size, tiles = grown_in_steps(steps)
    for one in {1, size, size // 2 or 1, min(size, 256), min(size, 257)}:
        assert merkle.root_in(tiles, 0, one) == merkle.root_of(hashes(one))
    assert merkle.root_of(hashes(size)) == defined_root(hashes(size))


@given(st.data())
def test_every_leaf_is_proved_and_the_proof_is_believed_by_others(data):
    size = data.draw(st.integers(1, 700))
    index = data.draw(st.integers(0, size - 1))
    _, tiles = grown_in_steps([size])
    path = [merkle.root_in(tiles, start, end) for start, end in merkle.path_ranges(index, size)]
    leaf, root = hashes(size)[index], merkle.root_in(tiles, 0, size)
    assert merkle.tiles_needed(merkle.path_ranges(index, size)) <= tiles.keys()
    assert merkle.root_from_path(index, size, leaf, path) == root
    InclusionProof(index, size, path).check(leaf, root)
    for wrong in (merkle.leaf_hash(b"another"), hashes(size + 1)[-1]):
        assert merkle.root_from_path(index, size, wrong, path) != root
        with pytest.raises(InclusionProofInvalid):
            InclusionProof(index, size, path).check(wrong, root)
    assert merkle.root_from_path(size, size, leaf, path) is None
    assert merkle.root_from_path(index, size, leaf, [*path, leaf]) is None


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000, 66_000])
def test_tiles_are_those_that_others_write(tmp_path: Path, size: int):
    writer = TilesWriter.create(tmp_path / "log", "example.com/log")
    for number in range(size):
        writer.add_leaf(b"leaf %d" % number)
    writer.commit([])
    _, tiles = grown_in_steps([size])
    for (level, number), stored in tiles.items():
        name = f"{number:03d}" + (f".p/{len(stored) // 32}" if len(stored) < 256 * 32 else "")
        if number < 1000:
            assert (tmp_path / "log/tile" / str(level) / name).read_bytes() == stored
    assert sum(len(stored) for (level, _), stored in tiles.items() if level == 0) == size * 32
