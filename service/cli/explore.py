"""`rollcall explore`: play many seeds in several processes, and print the timelines of those that fail."""

import asyncio
import multiprocessing
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing import resource_tracker
from typing import Annotated, Any

import typer

from service.cli.exits import CliError, Exit
from service.cli.output import as_json, say
from service.cli.signals import clean_exit

#: Seeds that are played on one Postgres, at most. Each start of one takes seconds.
_CHUNK = 40


def explore(
    seeds: Annotated[str, typer.Option(help="a seed, or a range such as 1..200")] = "1..50",
    jobs: Annotated[int, typer.Option(min=1, max=64, help="processes at once, each with a Postgres of its own")] = 2,
    timelines: Annotated[
        bool, typer.Option("--timelines", help="print the timeline of every seed, not only of failing ones")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Look for VMs created twice, forgotten or stuck, with simulated faults on a virtual clock.

    Each seed is a fleet, a cloud with faults, two daemons that are killed at any step, and what users do
    meanwhile. The same seed always plays the same. Exit code 1 if a record and its ground truth differ.
    """
    wanted = _seeds(seeds)
    played: list[dict[str, Any]] = []
    with clean_exit():
        for outcome in _played(wanted, jobs):
            played.append(outcome)
            if not json_:
                _report(outcome, played, len(wanted), timelines=timelines)
    _summary(played, json_=json_)


def _report(outcome: dict[str, Any], played: Sequence[dict[str, Any]], wanted: int, *, timelines: bool) -> None:
    if outcome["wrong"] or timelines:
        _print_timeline(outcome)
    elif len(played) % 25 == 0:
        say(f"{len(played)} of {wanted} seeds played, {sum(bool(one['wrong']) for one in played)} wrong")


def _summary(played: Sequence[dict[str, Any]], *, json_: bool) -> None:
    wrong = [one["seed"] for one in played if one["wrong"]]
    summary = {
        "seeds": len(played),
        "wrong": wrong,
        **{name: sum(one[name] for one in played) for name in ("vms", "calls", "crashes", "runs")},
        "simulated_hours": round(sum(one["seconds"] for one in played) / 3600, 1),
    }
    if json_:
        as_json(summary)
    else:
        say(", ".join(f"{name} {value}" for name, value in summary.items() if name != "wrong"))
        say(f"wrong: {', '.join(map(str, wrong)) or 'none'}")
    if wrong:
        raise CliError(
            Exit.FAILED, [f"seed {seed} is wrong; see it with: rollcall explore --seeds {seed}" for seed in wrong]
        )


def _print_timeline(outcome: dict[str, Any]) -> None:
    say(f"seed {outcome['seed']}:")
    for at, text in outcome["timeline"]:
        say(f"  {at:9.1f} s  {text}")
    for one in outcome["wrong"]:
        say(f"  WRONG: {one}")


def _seeds(text: str) -> range:
    first, dots, last = text.partition("..")
    try:
        found = range(int(first), int(last if dots else first) + 1)
    except ValueError:
        raise CliError(Exit.USAGE, [f"--seeds {text}: must be a number or a range such as 1..200"]) from None
    if not found:
        raise CliError(Exit.USAGE, [f"--seeds {text}: the range is empty"])
    return found


def _played(wanted: range, jobs: int) -> Iterator[dict[str, Any]]:
    size = min(_CHUNK, -(-len(wanted) // jobs))
    chunks = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    # Processes also for one job: this one takes the signals, and ends the others by SIGTERM.
    _start_resource_tracker()
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(jobs, len(chunks)), _leave_signals_to_the_command) as pool:
        for outcomes in pool.imap_unordered(_play, chunks):
            yield from outcomes
        pool.close()  # each ends by itself
        pool.join()


def _start_resource_tracker() -> None:
    """Start multiprocessing's helper so that SIGHUP does not end it; of itself it only ignores Ctrl-C and SIGTERM."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    resource_tracker.ensure_running()
    signal.signal(signal.SIGHUP, before)


def _leave_signals_to_the_command() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _play(chunk: range) -> list[dict[str, Any]]:
    import uvloop  # noqa: PLC0415  slow to import, and every command imports this file

    try:
        return uvloop.run(_collect(chunk))
    except asyncio.CancelledError:
        raise SystemExit(Exit.STOPPED) from None


def _cancel_on_sigterm() -> None:
    """Let SIGTERM end the play as Ctrl-C does, so that its Postgres is stopped. Only the first one counts."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def cancel() -> None:
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        # Tasks of the play lose their database now; nobody waits for their errors.
        loop.set_exception_handler(lambda *_: None)
        if task is not None:
            task.cancel()

    loop.add_signal_handler(signal.SIGTERM, cancel)


async def _collect(chunk: range) -> list[dict[str, Any]]:
    from service.lab.explorer.run import explore as play_all  # noqa: PLC0415  as above
    from service.runtime.logs import configure_logs  # noqa: PLC0415  as above

    configure_logs("error", "console")
    _cancel_on_sigterm()
    # A killed daemon leaves its connections to the garbage collector, and daemons are killed here on purpose.
    warnings.filterwarnings("ignore", message="The garbage collector is trying to clean up")
    try:
        outcomes = [asdict(outcome) async for outcome in play_all(chunk)]
        await asyncio.sleep(0)
        return outcomes
    finally:
        # Idle, the process would wait on after a SIGTERM that only tells a loop.
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
