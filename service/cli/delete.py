"""Commands that take back: delete VMs, cancel a submission. Wishes, which the daemon carries out and keeps at."""

import sys
from typing import Annotated, Any

import typer

from service.cli.api_client import daemon
from service.cli.exits import CliError, Exit
from service.cli.output import as_json, say, table
from service.client.http import ApiClient
from service.core.lifecycle import ENDED

Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def delete(
    ctx: typer.Context,
    refs: Annotated[
        list[str] | None, typer.Argument(metavar="REF...", help="the provider's id, or SUBMISSION.N")
    ] = None,
    submission: Annotated[str | None, typer.Option(help="all VMs of this submission, as `cancel` does")] = None,
    yes: Yes = False,
    json_: Json = False,
) -> None:
    """Delete VMs. The wish is kept until each is gone for certain, also where it is still being created."""
    if bool(refs) == bool(submission):
        raise CliError(Exit.USAGE, "name VMs, or a submission with --submission")
    there = daemon(ctx)
    if submission is not None:
        _cancel(there, submission, yes=yes, json_=json_)
        return
    if not yes and sys.stdin.isatty():
        _ask_back(there, refs or [])
    found = [_delete(there, ref) for ref in refs or []]
    if json_:
        as_json([one for one, _ in found if one])
    else:
        table([one for one, _ in found if one], _COLUMNS, nothing="nothing was deleted")
    failures = [error for _, error in found if error]
    if failures:
        raise CliError(failures[0].code, [line for error in failures for line in error.lines])


def cancel(
    ctx: typer.Context,
    submission: Annotated[str, typer.Argument(help="the submission's id")],
    yes: Yes = False,
    json_: Json = False,
) -> None:
    """Cancel a submission.

    What was not sent never will be, and what was made is deleted.
    """
    _cancel(daemon(ctx), submission, yes=yes, json_=json_)


_COLUMNS = (
    ("ref", lambda one: one["ref"]),
    ("provider id", lambda one: one["provider_id"]),
    ("state", lambda one: one["state"]),
    ("desired_state", lambda one: "at its end" if one["ended_at"] else "to be gone"),
)


def _ask_back(there: ApiClient, refs: list[str]) -> None:
    """Show which VMs are meant, since the provider's ids all look alike, and ask."""
    found = [one for ref in refs if (one := _seen(there, ref)) is not None and one["ended_at"] is None]
    for one in found:
        say(f"{one['ref']}  {one['name'] or 'no name yet'}  {one['state']}")
    if found:
        typer.confirm("Delete it?" if len(found) == 1 else f"Delete these {len(found)} VMs?", abort=True, err=True)


def _seen(there: ApiClient, ref: str) -> dict[str, Any] | None:
    # What cannot be shown cannot be deleted either, and is said then.
    try:
        found: dict[str, Any] = there.get("v1", "vms", ref)
    except CliError as error:
        if error.code is Exit.UNREACHABLE:
            raise
        return None
    return found


def _delete(there: ApiClient, ref: str) -> tuple[dict[str, Any] | None, CliError | None]:
    # One that cannot be deleted is no reason to leave the others; all that failed is said at the end.
    try:
        return there.ask("DELETE", "v1", "vms", ref), None
    except CliError as error:
        if error.code is Exit.UNREACHABLE:
            raise
        return None, CliError(error.code, [f"{ref}: {line}" for line in error.lines])


def _cancel(there: ApiClient, submission: str, *, yes: bool, json_: bool) -> None:
    found = there.get("v1", "submissions", submission)
    if not yes and sys.stdin.isatty():
        alive = sum(number for state, number in found["counts"].items() if state not in ENDED)
        typer.confirm(
            f"Withdraw the {alive} VMs of {found['name']} that are not at their end?"
            if alive
            else f"All VMs of {found['name']} are at their end. Cancel it all the same?",
            abort=True,
            err=True,
        )
    cancelled = there.ask("POST", "v1", "submissions", submission, "cancel")
    if json_:
        as_json(cancelled)
    else:
        say(
            f"submission {submission} is {cancelled['state']}; its VMs are to be gone: rollcall vms --submission {submission}"
        )
