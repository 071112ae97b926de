"""Processes items in sets. An item that fails does not affect the others."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from service.errors import Unstorable

Item = TypeVar("Item")

#: Errors that an item itself may cause. All others (a database that is away, a lost lease) affect all items.
ITEM_ERRORS: Final = (Unstorable, ValueError, TypeError, ArithmeticError, LookupError)
_SET: Final = 500


async def in_parts(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Awaitable[None]], *, size: int = _SET
) -> list[tuple[Item, Exception]]:
    """Run `work` on sets of at most `size` items, and on the halves of a set that fails. Returns the items that failed.

    A set that fails must change nothing, so `work` has to be a transaction. Raises all errors but `ITEM_ERRORS`.
    """
    failed: list[tuple[Item, Exception]] = []
    waiting = [items[start : start + size] for start in range(0, len(items), size)][::-1]
    while waiting:
        part = waiting.pop()
        try:
            await work(part)
        except ITEM_ERRORS as error:
            if len(part) == 1:
                failed.append((part[0], error))
                continue
            middle = len(part) // 2
            waiting += [part[middle:], part[:middle]]
    return failed
