"""The hashes of a log against its tiles: roots at any size, hashes in any order, and every tile that was changed."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.audit import merkle, tree_check
from service.audit.merkle import TileId
from service.audit.tree_check import LeafHashes, check_tree

SIZE = 3000


class Stored:
    """Tiles in memory."""

    def __init__(self, size=SIZE):
        self.leaves = [merkle.leaf_hash(b"%d" % number) for number in range(size)]
        self.held = merkle.grown(0, {}, self.leaves)

    async def tiles(self, wanted):
        return {one: self.held[one] for one in wanted if one in self.held}


STORED = Stored()


@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 900)), max_size=30))
async def test_the_hashes_of_any_leaves_are_read_in_any_order(ranges):
    hashes = LeafHashes(STORED, SIZE)
    for first, most in ranges:
        count = min(most, SIZE - first)
        assert await hashes.of(first, count) == STORED.leaves[first : first + count]


async def test_hashes_are_forgotten_and_read_again(monkeypatch):
    monkeypatch.setattr(tree_check, "_TILES_AT_ONCE", 1)
    monkeypatch.setattr(tree_check, "_TILES_HELD", 2)
    hashes, rng = LeafHashes(STORED, SIZE), random.Random(1)
    for _ in range(200):
        first = rng.randrange(SIZE - 700)
        assert await hashes.of(first, 700) == STORED.leaves[first : first + 700]


@given(st.integers(1, SIZE), st.sets(st.integers(1, SIZE + 300), max_size=8))
async def test_the_roots_at_all_sizes_are_those_of_the_leaves(size, sizes):
    found = await check_tree(STORED, size, sizes)
    assert found.roots == {one: merkle.root_of(STORED.leaves[:one]) for one in sizes if one <= size}
    assert (found.missing, found.contradicting) == (None, [])


async def test_a_leaf_that_is_replaced_counts_in_every_root_behind_it():
    other = merkle.leaf_hash(b"other")
    found = await check_tree(STORED, SIZE, [1000, SIZE], {1234: other})
    leaves = [*STORED.leaves[:1234], other, *STORED.leaves[1235:]]
    assert found.roots == {1000: merkle.root_of(STORED.leaves[:1000]), SIZE: merkle.root_of(leaves)}


@pytest.mark.parametrize("number", [0, 5, 11])
async def test_a_tile_that_is_missing_or_cut_is_said_at_its_leaf(number):
    stored = Stored()
    whole = stored.held.pop(TileId(0, number))
    assert (await check_tree(stored, SIZE, [SIZE])).missing == number * 256
    stored.held[TileId(0, number)] = whole[: 32 * 7 + 5]
    assert (await check_tree(stored, SIZE, [SIZE])).missing == number * 256 + 7


async def test_a_tile_above_the_leaves_that_was_changed_is_said():
    stored = Stored()
    stored.held[TileId(1, 0)] = stored.held[TileId(1, 0)][:-1] + b"x"
    assert (await check_tree(stored, SIZE, [])).contradicting == [TileId(1, 0)]
