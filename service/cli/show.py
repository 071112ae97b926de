"""Commands that only look: submissions, VMs and their stories, orphans, the fleet in numbers."""

from typing import Annotated, Any

import typer

from service.cli import as_of, views
from service.cli.api_client import daemon
from service.cli.output import Column, answer, as_json, facts, say, table, time_of

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Limit = Annotated[int, typer.Option(min=1, help="how many at most; see --all")]
All = Annotated[bool, typer.Option("--all", help="all of them")]
Of = Annotated[str | None, typer.Option("--submission", help="only of this submission")]


def submissions(
    ctx: typer.Context,
    submission: Annotated[str | None, typer.Argument(help="one of them, in full")] = None,
    state: Annotated[str | None, typer.Option(help="open, ready, failed or cancelled")] = None,
    limit: Limit = 100,
    all_: All = False,
    json_: Json = False,
) -> None:
    """List submissions, newest first, or show one."""
    there = daemon(ctx)
    if submission is not None:
        _one_submission(there.get("v1", "submissions", submission), json_=json_)
        return
    wanted = None if all_ else limit
    rows = list(there.items("v1", "submissions", limit=wanted, state=state and state.lower()))
    listing(rows, views.SUBMISSIONS, wanted, json_=json_, nothing="no submissions")


def vms(
    ctx: typer.Context,
    submission: Of = None,
    state: Annotated[str | None, typer.Option(help="such as ACTIVE or ERROR")] = None,
    assignment: Annotated[
        str | None, typer.Option(help="none, wanted, assigned, on_demand, retrying or given_up")
    ] = None,
    ready: Annotated[bool | None, typer.Option("--ready/--not-ready", help="only those that are, or are not")] = None,
    stuck: Annotated[bool | None, typer.Option("--stuck/--not-stuck", help="only those that are, or are not")] = None,
    region: Annotated[str | None, typer.Option(help="only in this region")] = None,
    flavor: Annotated[str | None, typer.Option(help="only of this flavor")] = None,
    contract: Annotated[int | None, typer.Option(help="only on this contract")] = None,
    name: Annotated[str | None, typer.Option(help="only with this in their names")] = None,
    alive: Annotated[
        bool | None, typer.Option("--alive/--ended", help="only those that are not, or are, at their end")
    ] = None,
    at: as_of.At = None,
    limit: Limit = 100,
    all_: All = False,
    json_: Json = False,
) -> None:
    """List VMs in the order in which they were asked for.

    With --at as the record had them at a past moment; --submission and --state go with that.
    """
    wanted = None if all_ else limit
    state = state and state.upper()
    if at is not None:
        others = {
            "--assignment": assignment,
            "--ready": ready,
            "--stuck": stuck,
            "--region": region,
            "--flavor": flavor,
            "--contract": contract,
            "--name": name,
            "--alive": alive,
        }
        then = as_of.vms(daemon(ctx), at, limit=wanted, others=others, submission_id=submission, state=state)
        listing(then, views.VMS_AS_OF, wanted, json_=json_, nothing="no such VMs at that time")
        return
    found = daemon(ctx).items(
        "v1",
        "vms",
        limit=wanted,
        submission_id=submission,
        state=state,
        assignment=assignment,
        ready=ready,
        stuck=stuck,
        region=region,
        flavor=flavor,
        contract_id=contract,
        name=name,
        alive=alive,
    )
    listing(list(found), views.VMS, wanted, json_=json_, nothing="no such VMs")


def vm(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(help="the provider's id, or SUBMISSION.N")],
    json_: Json = False,
) -> None:
    """Show a VM and its story.

    All that is on record: what was asked, called, heard and seen, and what moved it.
    """
    there = daemon(ctx)
    found = there.get("v1", "vms", ref)
    story = list(there.items("v1", "vms", found["ref"], "timeline", limit=None))
    if json_:
        as_json({"vm": found, "timeline": story})
        return
    facts(f"VM {found['ref']}", views.vm(found))
    print()
    table(story, views.TIMELINE, nothing="nothing is on record")


def orphans(
    ctx: typer.Context, submission: Of = None, limit: Limit = 100, all_: All = False, json_: Json = False
) -> None:
    """List VMs of ours that no record waits for.

    They are at the provider and carry our marks; newest first.
    """
    wanted = None if all_ else limit
    rows = list(daemon(ctx).items("v1", "orphans", limit=wanted, submission_id=submission))
    listing(rows, views.ORPHANS, wanted, json_=json_, nothing="no orphans")


def fleet(ctx: typer.Context, submission: Of = None, at: as_of.At = None, json_: Json = False) -> None:
    """Show the fleet in numbers.

    For one submission also what its record rests on: callbacks, readings, calls.
    """
    there = daemon(ctx)
    found = there.get("v1", "fleet", submission_id=submission) if at is None else as_of.fleet(there, at, submission)
    if json_:
        as_json(found)
        return
    if at is not None:
        facts(
            f"{'submission' if submission else 'fleet'} at {time_of(found['fleet']['at'])}",
            views.fleet_as_of(found["fleet"]),
        )
        return
    facts("submission" if submission else "fleet", views.fleet(found["fleet"]))
    if found["evidence_counts"]:
        facts("rests on", views.evidence_counts(found["evidence_counts"]))


def listing(rows: list[Any], columns: tuple[Column, ...], wanted: int | None, *, json_: bool, nothing: str) -> None:
    """Print a list, and say where there may be more of it than the `wanted`."""
    if json_:
        as_json(rows)
    else:
        table(rows, columns, nothing=nothing)
    # Also beside JSON: a script that deletes what is listed would leave the rest running.
    if wanted is not None and len(rows) == wanted:
        say(f"the first {wanted}; --all shows all of them")


def _one_submission(found: dict[str, Any], *, json_: bool) -> None:
    if json_:
        as_json(found)
        return
    facts(f"submission {found['submission_id']} ({found['name']})", views.submission(found))
    for text in (*found["reasons"], *(f"warning: {one}" for one in found["warnings"])):
        answer(f"  {text}")
