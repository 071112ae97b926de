"""`rollcall wait` and `rollcall watch`: follow a submission to its end, or the fleet on a live screen."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from service.cli import views, waiting
from service.cli.api_client import api_client
from service.cli.exits import CliError, Exit
from service.cli.output import as_json, counts, say
from service.client.errors import ApiError, ErrorKind
from service.client.sync import Rollcall
from service.core.printable import escape

_SECONDS: Final = 2.0
_SUBMISSIONS: Final = 12


def wait(
    ctx: typer.Context,
    submission: Annotated[str, typer.Argument(help="its id, a unique prefix of it, or its name")],
    json_: Annotated[bool, typer.Option("--json", help="print the submission as JSON once it has ended")] = False,
) -> None:
    """Wait until a submission is ready, or can no longer become ready.

    Exits with 0 if it is ready, with 1 otherwise. Goes on waiting while the daemon restarts.
    """
    client = api_client(ctx)
    ended = waiting.until_ended(client, client.submission(submission))
    if json_:
        as_json(ended)
    raise typer.Exit(Exit.OK if ended["state"] == "ready" else Exit.FAILED)


def watch(ctx: typer.Context) -> None:
    """Show the fleet on a live screen until Ctrl-C: VMs by state, health issues, the latest submissions."""
    if not sys.stdout.isatty():
        raise CliError(Exit.USAGE, "watch needs a terminal; rollcall fleet prints the same once")
    client = api_client(ctx)
    _read(client)  # a wrong token or address is an error, and not a screen
    from rich.console import Console  # noqa: PLC0415  not needed by other commands
    from rich.live import Live  # noqa: PLC0415  as above
    from rich.text import Text  # noqa: PLC0415  as above

    with Live(console=Console(highlight=False), screen=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(Text("\n".join(_lines(client)), no_wrap=True, overflow="ellipsis"), refresh=True)
                time.sleep(_SECONDS)
        except KeyboardInterrupt:
            pass
    say("no longer watching; the daemon goes on")


def _lines(client: Rollcall) -> list[str]:
    try:
        return screen(*_read(client))
    except ApiError as error:
        if error.kind not in {ErrorKind.UNREACHABLE, ErrorKind.UNAVAILABLE}:
            raise
        return ["the daemon is away, waiting"]


def _read(client: Rollcall) -> tuple[Mapping[str, Any], Mapping[str, str], Sequence[Mapping[str, Any]]]:
    fleet = client.fleet()["fleet"]
    return fleet, client.ready().get("issues", {}), list(client.submissions(limit=_SUBMISSIONS))


def screen(fleet: Mapping[str, Any], issues: Mapping[str, Any], submissions: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of the screen: what is wrong first."""
    lines = [f"! {name}: {text}" for name, text in issues.items()] or ["no health issue is open"]
    lines += [
        "",
        f"{fleet['alive']} alive, {fleet['ready']} ready, {fleet['stuck']} stuck, {fleet['off_contract']} off contract",
    ]
    lines += [counts(fleet["by_state"]), f"{fleet['events_waiting']} callbacks wait to be applied", ""]
    for one in submissions:
        reason = f"  {one['reasons'][-1]}" if one["reasons"] else ""
        lines.append(
            f"{one['submission_id'][:13]}  {one['ready']:>6}/{one['count']:<6}  {views.standing_now(one):<10}  {one['name']}{reason}"
        )
    return [escape(line) for line in lines]
