"""Commands about the evidence: events received and the replay of dead letters, and calls to the provider."""

from typing import Annotated

import typer

from service.cli import audit_views, views
from service.cli.api_client import api_client, submission_id
from service.cli.as_of import moment
from service.cli.follow import follow as follow_rows
from service.cli.follow import refuse_filters
from service.cli.options import All, Columns, Json, Limit, OfSubmission, OneJson, Wide, limit_of, print_list
from service.cli.output import Layout, answer, as_json, facts

Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="only from then on: 2026-03-01 (its start, in UTC), or 2026-03-01T12:00Z"),
]
Follow = Annotated[bool, typer.Option("--follow", help="print what is recorded from now on, until Ctrl-C")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="only before then")]


Vm = Annotated[
    str | None,
    typer.Option("--vm", metavar="REF", help="only about this VM: the provider's id, SUBMISSION.N, or its name"),
]


def events(
    ctx: typer.Context,
    submission: OfSubmission = None,
    vm: Vm = None,
    creation: Annotated[int | None, typer.Option(help="only of this creation of the submission")] = None,
    dead_letter: Annotated[
        str | None, typer.Option(help="only dead letters: unreadable, unknown_vm, failed or any")
    ] = None,
    source: Annotated[str | None, typer.Option(help="callback or history")] = None,
    since: Since = None,
    until: Until = None,
    follow: Follow = False,
    limit: Limit = None,
    all_: All = False,
    wide: Wide = False,
    columns: Columns = None,
    json_: Json = False,
) -> None:
    """List events, newest first: callbacks, and entries of the provider's event history."""
    client = api_client(ctx)
    if follow:
        refuse_filters({"dead-letter": dead_letter, "since": since, "until": until, "limit": limit})
        of = submission_id(client, submission)
        follow_rows(client, "events", json_=json_, submission_id=of, vm=vm, creation_no=creation, source=source)
    wanted = limit_of(limit, all_=all_, json_=json_)
    found = client.events(
        limit=wanted,
        submission_id=submission_id(client, submission),
        vm=vm,
        creation_no=creation,
        dead_letter=dead_letter,
        source=source,
        since=moment("--since", since),
        until=moment("--until", until),
    )
    layout = Layout(wide, columns)
    print_list(found, views.EVENTS, limit=wanted, json_=json_, nothing="no such events", layout=layout)


def event(
    ctx: typer.Context,
    event: Annotated[str, typer.Argument(metavar="EVENT_ID", help="the event's id")],
    json_: OneJson = False,
) -> None:
    """Show an event as it was received, with its headers and its body. Callback tokens are redacted."""
    found = api_client(ctx).event(event)
    if json_:
        as_json(found)
        return
    facts(f"event {found['event']['event_id']}", views.event(found["event"]))
    if found["headers"]:
        facts("headers", found["headers"])
    if found["body"]:
        facts("body", views.body_facts(found["body"]))
        print(views.body(found["body"]))


def replay(
    ctx: typer.Context,
    event: Annotated[str, typer.Argument(metavar="EVENT_ID", help="the event's id")],
    json_: OneJson = False,
) -> None:
    """Apply a dead letter again, such as after an upgrade. Who did it goes on record."""
    found = api_client(ctx).replay_event(event)
    if json_:
        as_json(found)
        return
    answer(f"event {found['event']['event_id']} is applied again; `rollcall event` shows the outcome")


def calls(
    ctx: typer.Context,
    submission: OfSubmission = None,
    vm: Vm = None,
    operation: Annotated[str | None, typer.Option(help="such as create, list or delete")] = None,
    outcome: Annotated[
        str | None, typer.Option(help="such as ok or unconfirmed; none: no end on record, as when a daemon is killed")
    ] = None,
    since: Since = None,
    until: Until = None,
    follow: Follow = False,
    limit: Limit = None,
    all_: All = False,
    wide: Wide = False,
    columns: Columns = None,
    json_: Json = False,
) -> None:
    """List calls to the provider and their outcomes, newest first."""
    client = api_client(ctx)
    if follow:
        refuse_filters({"since": since, "until": until, "limit": limit})
        of = submission_id(client, submission)
        which = {"submission_id": of, "vm": vm, "operation": operation, "outcome": outcome}
        follow_rows(client, "calls,call_ends", json_=json_, **which)
    wanted = limit_of(limit, all_=all_, json_=json_)
    found = client.calls(
        limit=wanted,
        submission_id=submission_id(client, submission),
        vm=vm,
        operation=operation,
        outcome=outcome,
        since=moment("--since", since),
        until=moment("--until", until),
    )
    layout = Layout(wide, columns)
    print_list(found, views.CALLS, limit=wanted, json_=json_, nothing="no such calls", layout=layout)


def transitions(
    ctx: typer.Context,
    submission: OfSubmission = None,
    vm: Vm = None,
    state: Annotated[str | None, typer.Option(help="only those to this state, such as ERROR")] = None,
    since: Since = None,
    until: Until = None,
    follow: Follow = False,
    limit: Limit = None,
    all_: All = False,
    wide: Wide = False,
    columns: Columns = None,
    json_: Json = False,
) -> None:
    """List transitions of VMs, newest first: changes of state, and claims that changed nothing."""
    client = api_client(ctx)
    of = submission_id(client, submission)
    if follow:
        refuse_filters({"since": since, "until": until, "limit": limit})
        follow_rows(client, "transitions", json_=json_, submission_id=of, vm=vm, state=state and state.upper())
    wanted = limit_of(limit, all_=all_, json_=json_)
    found = client.search(
        limit=wanted,
        kind="transition",
        submission_id=of,
        vm=vm,
        state=state and state.upper(),
        since=moment("--since", since),
        until=moment("--until", until),
    )
    layout = Layout(wide, columns)
    print_list(found, audit_views.FOUND, limit=wanted, json_=json_, nothing="no such transitions", layout=layout)
