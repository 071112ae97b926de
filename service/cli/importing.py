"""Commands for VMs that others made: put them on record, and let go of them."""

from typing import Annotated, cast

import typer

from service.cli.api_client import api_client
from service.cli.exits import CliError, Exit, from_api
from service.cli.options import OneJson
from service.cli.output import Column, as_json, say, table
from service.client.errors import ApiError, ErrorKind
from service.client.requests import ImportRequestJson
from service.client.results import VmJson
from service.client.sync import Rollcall

_IMPORTED = (
    Column("provider id", lambda one: one["provider_id"]),
    Column("name", lambda one: one["name"]),
    Column("status", lambda one: one["status"]),
    Column("callback", lambda one: one["callback"]),
)
_SKIPPED = (
    Column("provider id", lambda one: one["provider_id"]),
    Column("name", lambda one: one["name"]),
    Column("left out", lambda one: one["reason"]),
)


def import_(
    ctx: typer.Context,
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID...", help="the provider's ids")] = None,
    name_pattern: Annotated[str | None, typer.Option(metavar="PATTERN", help="VMs with such names: train-*")] = None,
    environment: Annotated[str | None, typer.Option(help="VMs in this environment")] = None,
    label: Annotated[str | None, typer.Option(help="VMs with this label")] = None,
    name: Annotated[str | None, typer.Option(help="the name of the submission that they get")] = None,
    replace_callbacks: Annotated[
        bool, typer.Option("--replace-callbacks", help="also replace callback URLs of others; they go on record")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would be imported")] = False,
    json_: OneJson = False,
) -> None:
    """Put VMs on record that others made: they are watched, audited and costed, and never deleted by a policy."""
    given: dict[str, object] = {
        "name": name,
        "ids": ids or None,
        "name_pattern": name_pattern,
        "environment": environment,
        "label": label,
    }
    given["replace_callbacks"] = replace_callbacks or None
    body = cast("ImportRequestJson", {key: value for key, value in given.items() if value is not None})
    report = api_client(ctx).import_vms(body, dry_run=dry_run or None)
    if json_:
        as_json(report)
        return
    table(report["vms"], _IMPORTED, nothing="nothing is imported")
    if report["skipped"]:
        table(report["skipped"], _SKIPPED, nothing="")
    count = len(report["vms"])
    if dry_run:
        say(f"{count} VMs would be imported; nothing was changed")
    else:
        say(f"{count} VMs are imported: rollcall vms --submission {report['submission_id']}")


def release(
    ctx: typer.Context,
    refs: Annotated[
        list[str] | None, typer.Argument(metavar="REF...", help="the provider's id, SUBMISSION.N, or the VM's name")
    ] = None,
    submission: Annotated[str | None, typer.Option(help="all VMs of this imported submission")] = None,
    json_: OneJson = False,
) -> None:
    """Let go of imported VMs: they stay as they are, and nothing is done to them any more."""
    if bool(refs) == bool(submission):
        raise CliError(Exit.USAGE, "name VMs, or a submission with --submission")
    client = api_client(ctx)
    if submission is not None:
        found = client.release_submission(submission)["items"]
        failures: list[CliError] = []
    else:
        results = [_release(client, ref) for ref in refs or []]
        found = [one for one, _ in results if one]
        failures = [error for _, error in results if error]
    if json_:
        as_json(found)
    else:
        for one in found:
            say(f"{one['ref']}  {one['name'] or 'without a name'}  {one['state']}")
    if failures:
        raise CliError(failures[0].code, [line for error in failures for line in error.lines])


def _release(client: Rollcall, ref: str) -> tuple[VmJson | None, CliError | None]:
    # One that cannot be released does not stop the others.
    try:
        return client.release_vm(ref), None
    except ApiError as error:
        if error.kind is ErrorKind.UNREACHABLE:
            raise
        failed = from_api(error)
        return None, CliError(failed.code, [f"{ref}: {line}" for line in failed.lines])
