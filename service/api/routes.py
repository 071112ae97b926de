"""The table of routes. The application and the OpenAPI document are both made from it."""

from typing import Final

from aiohttp import web

from service.api import as_of, cost, evidence, fleet, imports, query, submissions, vms
from service.api.catalogue_routes import CATALOGUE_ROUTES
from service.api.context import DOCUMENT, answer
from service.api.route import Route


async def document(request: web.Request) -> web.Response:
    return answer(request.app[DOCUMENT])


_KEY: Final = (
    "1 to 255 printable ASCII characters; the same key and body make one submission, however often they are sent"
)

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/submissions",
        handler=submissions.create,
        summary="Create a submission: ask for VMs",
        body="SubmissionRequest",
        headers={"Idempotency-Key": _KEY},
        query=query.SubmitQuery,
        answers={201: "Submission", 200: "SubmissionOrDryRun"},
        fails=(409, 413, 422),
    ),
    Route(
        method="GET",
        path="/v1/submissions",
        handler=submissions.index,
        summary="List submissions, newest first",
        query=query.SubmissionQuery,
        answers={200: "Submission[]"},
        fails=(422,),
    ),
    Route(
        method="GET",
        path="/v1/submissions/{id}",
        handler=submissions.show,
        summary="Show a submission; 422 if its name is ambiguous",
        answers={200: "Submission"},
        fails=(404, 422),
    ),
    Route(
        method="PATCH",
        path="/v1/submissions/{id}",
        handler=submissions.change,
        summary="Change when a submission's VMs are deleted, or whether its count is kept; 409 if it is cancelled",
        body="SubmissionChange",
        answers={200: "Submission"},
        fails=(404, 409, 413, 422),
    ),
    Route(
        method="POST",
        path="/v1/submissions/{id}/cancel",
        handler=submissions.cancel,
        summary="Cancel a submission: nothing more is created, and its VMs are deleted; 409 if they were imported",
        answers={202: "Submission"},
        fails=(404, 409, 422),
    ),
    Route(
        method="POST",
        path="/v1/imports",
        handler=imports.create,
        summary="Import VMs that others made: put them on record, and attach callback URLs to those that have none",
        body="ImportRequest",
        query=query.ImportQuery,
        answers={201: "ImportReport", 200: "ImportReport"},
        fails=(413, 422, 502),
    ),
    Route(
        method="POST",
        path="/v1/submissions/{id}/release",
        handler=imports.release_submission,
        summary="Release all VMs of an imported submission: nothing is done to them any more",
        answers={200: "Vm[]"},
        fails=(404, 409, 422),
    ),
    Route(
        method="POST",
        path="/v1/vms/{ref}/release",
        handler=imports.release_vm,
        summary="Release an imported VM: nothing is done to it any more; 409 if Rollcall made it",
        answers={200: "Vm"},
        fails=(404, 409, 422),
    ),
    Route(
        method="GET",
        path="/v1/vms",
        handler=vms.index,
        summary="List VMs, oldest submission first",
        query=query.VmQuery,
        answers={200: "Vm[]"},
        fails=(422,),
    ),
    Route(
        method="GET",
        path="/v1/vms/at",
        handler=as_of.vms,
        summary="List VMs as they were on record at a past moment",
        query=query.VmsAtQuery,
        answers={200: "VmAsOf[]"},
        fails=(422,),
    ),
    Route(
        method="GET",
        path="/v1/vms/{ref}",
        handler=vms.show,
        summary="Show a VM; 422 if its name is ambiguous",
        answers={200: "Vm"},
        fails=(404, 422),
    ),
    Route(
        method="DELETE",
        path="/v1/vms/{ref}",
        handler=vms.delete,
        summary="Delete a VM; 200 if it is already deleted",
        answers={202: "Vm", 200: "Vm"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/vms/{ref}/cost",
        handler=cost.show_vm,
        summary="Estimate what a VM costs per hour now, and has cost in its life",
        answers={200: "VmCost"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/vms/{ref}/timeline",
        handler=vms.vm_timeline,
        summary="Everything on record about a VM, oldest first",
        query=query.TimelineQuery,
        answers={200: "TimelineItem[]"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/orphans",
        handler=vms.orphans,
        summary="List orphans, newest first: VMs at the provider with our ownership tags that no creation waits for",
        query=query.OrphanQuery,
        answers={200: "Orphan[]"},
        fails=(422,),
    ),
    Route(
        method="GET",
        path="/v1/fleet",
        handler=fleet.show,
        summary="The fleet in numbers; for one submission also its evidence counts",
        query=query.FleetQuery,
        answers={200: "FleetNow"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/fleet/at",
        handler=as_of.fleet,
        summary="The fleet in numbers, as it was on record at a past moment",
        query=query.FleetAtQuery,
        answers={200: "FleetAt"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/off-contract",
        handler=as_of.off_contract,
        summary="The times in a period when VMs ran on demand although a contract was requested, and their total",
        query=query.OffContractQuery,
        answers={200: "OffContractPeriod"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/cost",
        handler=cost.show,
        summary="Estimate what VMs cost in a period, by a key; JSON, or CSV by `format=csv` or `Accept: text/csv`",
        query=cost.CostQuery,
        answers={200: "CostReport"},
        csv=True,
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/events",
        handler=evidence.events,
        summary="List events as they were received, newest first: callbacks, and entries of the provider's event history",
        query=query.EventQuery,
        answers={200: "Event[]"},
        fails=(422,),
    ),
    Route(
        method="GET",
        path="/v1/events/{event_id}",
        handler=evidence.event,
        summary="Show an event with its headers and its body; callback tokens are redacted",
        answers={200: "WholeEvent"},
        fails=(404,),
    ),
    Route(
        method="POST",
        path="/v1/events/{event_id}/replay",
        handler=evidence.replay,
        summary="Apply a dead letter again, such as after an upgrade; who did it goes on record",
        answers={202: "WholeEvent"},
        fails=(404,),
    ),
    Route(
        method="GET",
        path="/v1/calls",
        handler=evidence.calls,
        summary="List calls to the provider, newest first",
        query=query.CallQuery,
        answers={200: "Call[]"},
        fails=(422,),
    ),
    *CATALOGUE_ROUTES,
    Route(
        method="GET",
        path="/metrics",
        handler=fleet.metrics,
        summary="Metrics in Prometheus's text format",
        answers={200: None},
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=document,
        summary="This document",
        answers={200: "Document"},
    ),
    Route(
        method="GET",
        path="/livez",
        handler=fleet.livez,
        summary="Whether the process is alive",
        answers={200: "Alive"},
        open=True,
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=fleet.readyz,
        summary="Whether the daemon can do all of its work; with a token, also its health issues",
        answers={200: "Ready", 503: "Ready"},
        open=True,
    ),
)

#: What every process answers, whether or not it serves the API.
OF_THE_PROCESS: Final = tuple(route for route in ROUTES if not route.path.startswith("/v1/"))
