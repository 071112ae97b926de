"""The pages of submissions: the list, one of them with its VMs, and cancelling it."""

from aiohttp import web

from service.api import submissions, vms
from service.core.lifecycle import ENDED
from service.web import listing
from service.web.columns import SUBMISSIONS, VMS
from service.web.pages import check_form, redirect
from service.web.reading import api, value_of
from service.web.rendering import html

_MOST = "200"


async def index(request: web.Request) -> web.StreamResponse:
    """A page of submissions, newest first."""
    return await listing.answer(
        request, submissions.index, SUBMISSIONS, template="submissions.html", cli="rollcall submissions"
    )


async def show(request: web.Request) -> web.Response:
    """A submission: how far it is, what it waits for, and its VMs."""
    found = await api(request, submissions.show)
    of_it = await api(request, vms.index, {"submission_id": found["submission_id"], "limit": _MOST})
    return html(
        request,
        "submission.html",
        one=found,
        items=of_it["items"],
        all_vms=f"/vms?submission_id={found['submission_id']}",
        columns=VMS,
        same_by=f"/v1{request.path}",
        cli=f"rollcall submissions {found['submission_id']}",
    )


async def confirm(request: web.Request) -> web.Response:
    """What cancelling this submission would delete, and the button that does it."""
    found = await api(request, submissions.show)
    alive = {state: number for state, number in found["counts"].items() if state not in ENDED}
    return html(
        request,
        "confirm.html",
        title=f"Cancel submission {found['name']}?",
        texts=[
            f"This deletes every VM of the submission that is still there: {found['current']['count']} of {found['count']}.",
            "Nothing more is created for it. This cannot be undone.",
        ],
        counts=alive,
        button="Cancel the submission",
        back=f"/submissions/{found['submission_id']}",
    )


async def cancel(request: web.Request) -> web.Response:
    """Cancel it."""
    await check_form(request)
    cancelled = await value_of(request, submissions.cancel)
    return redirect(f"/submissions/{cancelled['submission_id']}")
