"""The routes of the audit: what searches the record, and takes it along."""

from typing import Final

from service.api import as_of, export, log, query, search, statistics, stream, stream_filter
from service.api.route import Route
from service.audit.export_formats import CONTENT_TYPES
from service.core.api_token import Role

AUDIT_ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/search",
        role=Role.READ,
        handler=search.index,
        summary="Search VMs, submissions, transitions, events, calls and actions, newest first",
        query=search.SearchQuery,
        answers={200: "SearchResult[]"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/stream",
        role=Role.READ,
        handler=stream.follow,
        summary="Stream what is recorded, as it is recorded: server-sent events; Last-Event-ID goes on without a gap or a repeat",
        query=stream_filter.StreamQuery,
        answers={200: None},
        streams=("text/event-stream",),
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/diff",
        role=Role.READ,
        handler=as_of.difference,
        summary="What is different between two moments: VMs that appeared, are gone or changed",
        query=query.DiffQuery,
        answers={200: "Difference"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/statistics",
        role=Role.READ,
        handler=statistics.show,
        summary="Statistics of a period: how long VMs took, what failed, callbacks, availability; JSON or CSV, as `/v1/cost`",
        query=statistics.StatisticsQuery,
        answers={200: "Statistics"},
        csv=True,
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/statistics/availability",
        role=Role.READ,
        handler=statistics.fleets,
        summary="For which share of a period each fleet had as many VMs up as were asked for, oldest submission first",
        query=statistics.AvailabilityQuery,
        answers={200: "FleetAvailability[]"},
        fails=(404, 422),
    ),
    Route(
        method="GET",
        path="/v1/log",
        role=Role.READ,
        handler=log.show,
        summary="The log that proves the record: how far it has come, its keys, and its last checkpoint",
        answers={200: "Log"},
        fails=(404,),
    ),
    Route(
        method="GET",
        path="/v1/export/begin",
        role=Role.AUDIT,
        export=True,
        handler=export.begin_export,
        summary="Begin an export: its snapshot, the log that verifies it, and its tables",
        answers={200: "Export"},
    ),
    Route(
        method="GET",
        path="/v1/export",
        role=Role.AUDIT,
        export=True,
        handler=export.rows,
        summary="Stream the rows of a table, without secrets",
        query=export.ExportQuery,
        answers={200: None},
        streams=tuple(sorted(set(CONTENT_TYPES.values()))),
        fails=(404, 422),
    ),
)
