"""What every page has around it: somebody who is signed in, errors as pages, and a limit to how long it takes."""

import asyncio
import hmac
from dataclasses import replace
from functools import wraps
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from yarl import URL

from service.api import problems
from service.api.access import admit
from service.api.context import CALLER, CALLERS, runtime
from service.api.route import Access
from service.errors import Invalid, ServiceError, StorageError
from service.web.rendering import SESSION, html
from service.web.sessions import COOKIE, Session, Sessions
from service.web.shared import SHARED, TIMEOUT

SESSIONS: Final = web.AppKey("sessions", Sessions)

_RETRY_AFTER: Final = "10"  # seconds
_BUSY: Final = "The database does not answer. Callbacks are kept meanwhile; this page works again once it is back."
_SLOW: Final = (
    "The answer took too long and was given up: the database is slow or away, or much was asked for. "
    "Callbacks are kept meanwhile. Try again, or ask for less."
)


class FormRefusedError(Exception):
    """A form that does not come from this session's pages."""


def page(handler: Handler, access: Access, *, timeout: float | None = TIMEOUT) -> Handler:
    """A handler for somebody who is signed in and has the role that `access` asks for.

    Anybody else is sent to the sign-in page, and comes back from there; with too small a role, they are refused.
    """

    @wraps(handler)
    async def wrapped(request: web.Request) -> web.StreamResponse:
        try:
            session = await signed_in(request)
            if session is None:
                return redirect(str(_sign_in(request)))
            request[SESSION], request[CALLER] = session, session.caller
            async with asyncio.timeout(timeout):
                await admit(request, session.caller, _exporting(request, access))
                return await _handle(request, handler)
        except TimeoutError:
            return _error(request, HTTPStatus.SERVICE_UNAVAILABLE, "Not just now", [_SLOW])
        except StorageError:
            return _error(request, HTTPStatus.SERVICE_UNAVAILABLE, "Not just now", [_BUSY])
        except FormRefusedError:
            text = (
                "This form was not sent from a page of yours, or the page is old. Open it again and send it from there."
            )
            return _error(request, HTTPStatus.FORBIDDEN, "Refused", [text])
        except ServiceError as error:
            kind = problems.of(error)
            if kind is problems.INTERNAL:
                raise
            return _error(request, HTTPStatus(kind.status), kind.title, _texts(error))

    return wrapped


async def signed_in(request: web.Request) -> Session | None:
    """The session that the request's cookie is of. Raises `StorageUnavailable` if its token cannot be checked now."""
    now = runtime(request).clock.now()
    return await request.app[SESSIONS].read(request.cookies.get(COOKIE, ""), request.app[CALLERS], now)


async def check_form(request: web.Request) -> None:
    """Let a form through that was sent from a page of this session. Raises `FormRefusedError` for any other."""
    fields = await request.post()
    given = str(fields.get("csrf", ""))
    elsewhere = request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}
    if elsewhere or not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), request[SESSION].csrf.encode()):
        raise FormRefusedError


async def _handle(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    finally:
        if request.method not in {"GET", "HEAD"}:  # the next page shows what the form did
            request.app[SHARED].forget()


def redirect(path: str) -> web.Response:
    """Send a browser to another page, as after a form was accepted."""
    return web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": path})


def _exporting(request: web.Request, access: Access) -> Access:
    # A list as CSV is all of it.
    return replace(access, export=True) if request.query.get("format") == "csv" else access


def _sign_in(request: web.Request) -> URL:
    query = {"next": str(request.rel_url)} if request.method == "GET" else {}
    if COOKIE in request.cookies:
        query["reason"] = "expired"
    return URL("/signin").with_query(query)


def _error(request: web.Request, status: HTTPStatus, title: str, texts: list[str]) -> web.Response:
    found = html(request, "error.html", status=status, title=title, texts=texts)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        found.headers["Retry-After"] = _RETRY_AFTER
    return found


def _texts(error: ServiceError) -> list[str]:
    if isinstance(error, Invalid):
        return [f"{one.field}: {one.message}" for one in error.field_errors]
    return [str(error)]
