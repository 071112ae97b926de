"""Waiting for a submission: a line whenever its counts change, until it is settled or the user has seen enough."""

import time
from collections.abc import Callable
from typing import Any, Final

import typer

from service.cli.exits import CliError, Exit
from service.cli.output import counts, say
from service.client.http import ApiClient

_EVERY: Final = 1.0


def until_ended(
    there: ApiClient, made: dict[str, Any], *, pause: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """The submission as it was when it was not open any more. Ctrl-C ends the waiting and nothing else."""
    submission_id = made["submission_id"]
    try:
        return _wait(there, made, pause)
    except KeyboardInterrupt:
        say(f"not waiting any more; the submission goes on: rollcall submissions {submission_id}")
        raise typer.Exit(Exit.STOPPED) from None


def _wait(there: ApiClient, seen: dict[str, Any], pause: Callable[[float], None]) -> dict[str, Any]:
    told = ""
    while True:
        line = standing(seen)
        if line != told:
            say(line)
            told = line
        if seen["state"] != "open":
            for reason in seen["reasons"]:
                say(f"  {reason}")
            return seen
        pause(_EVERY)
        seen = _look(there, seen)


def _look(there: ApiClient, before: dict[str, Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = there.get("v1", "submissions", before["submission_id"])
    except CliError as error:
        if error.code is not Exit.UNREACHABLE:
            raise
        # A daemon that is being restarted is no reason to stop waiting: the record is where it was.
        return before
    return found


def standing(seen: dict[str, Any]) -> str:
    """How far a submission is, in a line."""
    contract = ""
    if seen["on_contract"] or seen["on_demand"]:
        contract = f"; {seen['on_contract']} on contract, {seen['on_demand']} on demand"
    stuck = f"; {seen['stuck']} stuck" if seen["stuck"] else ""
    return f"{seen['state']}: {seen['ready']} of {seen['count']} ready ({counts(seen['counts'])}){contract}{stuck}"
