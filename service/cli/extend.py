"""Commands that change a submission: when its VMs are deleted, and whether its count is kept."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

import typer

from service.cli import as_of
from service.cli.api_client import api_client
from service.cli.exits import CliError, Exit
from service.cli.output import as_json, say, time_of
from service.client.requests import MaintainJson, SubmissionChangeJson
from service.client.sync import Rollcall


def extend(
    ctx: typer.Context,
    submission: Annotated[str, typer.Argument(help="the submission's id, a unique prefix of it, or its name")],
    by: Annotated[str | None, typer.Option(help="how much longer the VMs live: 30m, 2h, 7d, or seconds")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="when the VMs are deleted")] = None,
    never: Annotated[bool, typer.Option("--never", help="keep the VMs until somebody deletes them")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print the submission as JSON")] = False,
) -> None:
    """Change when a submission's VMs are deleted."""
    if (by is not None) + (until is not None) + never != 1:
        raise CliError(Exit.USAGE, "give one of --by, --until and --never")
    client = api_client(ctx)
    change: SubmissionChangeJson = {"lifetime": None} if never else {"expires_at": as_of.moment("--until", until)}
    if by is not None:
        change = _later(client, submission, by)
    # An absolute time is sent, so that the request can be repeated.
    found = client.change_submission(submission, change)
    if json_:
        as_json(found)
    say(f"submission {found['submission_id']}: {ending(found)}")


def maintain(
    ctx: typer.Context,
    submission: Annotated[str, typer.Argument(help="the submission's id, a unique prefix of it, or its name")],
    stop: Annotated[bool, typer.Option("--stop", help="replace nothing any more")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print the submission as JSON")] = False,
) -> None:
    """Replace VMs that fail after they were ready, also again after a crash loop; with --stop no more."""
    client = api_client(ctx)
    known = client.submission(submission)["policy"].get("maintain") or {}
    change: SubmissionChangeJson = {"maintain": cast("MaintainJson", {**known, "enabled": not stop})}
    found = client.change_submission(submission, change)
    if json_:
        as_json(found)
    say(f"submission {found['submission_id']}: failing VMs are {'not replaced' if stop else 'replaced'} from now on")


def _later(client: Rollcall, submission: str, by: str) -> SubmissionChangeJson:
    from service.core.duration import seconds_of  # noqa: PLC0415  slow to import, and needed only here
    from service.core.lifetime import extended  # noqa: PLC0415  as above

    seconds = seconds_of(by)
    if seconds is None:
        raise CliError(Exit.USAGE, f"--by: {by!r} is not a duration; write 30m, 2h or 7d")
    change = extended(client.submission(submission), seconds)
    if not change:
        raise CliError(Exit.USAGE, "its VMs are not deleted by themselves; give --until")
    return cast("SubmissionChangeJson", change)


def ending(found: Mapping[str, Any]) -> str:
    """When a submission's VMs are deleted by themselves, for people."""
    if found["expires_at"]:
        return f"its VMs are deleted at {time_of(found['expires_at'])}"
    lifetime = found["policy"].get("lifetime")
    if lifetime is None:
        return "its VMs are kept until somebody deletes them"
    return f"its VMs are deleted {lifetime:g} s after it is ready"
