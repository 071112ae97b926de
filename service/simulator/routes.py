"""Which handler answers which call, and what a handler is given. The handlers are in the files named here."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from service.simulator.exchange import Refusal, Reply, Request
from service.simulator.fleet import Fleet

Kind = Literal["create", "read", "change"]


@dataclass(slots=True, kw_only=True)
class Call:
    """A call under way: its number (from 1), what came, and, once known, what was made and what was spoiled."""

    number: int
    request: Request
    now: float
    args: dict[str, str] = field(default_factory=dict)
    made: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def spoiled(self, fault: str) -> None:
        self.faults.append(fault)

    def id(self, name: str = "id") -> int:
        """An id of the path; one that is no number is nobody's, so it is -1."""
        text = self.args[name]
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else -1

    def number_of(self, parameter: str) -> int | None:
        """A query parameter that is a number from 1, or None if it is absent. Raises `Refusal` (400)."""
        text = self.request.query.get(parameter)
        if text is None or text == "":
            return None
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
            raise Refusal(400, f"{parameter} must be a positive integer.")
        return int(text)


@dataclass(frozen=True, slots=True)
class Logged:
    """A call as it was received, and what its caller got. `status` is what a lost answer would have said."""

    call: Call
    reply: Reply


Handler = Callable[[Fleet, Call], Reply]


@dataclass(frozen=True, slots=True)
class Route:
    """`path` has {names} for what varies and is relative to the base URL's /v1."""

    method: str
    path: str
    kind: Kind
    handler: Handler

    def match(self, path: str) -> dict[str, str] | None:
        found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path), path)
        return None if found is None else found.groupdict()


def find(routes: tuple[Route, ...], method: str, path: str) -> tuple[Route, dict[str, str]]:
    """The route and the path's parts. Raises `Refusal`: 404 for a path nobody has, 405 for another method of one."""
    matching = [(route, args) for route in routes if (args := route.match(path)) is not None]
    for route, args in matching:
        if route.method == method:
            return route, args
    if matching:
        raise Refusal(405, "The method is not allowed for the requested URL.")
    raise Refusal(404, "The requested URL was not found on the server.")
