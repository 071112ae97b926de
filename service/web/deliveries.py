"""The pages of the evidence: callbacks as they were delivered, dead letters and their replay, calls to the provider."""

from aiohttp import web

from service.api import evidence
from service.web import listing
from service.web.columns import CALLS, DELIVERIES
from service.web.pages import check_form, redirect
from service.web.reading import api, value_of
from service.web.rendering import html


async def index(request: web.Request) -> web.StreamResponse:
    """A page of deliveries, newest first."""
    return await listing.answer(request, evidence.events, DELIVERIES, template="deliveries.html", cli="rollcall events")


async def show(request: web.Request) -> web.Response:
    """A delivery: its headers and its body, what it said, and what became of it."""
    found = await api(request, evidence.event)
    return html(
        request,
        "delivery.html",
        one=found["event"],
        headers=found["headers"],
        body=found["body"],
        same_by=f"/v1{request.path}",
        cli=f"rollcall events {found['event']['event_id']}",
    )


async def replay(request: web.Request) -> web.Response:
    """Apply a dead letter again."""
    await check_form(request)
    found = await value_of(request, evidence.replay)
    return redirect(f"/events/{found['event']['event_id']}")


async def calls(request: web.Request) -> web.StreamResponse:
    """A page of calls to the provider, newest first."""
    return await listing.answer(request, evidence.calls, CALLS, template="calls.html", cli="rollcall calls")
