"""Who may call the API: bearer tokens, each with a name that goes on record, and what happens to wrong ones."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from pydantic import SecretStr

from service.api.context import CALLER, CALLERS, OPEN, WRONG_TOKENS, runtime
from service.api.problems import UNAUTHORIZED, problem
from service.runtime.logs import logger

_LOG: Final = logger(room="api")


@web.middleware
async def require_token(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Pass requests with a valid token; answer 401 to all others, whether or not the path exists.

    Open paths take any request; a valid token makes the caller known there too. A wrong token is counted, logged and
    delayed everywhere, so that no path lets tokens be guessed quickly. A valid token is never delayed.
    """
    authorization = request.headers.get(hdrs.AUTHORIZATION, "")
    name = caller_of(authorization, request.app[CALLERS])
    if name is not None:
        request[CALLER] = name
    elif authorization:
        await slow_down(request)
    if name is None and _route(request) not in request.app[OPEN]:
        response = problem(UNAUTHORIZED, "send a valid API token as Authorization: Bearer TOKEN")
        response.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="rollcall"'
        return response
    return await handler(request)


def _route(request: web.Request) -> str | None:
    resource = request.match_info.route.resource
    return resource.canonical if resource else None


def caller_of(authorization: str, callers: Mapping[str, SecretStr]) -> str | None:
    """The name of the caller with this token, or None.

    Every token is compared, and by its digest, so that the time taken reveals nothing about any of them.
    """
    scheme, _, given = authorization.partition(" ")
    token = given.strip()
    digest = _digest(token)
    found = None
    for name, known in callers.items():
        if hmac.compare_digest(_digest(known.get_secret_value()), digest):
            found = name
    return found if token and scheme.lower() == "bearer" else None


async def slow_down(request: web.Request) -> None:
    """Count a wrong token, log the first of a source and minute, and wait the longer the more there were."""
    rt = runtime(request)
    source = request.remote or "unknown"
    rt.metrics.wrong_tokens.inc()
    count, before = request.app[WRONG_TOKENS].add(source, rt.clock.now())
    if count == 1:
        _LOG.warning("wrong API token", action="authorize", source=source, in_the_minute_before=before)
    if delay := delay_after(count):
        await rt.clock.sleep(delay)


def delay_after(count: int) -> float:
    """Seconds to wait before the answer to a source's wrong token number `count` of this minute. The first is free."""
    return 0.0 if count <= 1 else min(0.01 * 2.0 ** min(count - 2, 10), 2.0)


class WrongTokens:
    """Wrong tokens by source and minute. Sources are bounded: those beyond the bound are counted as one."""

    MAX_SOURCES: Final = 1000
    _OTHERS: Final = "other sources"

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int, int]] = {}

    def add(self, source: str, now: datetime) -> tuple[int, int]:
        """Count one: how many the source sent in this minute, and how many in the minute of its last one before."""
        minute = int(now.timestamp()) // 60
        if source not in self._counts and len(self._counts) >= self.MAX_SOURCES:
            self._counts = {one: known for one, known in self._counts.items() if known[0] == minute}
            if len(self._counts) >= self.MAX_SOURCES:
                source = self._OTHERS
        last, count, before = self._counts.get(source, (minute, 0, 0))
        count, before = (count + 1, before) if last == minute else (1, count)
        self._counts[source] = (minute, count, before)
        return count, before


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
