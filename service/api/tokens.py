"""Handlers of API tokens: create, list, change, rotate and revoke them. A token is in one response, when it is created."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, Self
from uuid import UUID

from aiohttp import web
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from service.api import query
from service.api.callers import Caller
from service.api.context import CALLERS, answer, caller, decoded, first, page, runtime
from service.api.route import Route
from service.core.api_token import Role
from service.core.limits import Usage
from service.core.validation import validate
from service.operations import tokens as operations
from service.operations.tokens import NewToken, TokenChange, TokenRequest, TokenRotation
from service.queries import holdings
from service.runtime.logs import logger
from service.storage import tokens
from service.storage.engine import begin
from service.storage.tokens import ApiToken

_LOG: Final = logger(room="api")


class TokenQuery(query.PageQuery):
    ended: query.Flag = Field(default=False, description="also tokens that have expired or were revoked")
    cursor: UUID | None = Field(default=None, description="`next` of the page before")


#: Columns of `api_tokens` that are shown as they are.
_STORED: Final = (
    "token_id", "name", "role", "requests_per_minute", "created_at", "created_by", "expires_at", "revoked_at", "revoked_by",
    "last_used_at", "max_vms", "max_gpus",
)  # fmt: skip
TokenState = Literal["valid", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the living VMs of a token are together: at least that much, if GPUs or prices of some are not known."""

    vms: int
    gpus: int
    price_per_hour: str
    currency: str
    unpriced_vms: int  #: VMs without a known price
    uncounted_vms: int  #: VMs whose number of GPUs is not known

    @classmethod
    def of(cls, held: Usage, currency: str) -> Self:
        return cls(held.vms, held.gpus, _text(held.price_per_hour), currency, held.unpriced_vms, held.uncounted_vms)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInfo:
    """What is known of a token. Those of the settings have no id and no times, and cannot be changed here."""

    token_id: UUID | None
    name: str
    role: Role
    source: Literal["database", "settings"]
    state: TokenState
    requests_per_minute: int | None = None
    created_at: datetime | None = None
    created_by: str | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    last_used_at: datetime | None = None
    max_vms: int | None = None
    max_gpus: int | None = None
    max_price_per_hour: str | None = None
    holds: Holdings | None = None  #: of those with such a limit, in the list of tokens

    @classmethod
    def of(cls, one: ApiToken, now: datetime) -> Self:
        state: TokenState = "valid" if operations.is_valid(one, now) else "revoked" if one.revoked_at else "expired"
        known = {name: getattr(one, name) for name in _STORED}
        price = None if one.max_price_per_hour is None else _text(one.max_price_per_hour)
        return cls(**known, source="database", state=state, max_price_per_hour=price)

    @classmethod
    def of_settings(cls, one: Caller) -> Self:
        return cls(token_id=None, name=one.name, role=one.role, source="settings", state="valid")


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedToken(TokenInfo):
    """A token that was just created, with the token itself."""

    token: str


async def index(request: web.Request) -> web.Response:
    """A page of tokens, newest first; those of the settings are on the first page."""
    rt, wanted = runtime(request), query.read(TokenQuery, request)
    now = rt.clock.now()
    async with begin(rt.engine) as conn:
        found = await tokens.page(
            conn, valid_at=None if wanted.ended else now, before=wanted.cursor, limit=wanted.limit + 1
        )
        listed, following = first(found, wanted.limit, lambda one: str(one.token_id))
        infos = await with_holdings(conn, listed, now)
    given = [TokenInfo.of_settings(one) for one in request.app[CALLERS].given] if wanted.cursor is None else []
    return page([*given, *infos], following)


async def with_holdings(conn: AsyncConnection, found: Sequence[ApiToken], now: datetime) -> list[TokenInfo]:
    """Tokens, with what those that have a limit hold."""
    infos = [TokenInfo.of(one, now) for one in found]
    names = sorted({one.name for one in found if one.limits.any})
    if not names:
        return infos
    known = await holdings.rates(conn, now=now)
    held = await holdings.of_tokens(conn, names, known)
    return [
        replace(info, holds=Holdings.of(held[one.name], known.currency)) if one.limits.any else info
        for info, one in zip(infos, found, strict=True)
    ]


async def create(request: web.Request) -> web.Response:
    """Create a token: 201, the only response that holds it."""
    return answer(await new_token(request, await decoded(request)), status=201)


async def new_token(request: web.Request, body: Mapping[str, Any]) -> CreatedToken:
    """Create the token that a body describes. Raises `Invalid`."""
    rt, wanted = runtime(request), validate(TokenRequest, body)
    taken = [one.name for one in request.app[CALLERS].given]
    made = await operations.create(rt, wanted, caller=caller(request), taken=taken)
    _changed(request, "token created", made.stored.name)
    return created(made, rt.clock.now())


async def rotate(request: web.Request) -> web.Response:
    """Create a token in place of another, which stays valid for a while."""
    wanted = validate(TokenRotation, await decoded(request))
    made = await operations.rotate(runtime(request), request.match_info["name"], wanted, caller=caller(request))
    _changed(request, "token rotated", made.stored.name)
    return answer(created(made, runtime(request).clock.now()), status=201)


async def change(request: web.Request) -> web.Response:
    """Change the limits of every valid token of a name."""
    rt, name = runtime(request), request.match_info["name"]
    changed = await operations.change(rt, name, validate(TokenChange, await decoded(request)), caller=caller(request))
    _changed(request, "token changed", name)
    return page([TokenInfo.of(one, rt.clock.now()) for one in changed], None)


async def revoke(request: web.Request) -> web.Response:
    """Revoke every valid token of a name."""
    rt, name = runtime(request), request.match_info["name"]
    revoked = await operations.revoke(rt, name, caller=caller(request))
    _changed(request, "token revoked", name)
    return page([TokenInfo.of(one, rt.clock.now()) for one in revoked], None)


def created(made: NewToken, now: datetime) -> CreatedToken:
    """A new token as the API answers it."""
    return CreatedToken(**asdict(TokenInfo.of(made.stored, now)), token=made.token)


def _text(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def _changed(request: web.Request, event: str, name: str) -> None:
    request.app[CALLERS].forget()
    _LOG.info(event, action="change tokens", name=name, caller=caller(request))


TOKEN_ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/tokens",
        role=Role.AUDIT,
        handler=index,
        summary="List API tokens, newest first; those of the settings come before",
        query=TokenQuery,
        answers={200: "Token[]"},
        fails=(422,),
    ),
    Route(
        method="POST",
        path="/v1/tokens",
        role=Role.ADMIN,
        handler=create,
        summary="Create an API token, which only this response shows",
        body="TokenRequest",
        answers={201: "CreatedToken"},
        fails=(413, 422),
    ),
    Route(
        method="POST",
        path="/v1/tokens/{name}/rotate",
        role=Role.ADMIN,
        handler=rotate,
        summary="Create an API token in place of another of this name, which stays valid for the grace",
        body="TokenRotation",
        answers={201: "CreatedToken"},
        fails=(404, 413, 422),
    ),
    Route(
        method="PATCH",
        path="/v1/tokens/{name}",
        role=Role.ADMIN,
        handler=change,
        summary="Change the limits of the valid API tokens of a name",
        body="TokenChange",
        answers={200: "Token[]"},
        fails=(404, 413, 422),
    ),
    Route(
        method="DELETE",
        path="/v1/tokens/{name}",
        role=Role.ADMIN,
        handler=revoke,
        summary="Revoke the valid API tokens of a name",
        answers={200: "Token[]"},
        fails=(404, 422),
    ),
)
