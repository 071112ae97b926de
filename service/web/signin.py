"""Signing in with an API token, and signing out."""

from typing import Final

from aiohttp import web

from service.api.access import identify, refuse_token
from service.api.context import runtime
from service.errors import StorageUnavailable
from service.runtime.logs import logger
from service.web.pages import SESSIONS, check_form, redirect, signed_in
from service.web.rendering import html
from service.web.sessions import COOKIE, LIFETIME

_LOG: Final = logger(room="web")
_REASONS: Final = {
    "expired": "Your session has ended: it expired, or its token is no longer valid. Sign in again.",
    "signed-out": "You are signed out.",
}


async def show(request: web.Request) -> web.Response:
    """The sign-in page, and why it is shown."""
    try:
        session = await signed_in(request)
    except StorageUnavailable:
        session = None
    if session is not None:
        return redirect(_inside(request.query.get("next", "/")))
    return _page(request, reason=_REASONS.get(request.query.get("reason", ""), ""))


async def sign_in(request: web.Request) -> web.Response:
    """Sign in: a cookie for a right token; a wrong one is delayed as it is by the API."""
    fields = await request.post()
    token = str(fields.get("token", "")).strip()
    try:
        caller, why = await identify(request, token)
    except StorageUnavailable:
        return _page(
            request, status=503, reason="The database does not answer, so this token cannot be checked. Try again."
        )
    if caller is None:
        await refuse_token(request, why)
        reason = f"This token was refused: {why or 'it is wrong, or it is no longer valid'}."
        return _page(request, status=401, reason=reason)
    now = runtime(request).clock.now()
    response = redirect(_inside(str(fields.get("next", "/"))))
    response.set_cookie(
        COOKIE,
        request.app[SESSIONS].cookie(caller, now),
        max_age=LIFETIME,
        httponly=True,
        samesite="Strict",
        secure=_is_behind_tls(request),
        path="/",
    )
    _LOG.info("signed in", action="sign in", caller=caller.name)
    return response


async def sign_out(request: web.Request) -> web.Response:
    """Sign out: the browser forgets its cookie."""
    await check_form(request)
    response = redirect("/signin?reason=signed-out")
    response.del_cookie(COOKIE, path="/")
    return response


def _page(request: web.Request, *, status: int = 200, reason: str = "") -> web.Response:
    return html(request, "signin.html", status=status, reason=reason, following=_inside(request.query.get("next", "/")))


def _inside(target: str) -> str:
    """A path of ours: nobody is sent elsewhere by a link to the sign-in page."""
    is_ours = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if is_ours else "/"


def _is_behind_tls(request: web.Request) -> bool:
    # A forged header can only make the cookie stricter.
    return request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"
