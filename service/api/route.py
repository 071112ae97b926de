"""What a route is made of."""

from dataclasses import dataclass, field

from aiohttp.typedefs import Handler
from pydantic import BaseModel

from service.core.api_token import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may use a route. `api/access.py` refuses everybody else."""

    role: Role | None  #: the least role that may; None for everybody, also without a token
    session: bool = False  #: a page of the dashboard, which asks for a session in place of a token
    export: bool = False  #: it takes the record along: its use goes on record, whatever the role
    without_database: bool = False  #: it works while the database is away


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. `answers` maps each success status to its schema: `Vm`, `Vm[]` for a list, or None for text.

    `role` is the least role that may use it (`core/api_token.py`); None: it needs no token. An answer that goes on for long, such
    as a stream, asks `Callers.by_key` from time to time whether its caller is still valid.
    """

    method: str
    path: str
    role: Role | None
    handler: Handler
    summary: str
    answers: dict[int, str | None]
    fails: tuple[int, ...] = ()
    query: type[BaseModel] | None = None
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    csv: bool = False  #: whether 200 may be CSV too
    streams: tuple[str, ...] = ()  #: the media types of 200, if it is a stream
    export: bool = False  #: whether it takes the record along, which goes on record

    @property
    def access(self) -> Access:
        return Access(role=self.role, export=self.export, without_database=not self.path.startswith("/v1/"))
