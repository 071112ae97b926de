"""The command `search`: one question to the whole record."""

from typing import Annotated

import typer

from service.cli import audit_views
from service.cli.api_client import api_client, submission_id
from service.cli.as_of import moment
from service.cli.evidence import Since, Until, Vm
from service.cli.options import All, Columns, Json, Limit, OfSubmission, Wide, limit_of, print_list
from service.cli.output import Layout


def search(
    ctx: typer.Context,
    kind: Annotated[str | None, typer.Option(help="only vm, submission, transition, event, call or action")] = None,
    submission: OfSubmission = None,
    vm: Vm = None,
    provider_id: Annotated[int | None, typer.Option(help="of VMs with this id at the provider")] = None,
    name: Annotated[str | None, typer.Option(help="of the VM or the submission with this name")] = None,
    label: Annotated[str | None, typer.Option(help="of submissions with this label")] = None,
    address: Annotated[str | None, typer.Option(help="of VMs with this address, public or private")] = None,
    caller: Annotated[str | None, typer.Option(help="what this caller requested, or did")] = None,
    state: Annotated[str | None, typer.Option(help="in this state, and transitions to it")] = None,
    operation: Annotated[str | None, typer.Option(help="calls of this operation, and actions of this kind")] = None,
    status_code: Annotated[int | None, typer.Option(help="calls that were answered with this HTTP status")] = None,
    dead_letter: Annotated[str | None, typer.Option(help="dead letters: unreadable, unknown_vm, failed or any")] = None,
    text: Annotated[
        str | None, typer.Option(help="events with this in their bodies; with a submission, a VM or --since")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    all_: All = False,
    wide: Wide = False,
    columns: Columns = None,
    json_: Json = False,
) -> None:
    """Search VMs, submissions, transitions, events, calls and actions, newest first. All that is given must hold."""
    client = api_client(ctx)
    wanted = limit_of(limit, all_=all_, json_=json_)
    found = client.search(
        limit=wanted,
        kind=kind,
        submission_id=submission_id(client, submission),
        vm=vm,
        provider_id=provider_id,
        name=name,
        label=label,
        address=address,
        caller=caller,
        state=state,
        operation=operation,
        status_code=status_code,
        dead_letter=dead_letter,
        text=text,
        since=moment("--since", since),
        until=moment("--until", until),
    )
    layout = Layout(wide, columns)
    print_list(found, audit_views.FOUND, limit=wanted, json_=json_, nothing="nothing was found", layout=layout)
