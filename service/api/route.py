"""What a route is made of."""

from dataclasses import dataclass, field

from aiohttp.typedefs import Handler
from pydantic import BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. `answers` maps each success status to its schema: `Vm`, `Vm[]` for a list, or None for text."""

    method: str
    path: str
    handler: Handler
    summary: str
    answers: dict[int, str | None]
    fails: tuple[int, ...] = ()
    query: type[BaseModel] | None = None
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    csv: bool = False  #: whether 200 may be CSV too
    streams: tuple[str, ...] = ()  #: the media types of 200, if it is a stream
    open: bool = False  #: whether it needs no token
