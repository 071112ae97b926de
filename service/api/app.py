"""The operator's HTTP API, put together. Paths are in `routes.py`, handlers in modules of their own."""

from collections.abc import Mapping, Sequence

from aiohttp import web
from pydantic import SecretStr

from service.api import access, problems
from service.api.context import BROKEN_OFF, CALLERS, DOCUMENT, EXPORTS, MAX_BODY, OPEN, PREFLIGHT, RUNTIME, WRONG_TOKENS
from service.api.export import Exports
from service.api.openapi import document
from service.api.preflight import Preflight
from service.api.route import Route
from service.api.routes import ROUTES
from service.runtime.logs import RareLog
from service.runtime.runtime import Runtime


def make_app(rt: Runtime, callers: Mapping[str, SecretStr], routes: Sequence[Route] = ROUTES) -> web.Application:
    """The app of the operator listener. `callers` are the API tokens by name; without any, every request is refused."""
    app = web.Application(middlewares=[problems.answer_errors, access.require_token], client_max_size=MAX_BODY)
    app[RUNTIME] = rt
    app[CALLERS] = callers
    app[WRONG_TOKENS] = access.WrongTokens()
    app[BROKEN_OFF] = RareLog("requests broke off", room="api", action="receive")
    app[EXPORTS] = Exports()
    app[PREFLIGHT] = Preflight(rt)
    app.on_cleanup.append(_close_preflight)
    app[OPEN] = {route.path for route in routes if route.open}
    app[DOCUMENT] = document(routes)
    for route in routes:
        if route.method == "GET":
            app.router.add_get(route.path, route.handler)  # and HEAD, as everywhere
        else:
            app.router.add_route(route.method, route.path, route.handler)
    return app


async def _close_preflight(app: web.Application) -> None:
    await app[PREFLIGHT].close()
