"""The pages of API tokens: the list, creating one, which is shown this once, and revoking one."""

from typing import Any, Final

from aiohttp import web

from service.api import tokens
from service.core.api_token import Role
from service.web import listing
from service.web.columns import TOKENS, with_revoke
from service.web.pages import check_form, redirect
from service.web.reading import value_of
from service.web.rendering import SESSION, html

#: Fields of the form that hold whole numbers.
_COUNTS: Final = ("max_vms", "max_gpus", "requests_per_minute")
_TEXTS: Final = ("name", "role", "lifetime", "max_price_per_hour")


async def index(request: web.Request) -> web.StreamResponse:
    """A page of tokens, newest first, and the form that creates one."""
    return await listing.answer(
        request,
        tokens.index,
        with_revoke(TOKENS) if request[SESSION].may("admin") and request.query.get("format") != "csv" else TOKENS,
        template="tokens.html",
        cli="rollcall token list",
        roles=list(Role),
    )


async def create(request: web.Request) -> web.Response:
    """Create the token that the form describes, and show it, this once."""
    await check_form(request)
    fields = await request.post()
    made = await tokens.new_token(
        request, _body({name: str(fields.get(name, "")).strip() for name in _COUNTS + _TEXTS})
    )
    return html(
        request,
        "token.html",
        one=made,
        method="POST",
        same_by="/v1/tokens",
        cli=f"rollcall token create {made.name} --role {made.role}",
    )


async def confirm(request: web.Request) -> web.Response:
    """What revoking these tokens means, and the button that does it."""
    name = request.match_info["name"]
    return html(
        request,
        "confirm.html",
        title=f"Revoke {name}?",
        texts=[
            "Whoever uses it is refused within 5 seconds, and sessions of the dashboard that it signed in end.",
            "Its submissions and VMs stay. This cannot be undone; a new token can have the same name.",
        ],
        counts={},
        button="Revoke the token",
        back="/tokens",
    )


async def revoke(request: web.Request) -> web.Response:
    """Revoke it."""
    await check_form(request)
    await value_of(request, tokens.revoke)
    return redirect("/tokens")


def _body(fields: dict[str, str]) -> dict[str, Any]:
    """The body of `POST /v1/tokens`: what was left empty is left out, and a number that is none is left to be refused."""
    given: dict[str, Any] = {name: text for name, text in fields.items() if text}
    return given | {name: int(given[name]) for name in _COUNTS if given.get(name, "").isdecimal()}
