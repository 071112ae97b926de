"""Wait for a submission until it has ended or the user presses Ctrl-C.

On a terminal a progress bar is kept current; elsewhere a line is printed whenever something changed.
"""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import Any, Final, Self

import typer

from service.cli.exits import Exit
from service.cli.output import counts, say, span
from service.client.errors import ApiError, ErrorKind, NotReady
from service.client.exchange import is_away
from service.client.results import SubmissionJson
from service.client.sync import Rollcall
from service.core.printable import escape

_INTERVAL: Final = 1.0
#: Seconds after which a line is printed although nothing changed.
_SILENCE: Final = 30.0


def until_ended(
    client: Rollcall, submission: SubmissionJson, *, clock: Callable[[], float] = time.monotonic
) -> SubmissionJson:
    """The submission once it has ended. Ctrl-C ends the waiting only; the submission goes on."""
    submission_id = submission["submission_id"]
    try:
        return _wait(client, submission, clock)
    except KeyboardInterrupt:
        say(f"no longer waiting; the submission goes on: rollcall submissions {submission_id}")
        raise typer.Exit(Exit.STOPPED) from None


def _wait(client: Rollcall, submission: SubmissionJson, clock: Callable[[], float]) -> SubmissionJson:
    began, seen = clock(), submission
    with ExitStack() as stack:
        progress: _Progress = stack.enter_context(_Bar()) if sys.stderr.isatty() else _Progress()

        def show(found: SubmissionJson | ApiError) -> None:
            nonlocal seen
            if isinstance(found, ApiError):
                if is_away(found):
                    progress.show(clock() - began, _away(found), "", seen)
                return
            seen = found
            progress.show(clock() - began, standing(seen), next_step(seen), seen)

        with suppress(NotReady):
            client.wait(submission, interval=_INTERVAL, on_look=show)
    for reason in seen["reasons"]:
        say(f"  {reason}")
    return seen


class _Progress:
    """Prints a line when it changed, or after some silence, with the time waited and what comes next."""

    def __init__(self) -> None:
        self._last = ""
        self._at = 0.0

    def show(self, elapsed: float, line: str, following: str, _seen: Mapping[str, Any]) -> None:
        if line != self._last or elapsed - self._at >= _SILENCE:
            say(f"{span(elapsed):>5}  {line}{following and f'; {following}'}")
            self._last, self._at = line, elapsed


class _Bar(_Progress):
    """A progress bar on a terminal, with the standing below it; the last one stays on the screen."""

    def __enter__(self) -> Self:
        from rich.console import Console  # noqa: PLC0415  not needed without a terminal
        from rich.live import Live  # noqa: PLC0415  as above

        self._live = Live(console=Console(stderr=True, highlight=False), refresh_per_second=4)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, elapsed: float, line: str, following: str, seen: Mapping[str, Any]) -> None:
        from rich.console import Group  # noqa: PLC0415  not needed without a terminal
        from rich.progress_bar import ProgressBar  # noqa: PLC0415  as above
        from rich.text import Text  # noqa: PLC0415  as above

        text = escape(f"{span(elapsed):>5}  {line}{following and f'; {following}'}")
        bar = ProgressBar(total=seen["count"], completed=seen["ready"], width=60)
        self._live.update(Group(bar, Text(text, overflow="fold")), refresh=True)


def _away(error: ApiError) -> str:
    what = "away" if error.kind is ErrorKind.UNREACHABLE else "without its database"
    return f"the daemon is {what}, waiting"


def standing(seen: Mapping[str, Any]) -> str:
    """How far a submission is, in a line, with the last reason why it is not further."""
    contract = ""
    if seen["on_contract"] or seen["on_demand"]:
        contract = f"; {seen['on_contract']} on contract, {seen['on_demand']} on demand"
    stuck = f"; {seen['stuck']} stuck" if seen["stuck"] else ""
    reason = f"; {seen['reasons'][-1]}" if seen["state"] == "open" and seen["reasons"] else ""
    ready = f"{seen['ready']} of {seen['count']} ready"
    return f"{seen['state']}: {ready} ({counts(seen['counts'])}){contract}{stuck}{reason}"


def next_step(seen: Mapping[str, Any], now: datetime | None = None) -> str:
    """When the next create call is due, or nothing if none is."""
    if seen["state"] != "open" or not seen["next_attempt_at"]:
        return ""
    seconds = (datetime.fromisoformat(seen["next_attempt_at"]) - (now or datetime.now(UTC))).total_seconds()
    return f"next try in {span(seconds)}" if seconds >= 1 else "next try now"
