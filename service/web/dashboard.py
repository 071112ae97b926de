"""The dashboard's table of routes, and how it is added to the operator's listener."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from service.api.context import OPEN, RUNTIME
from service.web import audit, deliveries, notifications, overview, signin, submissions, vms
from service.web.live import LivePages
from service.web.pages import SESSIONS, page
from service.web.rendering import static
from service.web.sessions import Sessions

LIVE: Final = web.AppKey("live", LivePages)

#: Pages load nothing from elsewhere, run no script but ours, and stand in nobody's frame.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

_PAGES: Final[dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]] = {
    "/": overview.show,
    "/submissions": submissions.index,
    "/submissions/{id}": submissions.show,
    "/submissions/{id}/cancel": submissions.confirm,
    "/vms": vms.index,
    "/vms/{ref}": vms.show,
    "/vms/{ref}/delete": vms.confirm,
    "/orphans": vms.orphans,
    "/events": deliveries.index,
    "/events/{event_id}": deliveries.show,
    "/calls": deliveries.calls,
    "/notifications": notifications.index,
    "/notifications/{message_id}": notifications.show,
    "/audit": audit.show,
}
_FORMS: Final[dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]] = {
    "/submissions/{id}/cancel": submissions.cancel,
    "/vms/{ref}/delete": vms.delete,
    "/events/{event_id}/replay": deliveries.replay,
    "/notifications/{message_id}/replay": notifications.replay,
    "/signout": signin.sign_out,
}


def add_dashboard(app: web.Application) -> None:
    """Add the pages to the app of the operator's listener. They ask for a session, not for a token."""
    rt = app[RUNTIME]
    app[SESSIONS] = Sessions(rt.callback_secrets[0])
    app[LIVE] = LivePages(rt)
    app.on_shutdown.append(_close)
    app.on_response_prepare.append(_secure)
    for path, handler in _PAGES.items():
        app.router.add_get(path, page(handler))
    for path, handler in _FORMS.items():
        app.router.add_post(path, page(handler))
    app.router.add_get("/live", page(app[LIVE].follow, timeout=None))
    app.router.add_get("/signin", signin.show)
    app.router.add_post("/signin", signin.sign_in)
    app.router.add_get("/static/{name}", _static)
    app[OPEN] |= {*_PAGES, *_FORMS, "/live", "/signin", "/static/{name}"}


async def _close(app: web.Application) -> None:
    await app[LIVE].close()


async def _secure(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


async def _static(request: web.Request) -> web.Response:
    try:
        text, content_type = static(request.match_info["name"])
    except KeyError:
        raise web.HTTPNotFound from None
    return web.Response(text=text, content_type=content_type, headers={"Cache-Control": "no-cache"})
