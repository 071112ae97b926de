"""The client of the operator API, typed: `Rollcall`, and `AsyncRollcall` for programs with an event loop.

`Rollcall` needs only the standard library, so that commands start at once.
"""

from typing import TYPE_CHECKING

from service.client.errors import ApiError, ErrorKind, InvalidClientOption, InvalidField, NotReady, WaitTimeout
from service.client.sync import Rollcall

if TYPE_CHECKING:
    from service.client.aio import AsyncRollcall

__all__ = [
    "ApiError",
    "AsyncRollcall",
    "ErrorKind",
    "InvalidClientOption",
    "InvalidField",
    "NotReady",
    "Rollcall",
    "WaitTimeout",
]


def __getattr__(name: str) -> object:
    if name == "AsyncRollcall":
        from service.client.aio import AsyncRollcall  # noqa: PLC0415  imports aiohttp, which takes a while

        return AsyncRollcall
    raise AttributeError(name)
