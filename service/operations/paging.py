"""Reads lists that the provider divides into pages, or does not: nothing tells which."""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


async def all_pages(
    read: Callable[[int], Awaitable[Sequence[Item] | None]], *, key: Callable[[Item], Hashable], size: int, most: int
) -> list[Item] | None:
    """Every item of a list once, told apart by `key`; None if a page of it could not be read.

    `read` takes the number of a page, from 1 on; at most `most` pages of `size` items are read.
    """
    found: dict[Hashable, Item] = {}
    for number in range(1, most + 1):
        items = await read(number)
        if items is None:
            return None
        known = len(found)
        found |= {key(one): one for one in items}
        # A list without pages is the same on each of them, and a short page is the last.
        if len(found) == known or len(items) < size:
            break
    return list(found.values())
