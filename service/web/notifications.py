"""The pages of notifications: messages as they were sent, dead letters and their replay, and how the targets are doing."""

from aiohttp import web

from service.api import notifications
from service.web import listing
from service.web.columns import MESSAGES, TARGETS
from service.web.pages import check_form, redirect
from service.web.reading import api, value_of
from service.web.rendering import html


async def index(request: web.Request) -> web.StreamResponse:
    """A page of messages, newest first, below the targets."""
    return await listing.answer(
        request,
        notifications.index,
        MESSAGES,
        template="notifications.html",
        cli="rollcall notify list",
        targets=(await api(request, notifications.targets))["items"],
        target_columns=TARGETS,
    )


async def show(request: web.Request) -> web.Response:
    """A message as it is signed and sent, and what became of it."""
    found = await api(request, notifications.show)
    return html(
        request,
        "notification.html",
        one=found,
        same_by=f"/v1{request.path}",
        cli=f"rollcall notify show {found['message_id']}",
    )


async def replay(request: web.Request) -> web.Response:
    """Deliver a message again."""
    await check_form(request)
    found = await value_of(request, notifications.replay)
    return redirect(f"/notifications/{found['message_id']}")
