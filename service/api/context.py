"""What every handler needs: the runtime, the caller, and responses in JSON. No routes and no rules."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

import orjson
from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.api.access_record import AccessRecord
from service.api.callers import Caller, Callers
from service.api.preflight import Preflight
from service.api.request_limits import RequestLimits
from service.api.route import Access
from service.api.wrong_tokens import WrongTokens
from service.errors import FieldError, Invalid
from service.runtime import replica
from service.runtime.logs import RareLog
from service.runtime.runtime import Runtime

if TYPE_CHECKING:
    from service.api.export import Exports
    from service.api.stream import Streams

Item = TypeVar("Item")

RUNTIME: Final = web.AppKey("runtime", Runtime)
CALLERS: Final = web.AppKey("callers", Callers)
PREFLIGHT: Final = web.AppKey("preflight", Preflight)
DOCUMENT: Final = web.AppKey("document", dict[str, Any])
WRONG_TOKENS: Final = web.AppKey("wrong_tokens", WrongTokens)
REQUEST_LIMITS: Final = web.AppKey("request_limits", RequestLimits)
ACCESS_RECORD: Final = web.AppKey("access_record", AccessRecord)
EXPORTS: Final["web.AppKey[Exports]"] = web.AppKey("exports")
STREAMS: Final["web.AppKey[Streams]"] = web.AppKey("streams")
BROKEN_OFF: Final = web.AppKey("broken_off", RareLog)
#: Who may use which route, by method and path. A route that is not in it is the administrator's.
ACCESS: Final = web.AppKey("access", dict[tuple[str, str], Access])
CALLER: Final = web.RequestKey("caller", Caller)
#: How many seconds behind the primary the response was read from a replica.
LAG: Final = web.RequestKey("lag", float)
#: Whether numbers of large submissions may be as they were sampled last, and when that was.
SAMPLED: Final = web.RequestKey("sampled", bool)
COUNTED_AT: Final = web.RequestKey("counted_at", datetime)

#: What reading a body raises if the caller goes away or sends it malformed.
_BROKEN_OFF: Final = (ConnectionError, ClientError, HttpProcessingError, web.RequestPayloadError)
#: The largest request body, in bytes. The greater part of it can only be user_data.
MAX_BODY: Final = 1_048_576


def runtime(request: web.Request) -> Runtime:
    return request.app[RUNTIME]


def caller(request: web.Request) -> str:
    """The name of the token that the request came with."""
    return request[CALLER].name


@asynccontextmanager
async def reading(request: web.Request) -> AsyncIterator[AsyncConnection]:
    """A connection for what may be a little old: to the replica, if there is one. The response says how old."""
    async with replica.reading(runtime(request)) as (conn, lag):
        if lag is not None:
            request[LAG] = lag
        yield conn


async def say_lag(request: web.Request, response: web.StreamResponse) -> None:
    """Add the replica's lag to a response that was read from it."""
    if LAG in request:
        response.headers["Rollcall-Replica-Lag-Seconds"] = f"{request[LAG]:.3f}"


def has_token(request: web.Request) -> bool:
    """Whether the request came with a valid token, which open paths do not need."""
    return CALLER in request


def answer(
    value: Any,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> web.Response:
    """A JSON response. Times become RFC 3339 in UTC, written with Z."""
    body = orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)
    return web.Response(body=body, status=status, content_type=content_type, headers=headers)


def first(found: Sequence[Item], limit: int, cursor: Callable[[Item], str]) -> tuple[list[Item], str | None]:
    """The first `limit` rows, and the cursor of the next page, or None if there is none.

    Query one row more than the limit to find out whether there is one.
    """
    return list(found[:limit]), cursor(found[limit - 1]) if len(found) > limit else None


def page(items: list[Any], following: str | None) -> web.Response:
    """A list: its items, and the cursor of the next page or null."""
    return answer({"items": items, "next": following})


async def decoded(request: web.Request) -> dict[str, Any]:
    """The request's JSON object, whatever its content type. Raises `Invalid` if there is none."""
    try:
        body = await request.read()
    except _BROKEN_OFF as error:
        request.app[BROKEN_OFF].note(error)
        raise web.HTTPBadRequest(reason="the request broke off, or its body could not be read") from None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # The message names the place and not the content, which may be a secret.
        raise Invalid([FieldError("body", f"is not JSON: {error.msg} at line {error.lineno}")]) from None
    if not isinstance(value, dict):
        raise Invalid([FieldError("body", "must be a JSON object")])
    return value


def _plain(value: object) -> object:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"no JSON for a {type(value).__name__}")
