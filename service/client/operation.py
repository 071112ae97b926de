"""How one signature becomes a method of both clients. No I/O.

`operations.py` declares each operation of the API by its method, path and signature. On a `Rollcall` it is a plain method, on an
`AsyncRollcall` one to await, and on the class an `ApiOperation`, which prepares requests.
"""

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypedDict, TypeVar, overload
from urllib.parse import quote, urlencode

P = ParamSpec("P")
T = TypeVar("T")
Head = TypeVar("Head")

_OK: Final = frozenset(range(200, 300))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request. `is_repeatable` says that sending it twice does no more than sending it once."""

    method: str
    path: str
    query: Mapping[str, object] = field(default_factory=dict)
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = False
    is_text: bool = False  #: whether the answer is text, and not JSON
    statuses: frozenset[int] = _OK  #: those of answers that are no errors

    @property
    def target(self) -> str:
        """The path and the query. Query values that are None are left out."""
        given = {name: _text(value) for name, value in self.query.items() if value is not None}
        return f"{self.path}?{urlencode(given, errors='replace')}" if given else self.path

    def with_query(self, **values: object) -> "Prepared":
        return replace(self, query={**self.query, **values})


class Items(ABC, Iterator[T], Generic[T, Head]):
    """A list, read page by page while it is iterated."""

    @property
    @abstractmethod
    def head(self) -> Head:
        """What the answer says about the list as a whole. Reads the first page if none was read."""


class AsyncItems(ABC, AsyncIterator[T], Generic[T, Head]):
    """A list, read page by page while it is iterated."""

    @abstractmethod
    async def head(self) -> Head:
        """What the answer says about the list as a whole. Reads the first page if none was read."""


class SyncCaller(ABC):
    """What operations are plain methods of."""

    @abstractmethod
    def call(self, request: Prepared) -> Any: ...
    @abstractmethod
    def items(self, request: Prepared, limit: int | None) -> Items[Any, Any]: ...
    @abstractmethod
    def lines(self, request: Prepared) -> Iterator[list[bytes]]: ...


class AsyncCaller(ABC):
    """What operations are methods to await of."""

    @abstractmethod
    async def call(self, request: Prepared) -> Any: ...
    @abstractmethod
    def items(self, request: Prepared, limit: int | None) -> AsyncItems[Any, Any]: ...
    @abstractmethod
    def lines(self, request: Prepared) -> AsyncIterator[list[bytes]]: ...


class NoHead(TypedDict):
    """Most lists say nothing about themselves as a whole."""


@dataclass(frozen=True, kw_only=True)
class Declared(Generic[P]):
    """A method, a path and a signature, from which requests are made."""

    method: str
    path: str
    function: Callable[Concatenate[Any, P], Any]
    is_repeatable: bool
    is_text: bool = False
    statuses: frozenset[int] = _OK

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> Prepared:
        """The request, each argument in its place: in the path, the body, the header of the key, or the query."""
        bound = inspect.signature(self.function).bind(None, *args, **kwargs)
        bound.apply_defaults()
        given = {name.removesuffix("_"): value for name, value in bound.arguments.items()}  # from_: `from` is a keyword
        given.pop("self")
        in_path = {
            name: quote(str(given.pop(name)), safe="", errors="replace") for name in re.findall(r"{(\w+)}", self.path)
        }
        body, key = given.pop("body", None), given.pop("idempotency_key", None)
        return Prepared(
            method=self.method,
            path=self.path.format(**in_path),
            query=given,
            body=body,
            headers={} if key is None else {"Idempotency-Key": key},
            is_repeatable=self.is_repeatable,
            is_text=self.is_text,
            statuses=self.statuses,
        )

    def bound(self, use: Callable[[Prepared], Any]) -> Any:
        """A method that prepares a request and uses it."""

        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return use(self.prepare(*args, **kwargs))

        method.__name__, method.__doc__ = self.function.__name__, self.function.__doc__
        return method


class ApiOperation(Declared[P], Generic[P, T]):
    """An operation with one answer."""

    @overload
    def __get__(self, instance: None, owner: object) -> Self: ...
    @overload
    def __get__(self, instance: SyncCaller, owner: object) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: AsyncCaller, owner: object) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, instance: SyncCaller | AsyncCaller | None, owner: object) -> Any:
        return self if instance is None else self.bound(instance.call)


@dataclass(frozen=True, kw_only=True)
class Listing(Declared[P], Generic[P, T, Head]):
    """An operation that answers with a list, page by page. `limit` is how many items at most, of all pages."""

    head: type[Head]

    @overload
    def __get__(self, instance: None, owner: object) -> Self: ...
    @overload
    def __get__(self, instance: SyncCaller, owner: object) -> Callable[P, Items[T, Head]]: ...
    @overload
    def __get__(self, instance: AsyncCaller, owner: object) -> Callable[P, AsyncItems[T, Head]]: ...
    def __get__(self, instance: SyncCaller | AsyncCaller | None, owner: object) -> Any:
        if instance is None:
            return self
        caller = instance

        def use(request: Prepared) -> Any:
            limit = request.query.get("limit")
            return caller.items(request, limit if isinstance(limit, int) else None)

        return self.bound(use)


class Lines(Declared[P]):
    """An operation that streams: the lines with their ends, in pieces as they come."""

    @overload
    def __get__(self, instance: None, owner: object) -> Self: ...
    @overload
    def __get__(self, instance: SyncCaller, owner: object) -> Callable[P, Iterator[list[bytes]]]: ...
    @overload
    def __get__(self, instance: AsyncCaller, owner: object) -> Callable[P, AsyncIterator[list[bytes]]]: ...
    def __get__(self, instance: SyncCaller | AsyncCaller | None, owner: object) -> Any:
        return self if instance is None else self.bound(instance.lines)


def operation(
    method: str, path: str, *, is_repeatable: bool | None = None, is_text: bool = False, also: tuple[int, ...] = ()
) -> Callable[[Callable[Concatenate[Any, P], T]], ApiOperation[P, T]]:
    """Declare an operation. `also` are statuses besides 2xx that are answers. A GET is repeatable, and else what says so."""
    repeatable = method == "GET" if is_repeatable is None else is_repeatable
    return lambda function: ApiOperation(
        method=method,
        path=path,
        function=function,
        is_repeatable=repeatable,
        is_text=is_text,
        statuses=_OK | frozenset(also),
    )


def listing(path: str, *, head: type[Head]) -> Callable[[Callable[Concatenate[Any, P], T]], Listing[P, T, Head]]:
    """Declare a list of what the signature returns, and the type of what its pages say about the whole."""
    return lambda function: Listing(method="GET", path=path, function=function, is_repeatable=True, head=head)


def lines(path: str) -> Callable[[Callable[Concatenate[Any, P], bytes]], Lines[P]]:
    """Declare a stream of lines. It is not repeated: whoever reads it knows where it broke off."""
    return lambda function: Lines(method="GET", path=path, function=function, is_repeatable=False)


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else str(value)
