"""Commands that show the evidence itself: what was heard, and what was asked of the provider."""

from typing import Annotated, Any

import typer

from service.cli import views
from service.cli.api_client import daemon
from service.cli.as_of import moment
from service.cli.output import as_json, facts
from service.cli.show import All, Json, Limit, Of, listing

Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="only from then on: 2026-03-01 (its start, in UTC), or 2026-03-01T12:00Z"),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="only before then")]


def events(
    ctx: typer.Context,
    submission: Of = None,
    creation: Annotated[int | None, typer.Option(help="only of this creation of the submission")] = None,
    dead_letter: Annotated[
        str | None, typer.Option(help="only those that told us nothing: unreadable, unknown_vm, poison or any")
    ] = None,
    source: Annotated[str | None, typer.Option(help="callback or history")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100,
    all_: All = False,
    json_: Json = False,
) -> None:
    """List what was heard, newest first: callbacks, and entries of the provider's events histories."""
    wanted = None if all_ else limit
    found = daemon(ctx).items(
        "v1",
        "events",
        limit=wanted,
        submission_id=submission,
        creation_no=creation,
        dead_letter=dead_letter,
        source=source,
        since=moment("--since", since),
        until=moment("--until", until),
    )
    listing(list(found), views.EVENTS, wanted, json_=json_, nothing="no such events")


def event(
    ctx: typer.Context,
    event: Annotated[str, typer.Argument(metavar="EVENT_ID", help="the event's id, in full")],
    json_: Json = False,
) -> None:
    """Show an event as it came, with its headers and its body.

    Callback tokens are struck out.
    """
    found: dict[str, Any] = daemon(ctx).get("v1", "events", event)
    if json_:
        as_json(found)
        return
    facts(f"event {found['event']['event_id']}", views.event(found["event"]))
    if found["headers"]:
        facts("headers", found["headers"])
    if found["body"]:
        facts("body", views.body_facts(found["body"]))
        print(views.body(found["body"]))


def calls(
    ctx: typer.Context,
    submission: Of = None,
    operation: Annotated[str | None, typer.Option(help="such as create, list or delete")] = None,
    outcome: Annotated[
        str | None, typer.Option(help="such as ok or unconfirmed; none: its end is not on record, as if a daemon died")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100,
    all_: All = False,
    json_: Json = False,
) -> None:
    """List calls to the provider and what came of them, newest first."""
    wanted = None if all_ else limit
    found = daemon(ctx).items(
        "v1",
        "calls",
        limit=wanted,
        submission_id=submission,
        operation=operation,
        outcome=outcome,
        since=moment("--since", since),
        until=moment("--until", until),
    )
    listing(list(found), views.CALLS, wanted, json_=json_, nothing="no such calls")
