"""The pages of submissions: the list, one of them with its VMs, cancelling it, and letting its VMs live longer."""

from aiohttp import web

from service.api import submissions, vms
from service.api.context import SAMPLED
from service.core.duration import seconds_of
from service.core.lifecycle import ENDED
from service.core.lifetime import extended
from service.core.submission import TEN_YEARS
from service.errors import FieldError, Invalid
from service.web import listing
from service.web.columns import SUBMISSIONS, VMS
from service.web.pages import check_form, redirect
from service.web.reading import api, value_of
from service.web.rendering import html

_MOST = "200"


async def index(request: web.Request) -> web.StreamResponse:
    """A page of submissions, newest first."""
    request[SAMPLED] = request.query.get("format") != "csv"
    return await listing.answer(
        request, submissions.index, SUBMISSIONS, template="submissions.html", cli="rollcall submissions"
    )


async def show(request: web.Request) -> web.Response:
    """A submission: how far it is, what it waits for, and its VMs."""
    request[SAMPLED] = True
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


async def confirm_extension(request: web.Request) -> web.Response:
    """How much longer the VMs shall live; then until when that is, and the button that does it."""
    found, by = await api(request, submissions.show), request.query.get("by", "").strip()
    seconds = seconds_of(by) if by else None
    if by and not (seconds and seconds <= TEN_YEARS):
        raise Invalid([FieldError("by", "must be a duration, such as 30m, 2h or 7d")])
    return html(
        request,
        "extend.html",
        one=found,
        by=by,
        change=extended(found, seconds) if seconds else None,
        method="PATCH",
        same_by=f"/v1/submissions/{found['submission_id']}",
        cli=f"rollcall extend {found['submission_id']} --by {by or '2h'}",
    )


async def extend(request: web.Request) -> web.Response:
    """Let them. The form names the new end, so that sending it twice is the same as once."""
    await check_form(request)
    fields = await request.post()
    given = {name: str(fields[name]) for name in ("lifetime", "expires_at") if fields.get(name)}
    changed = await submissions.changed(request, given)
    return redirect(f"/submissions/{changed['submission_id']}")
