"""The operator's HTTP API, put together. Paths are in `routes.py`, handlers in modules of their own."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

from aiohttp import web
from pydantic import SecretStr

from service.api import access, problems
from service.api.access_record import AccessRecord
from service.api.callers import Callers
from service.api.context import (
    ACCESS,
    ACCESS_RECORD,
    BROKEN_OFF,
    CALLERS,
    DOCUMENT,
    EXPORTS,
    MAX_BODY,
    PREFLIGHT,
    REQUEST_LIMITS,
    RUNTIME,
    STREAMS,
    WRONG_TOKENS,
    say_lag,
)
from service.api.export import Exports
from service.api.openapi import document
from service.api.preflight import Preflight
from service.api.request_limits import RequestLimits
from service.api.route import Route
from service.api.routes import ROUTES
from service.api.stream import Streams
from service.api.wrong_tokens import WrongTokens
from service.runtime.logs import RareLog
from service.runtime.runtime import Runtime


def make_app(rt: Runtime, callers: Mapping[str, SecretStr], routes: Sequence[Route] = ROUTES) -> web.Application:
    """The app of the operator listener. `callers` are the API tokens of the settings, by name."""
    app = web.Application(middlewares=[problems.answer_errors, access.authorize], client_max_size=MAX_BODY)
    app[RUNTIME] = rt
    app[CALLERS] = Callers(rt, callers)
    app[WRONG_TOKENS] = WrongTokens()
    app[REQUEST_LIMITS] = RequestLimits()
    app[ACCESS_RECORD] = AccessRecord(rt)
    app[BROKEN_OFF] = RareLog("requests broke off", room="api", action="receive")
    app[EXPORTS] = Exports()
    app[STREAMS] = Streams(rt)
    app.on_shutdown.append(_end_streams)
    app[PREFLIGHT] = Preflight(rt)
    app.on_cleanup.append(_close)
    app.on_response_prepare.append(say_lag)
    app[ACCESS] = {(route.method, route.path): route.access for route in routes}
    made: Callable[[], dict[str, Any]] = cache(partial(document, routes))
    app[DOCUMENT] = made
    for route in routes:
        if route.method == "GET":
            app.router.add_get(route.path, route.handler)  # and HEAD, as everywhere
        else:
            app.router.add_route(route.method, route.path, route.handler)
    return app


async def _close(app: web.Application) -> None:
    await app[PREFLIGHT].close()
    await app[ACCESS_RECORD].close()


async def _end_streams(app: web.Application) -> None:
    await app[STREAMS].close()
