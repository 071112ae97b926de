"""Who may use which route: the token of a request, its role, its limit, and what goes on record about it."""

from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service.api.callers import Caller
from service.api.context import ACCESS, ACCESS_RECORD, CALLER, CALLERS, REQUEST_LIMITS, WRONG_TOKENS, runtime
from service.api.route import Access
from service.core.api_token import ALLOWED, Role, is_damaged, roles_text
from service.errors import Forbidden, StorageUnavailable, Unauthorized

#: A path that does not exist takes any valid token, so that only token holders learn which paths exist.
_NO_SUCH_ROUTE: Final = Access(role=Role.READ, without_database=True)


@web.middleware
async def authorize(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Pass requests whose token's role suffices; 401 without a valid token, 403 with too small a role.

    Routes without a role take any request; a valid token makes the caller known there too. A wrong token is counted,
    logged and delayed everywhere, so that no path lets tokens be guessed quickly. A valid token is never delayed.
    """
    access = _access(request)
    authorization = request.headers.get(hdrs.AUTHORIZATION, "")
    known, why = await _identify(request, authorization, access)
    if known is not None:
        request[CALLER] = known
    elif authorization:
        await refuse_token(request, why)
    if access.role is not None and not access.session:
        if known is None:
            raise Unauthorized(why or None)
        await admit(request, known, access)
    return await handler(request)


async def identify(request: web.Request, token: str, *, without_database: bool = False) -> tuple[Caller | None, str]:
    """The holder of a valid token; or None, and why the token is not valid, for people."""
    found = await request.app[CALLERS].find(token, without_database=without_database)
    if found is None:
        return None, "the token is damaged: it was not copied whole" if is_damaged(token) else ""
    ended = found.ended(runtime(request).clock.now())
    return (None, f"the token {found.name} {ended}") if ended else (found, "")


async def refuse_token(request: web.Request, why: str) -> None:
    """Record a wrong token, and delay its answer the longer the more the source has sent."""
    source = request.remote or "unknown"
    request.app[ACCESS_RECORD].note_refused("unknown", f"{why or 'wrong token'}, from {source}")
    await request.app[WRONG_TOKENS].slow_down(runtime(request), source)


async def admit(request: web.Request, caller: Caller, access: Access) -> None:
    """Let a caller in: check role and limit, and record what is recorded. Raises `Forbidden` or `TooManyRequests`."""
    record = request.app[ACCESS_RECORD]
    if access.role is not None and caller.role not in ALLOWED[access.role]:
        needed = roles_text(access.role)
        record.note_refused(caller.name, f"{_route(request)}, which needs the role {needed}")
        raise Forbidden(f"this needs a token with the role {needed}; {caller.name} has the role {caller.role}")
    request.app[REQUEST_LIMITS].take(caller, runtime(request).clock.now())
    record.note_use(caller)
    if access.export:
        await record.note("export", caller.name, _route(request))
    elif caller.role is Role.AUDIT and not access.without_database:
        await record.note("read", caller.name, _route(request))


async def _identify(request: web.Request, authorization: str, access: Access) -> tuple[Caller | None, str]:
    scheme, _, given = authorization.partition(" ")
    token = given.strip()
    if scheme.lower() != "bearer" or not token:
        return None, ""
    try:
        return await identify(request, token, without_database=access.without_database)
    except StorageUnavailable:
        if access.role is not None and not access.session:
            raise
        return None, ""  # a health check is answered all the same


def _access(request: web.Request) -> Access:
    resource = request.match_info.route.resource
    if resource is None:
        return _NO_SUCH_ROUTE
    method = "GET" if request.method == "HEAD" else request.method
    # A route that nobody has declared is the administrator's.
    return request.app[ACCESS].get((method, resource.canonical), Access(role=Role.ADMIN))


def _route(request: web.Request) -> str:
    # The route and not the path: callers choose what is in a path.
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource else 'unknown path'}"
