"""`rollcall explore`: play many seeds in several processes, say what was wrong, and tell the story of a failing one."""

import asyncio
import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from service.cli.exits import CliError, Exit
from service.cli.output import as_json, say

_CHUNK = 10


def explore(
    seeds: Annotated[str, typer.Option(help="a seed, or a range such as 1..200")] = "1..50",
    jobs: Annotated[int, typer.Option(min=1, max=64, help="processes at once, each with a Postgres of its own")] = 2,
    story: Annotated[
        bool, typer.Option("--story", help="tell the story of every seed, not of failing ones alone")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Look for a VM made twice, forgotten or stranded: daemons, cloud and faults on a virtual clock, by seed.

    Each seed is a fleet, a cloud with its misdeeds, two daemons that are killed at any step, and what users do
    meanwhile. The same seed always plays the same. Exit code 1 where the record and the truth differ.
    """
    wanted = _seeds(seeds)
    played = []
    for outcome in _played(wanted, jobs):
        played.append(outcome)
        if outcome["wrong"] or story:
            _tell(outcome, quiet=json)
        elif not json and len(played) % 25 == 0:
            say(f"{len(played)} of {len(wanted)} seeds played, {sum(bool(one['wrong']) for one in played)} wrong")
    _sum_up(played, json=json)


def _sum_up(played: Sequence[dict[str, Any]], *, json: bool) -> None:
    wrong = [one["seed"] for one in played if one["wrong"]]
    summary = {
        "seeds": len(played),
        "wrong": wrong,
        **{name: sum(one[name] for one in played) for name in ("vms", "calls", "crashes", "runs")},
        "simulated_hours": round(sum(one["seconds"] for one in played) / 3600, 1),
    }
    if json:
        as_json(summary)
    else:
        say(", ".join(f"{name} {value}" for name, value in summary.items() if name != "wrong"))
        say(f"wrong: {', '.join(map(str, wrong)) or 'none'}")
    if wrong:
        raise CliError(
            Exit.FAILED, [f"seed {seed} is wrong; see it with: rollcall explore --seeds {seed}" for seed in wrong]
        )


def _tell(outcome: dict[str, Any], *, quiet: bool) -> None:
    if quiet:
        return
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
    chunks = [wanted[start : start + _CHUNK] for start in range(0, len(wanted), _CHUNK)]
    if jobs == 1 or len(chunks) == 1:
        for chunk in chunks:
            yield from _play(chunk)
        return
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(chunks))) as pool:
        for outcomes in pool.imap_unordered(_play, chunks):
            yield from outcomes


def _play(chunk: range) -> list[dict[str, Any]]:
    import uvloop  # noqa: PLC0415  the command's file is imported by every `rollcall --help`

    return uvloop.run(_collect(chunk))


async def _collect(chunk: range) -> list[dict[str, Any]]:
    from service.lab.explorer.run import explore as play_all  # noqa: PLC0415  as above
    from service.runtime.logs import configure_logs  # noqa: PLC0415  as above

    configure_logs("error", "console")
    # A killed process leaves its connection to the garbage collector: here that is the point.
    warnings.filterwarnings("ignore", message="The garbage collector is trying to clean up")
    outcomes = [asdict(outcome) async for outcome in play_all(chunk)]
    await asyncio.sleep(0)
    return outcomes
