"""Endpoints, and the call that a handler receives."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from service.simulator.fleet import SimulatedFleet
from service.simulator.http import ApiError, HttpReply, HttpRequest

Kind = Literal["create", "read", "change"]
VmCall = Literal["list", "get", "delete"]


@dataclass(slots=True, kw_only=True)
class ApiCall:
    """A running call: its number (from 1), the request, and later the VMs it created and the faults injected."""

    number: int
    request: HttpRequest
    now: float
    args: dict[str, str] = field(default_factory=dict)
    created_vms: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add_fault(self, fault: str) -> None:
        self.faults.append(fault)

    def id(self, name: str = "id") -> int:
        """An id from the path; -1, which no VM has, if it is not a number."""
        text = self.args[name]
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else -1

    def number_of(self, parameter: str) -> int | None:
        """A positive query parameter, or None if it is absent. Raises `ApiError` (400)."""
        text = self.request.query.get(parameter)
        if text is None or text == "":
            return None
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
            raise ApiError(400, f"{parameter} must be a positive integer.")
        return int(text)


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """A call and its reply, even if the caller never received it."""

    call: ApiCall
    reply: HttpReply


Handler = Callable[[SimulatedFleet, ApiCall], HttpReply]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`path` has {placeholders} and is relative to /v1."""

    method: str
    path: str
    kind: Kind
    handler: Handler
    operation: VmCall | None = None

    @property
    def fault_groups(self) -> tuple[str, ...]:
        """The fields of `Faults` that apply to its calls."""
        return (self.kind,) if self.operation is None else (self.kind, self.operation)

    def match(self, path: str) -> dict[str, str] | None:
        found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path), path)
        return None if found is None else found.groupdict()


def find(endpoints: tuple[Endpoint, ...], method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
    """The endpoint and its path parameters. Raises `ApiError`: 404 for an unknown path, 405 for a wrong method."""
    matching = [(one, args) for one in endpoints if (args := one.match(path)) is not None]
    for endpoint, args in matching:
        if endpoint.method == method:
            return endpoint, args
    if matching:
        raise ApiError(405, "The method is not allowed for the requested URL.")
    raise ApiError(404, "The requested URL was not found on the server.")
