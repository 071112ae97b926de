"""Commands that show the present: submissions, VMs and their timelines, orphans, the fleet in numbers."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from service.cli import as_of, cost_views, views
from service.cli.api_client import api_client, submission_id
from service.cli.options import All, Columns, Json, Limit, OfSubmission, OneJson, Wide, limit_of, print_list
from service.cli.output import Layout, answer, as_json, facts, table, time_of


def submissions(
    ctx: typer.Context,
    submission: Annotated[
        str | None, typer.Argument(help="show this one in full: its id, a unique prefix, or its name")
    ] = None,
    state: Annotated[str | None, typer.Option(help="open, ready, failed or cancelled")] = None,
    limit: Limit = None,
    all_: All = False,
    wide: Wide = False,
    columns: Columns = None,
    json_: Json = False,
) -> None:
    """List submissions, newest first, or show one."""
    client = api_client(ctx)
    if submission is not None:
        _one_submission(client.submission(submission), json_=json_)
        return
    wanted = limit_of(limit, all_=all_, json_=json_)
    rows = client.submissions(limit=wanted, state=state and state.lower())
    layout = Layout(wide, columns)
    print_list(rows, views.SUBMISSIONS, limit=wanted, json_=json_, nothing="no submissions", layout=layout)


def vms(
    ctx: typer.Context,
    submission: OfSubmission = None,
    state: Annotated[str | None, typer.Option(help="such as ACTIVE or ERROR")] = None,
    assignment: Annotated[
        str | None, typer.Option(help="none, wanted, assigned, on_demand, retrying or given_up")
    ] = None,
    ready: Annotated[bool | None, typer.Option("--ready/--not-ready", help="only VMs that are, or are not")] = None,
    stuck: Annotated[bool | None, typer.Option("--stuck/--not-stuck", help="only VMs that are, or are not")] = None,
    region: Annotated[str | None, typer.Option(help="only in this region")] = None,
    flavor: Annotated[str | None, typer.Option(help="only of this flavor")] = None,
    contract: Annotated[int | None, typer.Option(help="only on this contract")] = None,
    name: Annotated[str | None, typer.Option(help="only with this in their names")] = None,
    alive: Annotated[
        bool | None, typer.Option("--alive/--ended", help="only VMs that have not, or have, ended")
    ] = None,
    at: as_of.At = None,
    known_at: as_of.KnownAt = None,
    limit: Limit = None,
    all_: All = False,
    wide: Wide = False,
    columns: Columns = None,
    json_: Json = False,
) -> None:
    """List VMs, oldest submission first.

    With --at, as they were on record at a past moment; only --submission and --state go with it.
    """
    client = api_client(ctx)
    wanted = limit_of(limit, all_=all_, json_=json_)
    layout = Layout(wide, columns)
    both: dict[str, Any] = {"submission_id": submission_id(client, submission), "state": state and state.upper()}
    present: dict[str, Any] = {
        "assignment": assignment,
        "ready": ready,
        "stuck": stuck,
        "region": region,
        "flavor": flavor,
        "contract": contract,
        "name": name,
        "alive": alive,
    }
    known = as_of.known(at, known_at)
    if at is not None:
        as_of.refuse_present_filters(present)
        past = client.vms_at(limit=wanted, time=as_of.moment("--at", at) or at, known_at=known, **both)
        nothing = "no such VMs at that time"
        print_list(past, views.VMS_AS_OF, limit=wanted, json_=json_, nothing=nothing, layout=layout)
        return
    present["contract_id"] = present.pop("contract")
    rows = client.vms(limit=wanted, **both, **present)
    print_list(rows, views.VMS, limit=wanted, json_=json_, nothing="no such VMs", layout=layout)


def vm(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(help="the provider's id, SUBMISSION.N, or the VM's name")],
    json_: OneJson = False,
) -> None:
    """Show a VM, what it costs, and its timeline: every action, call, event and transition on record."""
    client = api_client(ctx)
    found = client.vm(ref)
    timeline = list(client.vm_timeline(found["ref"]))
    cost = client.vm_cost(found["ref"])
    if json_:
        as_json({"vm": found, "cost": cost, "timeline": timeline})
        return
    facts(f"VM {found['ref']}", views.vm(found))
    facts(f"money, an estimate in {cost['currency']}", cost_views.vm(found, cost))
    print()
    table(timeline, views.TIMELINE, nothing="nothing is on record")


def orphans(
    ctx: typer.Context,
    submission: OfSubmission = None,
    limit: Limit = None,
    all_: All = False,
    wide: Wide = False,
    columns: Columns = None,
    json_: Json = False,
) -> None:
    """List orphans, newest first: VMs with our ownership tags that no creation waits for."""
    client = api_client(ctx)
    wanted = limit_of(limit, all_=all_, json_=json_)
    rows = client.orphans(limit=wanted, submission_id=submission_id(client, submission))
    layout = Layout(wide, columns)
    print_list(rows, views.ORPHANS, limit=wanted, json_=json_, nothing="no orphans", layout=layout)


def fleet(
    ctx: typer.Context,
    submission: OfSubmission = None,
    at: as_of.At = None,
    known_at: as_of.KnownAt = None,
    json_: OneJson = False,
) -> None:
    """Show the fleet in numbers; for one submission also how much evidence there is of each kind."""
    client = api_client(ctx)
    known = as_of.known(at, known_at)
    of = submission_id(client, submission)
    what = "submission" if submission else "fleet"
    if at is not None:
        past = client.fleet_at(time=as_of.moment("--at", at) or at, known_at=known, submission_id=of)
        if json_:
            as_json(past)
        else:
            facts(f"{what} at {time_of(past['fleet']['at'])}", views.fleet_as_of(past["fleet"]))
        return
    found = client.fleet(submission_id=of)
    if json_:
        as_json(found)
        return
    facts(what, views.fleet(found["fleet"]))
    if found["evidence_counts"]:
        facts("evidence", views.evidence_counts(found["evidence_counts"]))


def _one_submission(found: Mapping[str, Any], *, json_: bool) -> None:
    if json_:
        as_json(found)
        return
    facts(f"submission {found['submission_id']} ({found['name']})", views.submission(found))
    for text in (*found["reasons"], *(f"warning: {one}" for one in found["warnings"])):
        answer(f"  {text}")
