"""Commands that delete VMs and cancel submissions. The daemon carries them out, and repeats until it succeeds."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from service.cli.api_client import api_client
from service.cli.exits import CliError, Exit, from_api
from service.cli.options import OneJson
from service.cli.output import Column, as_json, say, table
from service.client.errors import ApiError, ErrorKind
from service.client.results import VmInFullJson, VmJson
from service.client.sync import Rollcall
from service.core.lifecycle import ENDED

Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask; needed without a terminal")]

_COLUMNS = (
    Column("ref", lambda one: one["ref"]),
    Column("provider id", lambda one: one["provider_id"]),
    Column("state", lambda one: one["state"]),
    Column("deletion", lambda one: "already deleted" if one["ended_at"] else "requested"),
)


def delete(
    ctx: typer.Context,
    refs: Annotated[
        list[str] | None, typer.Argument(metavar="REF...", help="the provider's id, SUBMISSION.N, or the VM's name")
    ] = None,
    submission: Annotated[str | None, typer.Option(help="all VMs of this submission, as `cancel` does")] = None,
    yes: Yes = False,
    json_: OneJson = False,
) -> None:
    """Delete VMs. Rollcall repeats the deletion until the provider no longer knows them, also while they are created."""
    if bool(refs) == bool(submission):
        raise CliError(Exit.USAGE, "name VMs, or a submission with --submission")
    _needs_yes(yes)
    client = api_client(ctx)
    if submission is not None:
        _cancel(client, submission, yes=yes, json_=json_)
        return
    if not yes:
        _confirm(client, refs or [])
    found = [_delete(client, ref) for ref in refs or []]
    deleted = [one for one, _ in found if one]
    if json_:
        as_json(deleted)
    else:
        table(deleted, _COLUMNS, nothing="nothing was deleted")
    failures = [error for _, error in found if error]
    if failures:
        raise CliError(failures[0].code, [line for error in failures for line in error.lines])


def cancel(
    ctx: typer.Context,
    submission: Annotated[str, typer.Argument(help="the submission's id, a unique prefix of it, or its name")],
    yes: Yes = False,
    json_: OneJson = False,
) -> None:
    """Cancel a submission: nothing more is created, and its VMs are deleted."""
    _needs_yes(yes)
    _cancel(api_client(ctx), submission, yes=yes, json_=json_)


def _needs_yes(yes: bool) -> None:
    """Refuse to delete anything that nobody can confirm."""
    if not (yes or sys.stdin.isatty()):
        raise CliError(Exit.USAGE, "standard input is not a terminal, so nobody can confirm; repeat it with --yes")


def _confirm(client: Rollcall, refs: Sequence[str]) -> None:
    """Show which VMs are meant, since the provider's ids all look alike, and ask."""
    found = [one for ref in refs if (one := _shown(client, ref)) is not None and one["ended_at"] is None]
    for one in found:
        say(f"{one['ref']}  {one['name'] or 'no name yet'}  {one['state']}")
    if found:
        typer.confirm("Delete it?" if len(found) == 1 else f"Delete these {len(found)} VMs?", abort=True, err=True)


def _shown(client: Rollcall, ref: str) -> VmInFullJson | None:
    # A VM that cannot be shown cannot be deleted either; the deletion reports it.
    try:
        return client.vm(ref)
    except ApiError as error:
        if error.kind in {ErrorKind.NOT_FOUND, ErrorKind.REFUSED}:
            return None
        raise


def _delete(client: Rollcall, ref: str) -> tuple[VmJson | None, CliError | None]:
    # One that cannot be deleted does not stop the others; all failures are reported at the end.
    try:
        return client.delete_vm(ref), None
    except ApiError as error:
        if error.kind is ErrorKind.UNREACHABLE:
            raise
        failed = from_api(error)
        return None, CliError(failed.code, [f"{ref}: {line}" for line in failed.lines])


def _cancel(client: Rollcall, submission: str, *, yes: bool, json_: bool) -> None:
    found = client.submission(submission)
    if not yes:
        alive = sum(number for state, number in found["counts"].items() if state not in ENDED)
        typer.confirm(
            f"Cancel {found['name']} and delete its {alive} VMs that have not ended?"
            if alive
            else f"All VMs of {found['name']} have ended. Cancel it all the same?",
            abort=True,
            err=True,
        )
    submission_id = found["submission_id"]
    cancelled = client.cancel_submission(submission_id)
    if json_:
        as_json(cancelled)
    else:
        say(
            f"submission {submission_id} is {cancelled['state']}; its VMs are being deleted: "
            f"rollcall vms --submission {submission_id}"
        )
