"""`rollcall demo`: a fleet from submitted to ready in one terminal, with nothing but this machine."""

import signal
import time
from collections.abc import Callable
from typing import Annotated

import typer

from service.cli.demo_view import progress, summary
from service.cli.exits import CliError, Exit
from service.cli.output import answer, say
from service.cli.signals import clean_exit
from service.lab.demo.play import SPEED, Snapshot, cloud, play
from service.lab.demo.stage import Stage, StageError, open_stage


def demo(
    seed: Annotated[int, typer.Option(help="another seed draws other faults")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="leave it running until Ctrl-C")] = False,
) -> None:
    """Run a fleet of 60 VMs against a simulated provider.

    Callbacks are lost, repeated and reordered. At the end the record is compared with the simulator's ground truth;
    the last line is the verdict, and the exit code is 0 only if they match.
    """
    began = time.monotonic()
    with clean_exit():
        say("starting a simulated Infrahub, and a daemon with a database of its own ...")
        try:
            with open_stage(cloud(seed), speed=SPEED) as stage:
                if keep:
                    say(f"watch it at {stage.daemon.url} - sign in with the token {stage.token}")
                last = _run(stage, lambda: time.monotonic() - began)
                if keep:
                    _verdict(last)
                    _keep_running(stage)
        except StageError as error:
            raise CliError(Exit.FAILED, error.lines) from error
    if not keep:
        _verdict(last)
    if last.differences:
        raise typer.Exit(Exit.FAILED)


def _run(stage: Stage, elapsed: Callable[[], float]) -> Snapshot:
    """Play to the end, show the progress and the summary, and return the last snapshot."""
    with progress() as show:
        for last in play(stage, elapsed):
            show(last)
    counted = stage.daemon.fleet(submission_id=last.submission["submission_id"])
    summary(last, counted["fleet"], counted["evidence_counts"] or {}, stage.simulate("GET", "deliveries")["deliveries"])
    return last


def _verdict(last: Snapshot) -> None:
    """The verdict, alone on the last line; differences before it."""
    differences = last.differences or ()
    for one in differences[:20]:
        say(f"  {one}")
    if len(differences) > 20:
        say(f"  and {len(differences) - 20} more")
    if differences:
        answer(f"FAILED: {len(differences)} differences between the record and the provider")
    else:
        answer(f"OK: all {len(last.members)} VMs match the provider")


def _keep_running(stage: Stage) -> None:
    say(f"it runs until Ctrl-C. Dashboard: {stage.daemon.url}, token {stage.token}. In another terminal:")
    say(f"  export ROLLCALL_API_URL={stage.daemon.url} ROLLCALL_API_TOKEN={stage.token}")
    say("  rollcall vms; rollcall fleet; rollcall submissions")
    say(f"ground truth: {stage.simulator.url}/vms; logs and data: {stage.folder}")
    signal.pause()
