"""The pages of VMs: the list, one VM with its timeline, and deleting it."""

from typing import Any
from urllib.parse import quote

from aiohttp import web

from service.api import submissions, vms
from service.api.context import SAMPLED
from service.web import listing, plots
from service.web.columns import ORPHANS, VMS
from service.web.explaining import explain
from service.web.pages import check_form, redirect
from service.web.reading import api, value_of
from service.web.rendering import html


async def index(request: web.Request) -> web.StreamResponse:
    """A page of VMs, oldest submission first."""
    return await listing.answer(request, vms.index, VMS, template="vms.html", cli="rollcall vms")


async def orphans(request: web.Request) -> web.StreamResponse:
    """A page of orphans, newest first."""
    return await listing.answer(request, vms.orphans, ORPHANS, template="orphans.html", cli="rollcall orphans")


async def show(request: web.Request) -> web.Response:
    """A VM: whether it is up and if not, why; and its timeline, drawn and as a list."""
    request[SAMPLED] = True
    one = await api(request, vms.show)
    entries = (await api(request, vms.vm_timeline))["items"]
    marks = plots.timeline_marks(entries)
    request.match_info["id"] = one["submission_id"]
    submission = await api(request, submissions.show)
    return html(
        request,
        "vm.html",
        one=one,
        submission=submission,
        explanation=explain(one, submission),
        entries=[(entry, _evidence(entry)) for entry in entries],
        marks=marks,
        lanes=[(lane, plots.lane_y(lane)) for lane in plots.LANES],
        size=plots.timeline_size(marks),
        same_by=f"/v1/vms/{one['ref']}/timeline",
        cli=f"rollcall vm {one['ref']}",
    )


async def confirm(request: web.Request) -> web.Response:
    """What deleting this VM means, and the button that does it."""
    one = await api(request, vms.show)
    return html(
        request,
        "confirm.html",
        title=f"Delete VM {one['name'] or one['ref']}?",
        texts=[
            f"It is {one['state']}{' and ready' if one['ready'] else ''}. Its disks go with it; this cannot be undone.",
            "It is not replaced.",
        ],
        counts={},
        button="Delete the VM",
        back=f"/vms/{one['ref']}",
    )


async def delete(request: web.Request) -> web.Response:
    """Delete it."""
    await check_form(request)
    deleted = await value_of(request, vms.delete)
    return redirect(f"/vms/{deleted['ref']}")


def _evidence(entry: dict[str, Any]) -> str | None:
    """The page that shows the evidence of a timeline's entry."""
    found = entry["evidence"]
    if found.get("kind") == "event" and found.get("id"):
        return f"/events/{quote(str(found['id']))}"
    return None
