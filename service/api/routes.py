"""The table of routes. The application and the OpenAPI document are both made from it."""

from typing import Final

from aiohttp import web

from service.api import as_of, cost, evidence, fleet, query, submissions, vms
from service.api.audit_routes import AUDIT_ROUTES
from service.api.catalogue_routes import CATALOGUE_ROUTES
from service.api.context import DOCUMENT, answer
from service.api.notifications import NOTIFICATION_ROUTES
from service.api.route import Route
from service.api.tokens import TOKEN_ROUTES
from service.core.api_token import Role


async def document(request: web.Request) -> web.Response:
    return answer(request.app[DOCUMENT])


_KEY: Final = (
    "1 to 255 printable ASCII characters; the same key and body make one submission, however often they are sent"
)

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/submissions",
        role=Role.SUBMIT,
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
        role=Role.READ,
        handler=submissions.index,
        summary="List submissions, newest first",
        query=query.SubmissionQuery,
        answers={200: "Submission[]"},
        fails=(422,),
    ),
    Route(
        method="GET",
        path="/v1/submissions/{id}",
        role=Role.READ,
        handler=submissions.show,
        summary="Show a submission; 422 if its name is ambiguous",
        answers={200: "Submission"},
        fails=(404, 422),
    ),
    Route(
        method="PATCH",
        path="/v1/submissions/{id}",
        role=Role.SUBMIT,
        handler=submissions.change,
        summary="Change when a submission's VMs are deleted, or whether its count is kept; 409 if it is cancelled",
        body="SubmissionChange",
        answers={200: "Submission"},
        fails=(404, 409, 413, 422),
    ),
    Route(
        method="POST",
        path="/v1/submissions/{id}/cancel",
        role=Role.SUBMIT,
        handler=submissions.cancel,
        summary="Cancel a submission: nothing more is created, and its VMs are deleted",
        answers={202: "Submission"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/vms",
        role=Role.READ,
        handler=vms.index,
        summary="List VMs, oldest submission first",
        query=query.VmQuery,
        answers={200: "Vm[]"},
        fails=(422,),
    ),
    Route(
        method="GET",
        path="/v1/vms/at",
        role=Role.READ,
        handler=as_of.vms,
        summary="List VMs as they were on record at a past moment",
        query=query.VmsAtQuery,
        answers={200: "VmAsOf[]"},
        fails=(422,),
    ),
    Route(
        method="GET",
        path="/v1/vms/{ref}",
        role=Role.READ,
        handler=vms.show,
        summary="Show a VM; 422 if its name is ambiguous",
        answers={200: "Vm"},
        fails=(404, 422),
    ),
    Route(
        method="DELETE",
        path="/v1/vms/{ref}",
        role=Role.SUBMIT,
        handler=vms.delete,
        summary="Delete a VM; 200 if it is already deleted",
        answers={202: "Vm", 200: "Vm"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/vms/{ref}/cost",
        role=Role.READ,
        handler=cost.show_vm,
        summary="Estimate what a VM costs per hour now, and has cost in its life",
        answers={200: "VmCost"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/vms/{ref}/timeline",
        role=Role.READ,
        handler=vms.vm_timeline,
        summary="Everything on record about a VM, oldest first",
        query=query.TimelineQuery,
        answers={200: "TimelineItem[]"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/orphans",
        role=Role.READ,
        handler=vms.orphans,
        summary="List orphans, newest first: VMs at the provider with our ownership tags that no creation waits for",
        query=query.OrphanQuery,
        answers={200: "Orphan[]"},
        fails=(422,),
    ),
    Route(
        method="GET",
        path="/v1/fleet",
        role=Role.READ,
        handler=fleet.show,
        summary="The fleet in numbers; for one submission also its evidence counts",
        query=query.FleetQuery,
        answers={200: "FleetNow"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/fleet/at",
        role=Role.READ,
        handler=as_of.fleet,
        summary="The fleet in numbers, as it was on record at a past moment",
        query=query.FleetAtQuery,
        answers={200: "FleetAt"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/off-contract",
        role=Role.READ,
        handler=as_of.off_contract,
        summary="The times in a period when VMs ran on demand although a contract was requested, and their total",
        query=query.OffContractQuery,
        answers={200: "OffContractPeriod"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/cost",
        role=Role.READ,
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
        role=Role.READ,
        handler=evidence.events,
        summary="List events as they were received, newest first: callbacks, and entries of the provider's event history",
        query=query.EventQuery,
        answers={200: "Event[]"},
        fails=(422,),
    ),
    Route(
        method="GET",
        path="/v1/events/{event_id}",
        role=Role.READ,
        handler=evidence.event,
        summary="Show an event with its headers and its body; callback tokens are redacted",
        answers={200: "WholeEvent"},
        fails=(404,),
    ),
    Route(
        method="POST",
        path="/v1/events/{event_id}/replay",
        role=Role.ADMIN,
        handler=evidence.replay,
        summary="Apply a dead letter again, such as after an upgrade; who did it goes on record",
        answers={202: "WholeEvent"},
        fails=(404,),
    ),
    Route(
        method="GET",
        path="/v1/calls",
        role=Role.READ,
        handler=evidence.calls,
        summary="List calls to the provider, newest first",
        query=query.CallQuery,
        answers={200: "Call[]"},
        fails=(422,),
    ),
    *AUDIT_ROUTES,
    *NOTIFICATION_ROUTES,
    *CATALOGUE_ROUTES,
    *TOKEN_ROUTES,
    Route(
        method="GET",
        path="/metrics",
        role=Role.READ,
        handler=fleet.metrics,
        summary="Metrics in Prometheus's text format",
        answers={200: None},
    ),
    Route(
        method="GET",
        path="/openapi.json",
        role=Role.READ,
        handler=document,
        summary="This document",
        answers={200: "Document"},
    ),
    Route(
        method="GET",
        path="/livez",
        role=None,
        handler=fleet.livez,
        summary="Whether the process is alive",
        answers={200: "Alive"},
    ),
    Route(
        method="GET",
        path="/readyz",
        role=None,
        handler=fleet.readyz,
        summary="Whether the daemon can do all of its work; with a token, also its health issues",
        answers={200: "Ready", 503: "Ready"},
    ),
)

#: What every process answers, whether or not it serves the API.
OF_THE_PROCESS: Final = tuple(route for route in ROUTES if not route.path.startswith("/v1/"))
