"""The dashboard's table of routes, and how it is added to the operator's listener."""

from typing import Final, NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler

from service.api.context import ACCESS, RUNTIME
from service.api.route import Access
from service.core.api_token import Role
from service.web import (
    api_docs,
    audit,
    cost,
    deliveries,
    log,
    notifications,
    overview,
    signin,
    statistics,
    submissions,
    tokens,
    vms,
)
from service.web.live import LivePages
from service.web.pages import SESSIONS, page
from service.web.rendering import static
from service.web.reports import REPORTS, SharedReports
from service.web.sessions import Sessions
from service.web.shared import SHARED, SharedValues, shared

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

#: Who may see and do what the API lets this role see and do.
_READ: Final = Access(role=Role.READ, session=True)
_SUBMIT: Final = Access(role=Role.SUBMIT, session=True)
_AUDIT: Final = Access(role=Role.AUDIT, session=True)
_ADMIN: Final = Access(role=Role.ADMIN, session=True)
_OPEN: Final = Access(role=None)


class DashboardPage(NamedTuple):
    """A page or a form, and who may use it."""

    method: str
    path: str
    access: Access
    handler: Handler


PAGES: Final = (
    DashboardPage("GET", "/", _READ, shared(overview.show)),
    DashboardPage("GET", "/submissions", _READ, shared(submissions.index)),
    DashboardPage("GET", "/submissions/{id}", _READ, shared(submissions.show)),
    DashboardPage("GET", "/submissions/{id}/cancel", _SUBMIT, submissions.confirm),
    DashboardPage("POST", "/submissions/{id}/cancel", _SUBMIT, submissions.cancel),
    DashboardPage("GET", "/submissions/{id}/extend", _SUBMIT, submissions.confirm_extension),
    DashboardPage("POST", "/submissions/{id}/extend", _SUBMIT, submissions.extend),
    DashboardPage("GET", "/vms", _READ, shared(vms.index)),
    DashboardPage("GET", "/vms/{ref}", _READ, shared(vms.show)),
    DashboardPage("GET", "/vms/{ref}/delete", _SUBMIT, vms.confirm),
    DashboardPage("POST", "/vms/{ref}/delete", _SUBMIT, vms.delete),
    DashboardPage("GET", "/orphans", _READ, shared(vms.orphans)),
    DashboardPage("GET", "/events", _READ, shared(deliveries.index)),
    DashboardPage("GET", "/events/{event_id}", _READ, shared(deliveries.show)),
    DashboardPage("POST", "/events/{event_id}/replay", _ADMIN, deliveries.replay),
    DashboardPage("GET", "/calls", _READ, shared(deliveries.calls)),
    DashboardPage("GET", "/notifications", _READ, shared(notifications.index)),
    DashboardPage("GET", "/notifications/{message_id}", _READ, shared(notifications.show)),
    DashboardPage("POST", "/notifications/{message_id}/replay", _ADMIN, notifications.replay),
    DashboardPage("GET", "/audit", _READ, audit.show),
    DashboardPage("GET", "/audit/statistics", _READ, statistics.show),
    DashboardPage("GET", "/audit/log", _READ, log.show),
    DashboardPage("GET", "/cost", _READ, cost.show),
    DashboardPage("GET", "/tokens", _AUDIT, tokens.index),
    DashboardPage("POST", "/tokens", _ADMIN, tokens.create),
    DashboardPage("GET", "/tokens/{name}/revoke", _ADMIN, tokens.confirm),
    DashboardPage("POST", "/tokens/{name}/revoke", _ADMIN, tokens.revoke),
    DashboardPage("POST", "/signout", _READ, signin.sign_out),
)


def add_dashboard(app: web.Application) -> None:
    """Add the pages to the app of the operator's listener. They ask for a session, not for a token."""
    rt = app[RUNTIME]
    app[SESSIONS] = Sessions(rt.callback_secrets[0])
    app[SHARED] = SharedValues()
    app[LIVE] = LivePages(rt, app[SHARED])
    app[REPORTS] = SharedReports(rt)
    app.on_shutdown.append(_close)
    app.on_response_prepare.append(_secure)
    for method, path, access, handler in PAGES:
        _add(app, method, path, access, page(handler, access))
    _add(app, "GET", "/live", _READ, page(app[LIVE].follow, _READ, timeout=None))
    _add(app, "GET", "/signin", _OPEN, signin.show)
    _add(app, "POST", "/signin", _OPEN, signin.sign_in)
    _add(app, "GET", "/docs", _OPEN, api_docs.show)
    _add(app, "GET", "/static/{name}", _OPEN, _static)


def _add(app: web.Application, method: str, path: str, access: Access, handler: Handler) -> None:
    app[ACCESS][method, path] = access
    if method == "GET":
        app.router.add_get(path, handler)  # and HEAD, as everywhere
    else:
        app.router.add_route(method, path, handler)


async def _close(app: web.Application) -> None:
    await app[LIVE].close()
    await app[SHARED].close()
    await app[REPORTS].close()


async def _secure(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


async def _static(request: web.Request) -> web.Response:
    try:
        text, content_type = static(request.match_info["name"])
    except KeyError:
        raise web.HTTPNotFound from None
    return web.Response(text=text, content_type=content_type, headers={"Cache-Control": "no-cache"})
