"""Who may ask: bearer tokens, each with a name that goes on record. What is asked is of no interest here."""

import hashlib
import hmac
from collections.abc import Mapping

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from pydantic import SecretStr

from service.api.context import CALLER, CALLERS, OPEN
from service.api.problems import problem


@web.middleware
async def require_token(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let pass who holds a token; answer 401 to everybody else, whether or not the path exists."""
    if request.path not in request.app[OPEN]:
        name = who(request.headers.get(hdrs.AUTHORIZATION, ""), request.app[CALLERS])
        if name is None:
            refused = problem(401, "unauthorized", "send an API token as Authorization: Bearer TOKEN")
            refused.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="rollcall"'
            return refused
        request[CALLER] = name
    return await handler(request)


def who(authorization: str, callers: Mapping[str, SecretStr]) -> str | None:
    """The name of the caller whose token this is, or None.

    Every token is compared, and by its digest, so that the time taken says nothing about any of them.
    """
    scheme, _, given = authorization.partition(" ")
    digest = _digest(given.strip())
    found = None
    for name, token in callers.items():
        if hmac.compare_digest(_digest(token.get_secret_value()), digest):
            found = name
    return found if scheme.lower() == "bearer" and given.strip() else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
