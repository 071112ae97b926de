"""`rollcall demo`: a fleet from asked for to ready in one terminal, with nothing but this machine.

The play: 60 VMs on a contract with room for 45 GPUs, which grows to 55 when the 45 are taken, while callbacks are
lost, repeated and out of order. It is a success only if the record equals the truth in the end.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, NoReturn

import typer

from service.cli import views
from service.cli.demo_show import Glance, progress, summary, worth_telling
from service.cli.exits import CliError, Exit
from service.cli.output import say, table
from service.lab.demo.ground_truth import differences, shortcomings
from service.lab.demo.stage import Stage, built

_VMS: Final = 60
_ROOM: Final = 45
_ROOM_LATER: Final = 55
_CONTRACT: Final = 41
_SPEED: Final = 10.0
#: Seconds after which the play has failed. It takes about half of them.
_PATIENCE: Final = 55.0
_PAUSE: Final = 0.25

_BODY: Final = {
    "name": "demo",
    "environment_name": "default-CANADA-1",
    "flavor_name": "n3-A100x1",
    "image_name": "Ubuntu Server 22.04 LTS R535 CUDA 12.2",
    "key_name": "example-key",
    "assign_floating_ip": True,
    "count": _VMS,
    "contract_id": _CONTRACT,
    "policy": {
        "retry": {
            "attempts": 1000,
            "deadline_seconds": 24,
            "first_wait_seconds": 1,
            "max_wait_seconds": 2,
        }
    },
}


def demo(
    seed: Annotated[int, typer.Option(help="another seed makes other misfortunes")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="leave it running until Ctrl-C")] = False,
) -> None:
    """Run a fleet against a simulated provider.

    60 VMs, callbacks lost, repeated and out of order; in the end the record is compared with the truth.
    """
    began = time.monotonic()
    with _stopped_by_sigterm():
        say("starting a simulated Infrahub, and a daemon with a database of its own ...")
        with built(_cloud(seed), speed=_SPEED) as stage:
            wrong = _play(stage, lambda: time.monotonic() - began)
            if keep:
                _keep(stage)
    if wrong:
        raise CliError(Exit.FAILED, ["the record does not equal the truth:", *wrong[:20]])
    say("the record equals the truth")


def _cloud(seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "contracts": [
            {
                "id": _CONTRACT,
                "description": "the contract of the demo",
                "discounts": [{"resource_name": "A100-80G-PCIe", "resource_count": _ROOM}],
            }
        ],
        "timing": {"build": [20, 50]},
        "faults": {"callbacks": {"lost": 0.15, "repeated": 0.15, "reordered": 0.3, "reorder_wait": 20}},
    }


def _play(stage: Stage, seconds: Callable[[], float]) -> list[str]:
    """Play it to the end, tell what happened, and return what is wrong."""
    made = stage.daemon.ask("POST", "v1", "submissions", body=_BODY)
    with progress() as show:
        glance, wrong = _watch(stage, made["submission_id"], seconds, show)
    _tell(stage, glance)
    return wrong


def _watch(
    stage: Stage, submission_id: str, seconds: Callable[[], float], show: Callable[[Glance], None]
) -> tuple[Glance, list[str]]:
    """Look again and again until the record equals the truth and the truth is what was to be expected."""
    grown = False
    while True:
        act = f"the contract has room for {_ROOM_LATER if grown else _ROOM} GPUs"
        glance = _look(stage, submission_id, seconds(), act)
        show(glance)
        if not grown and glance.submission["on_contract"] >= _ROOM:
            stage.tell("POST", f"contracts/{_CONTRACT}", {"resource_count": _ROOM_LATER})
            grown = True
        settled = glance.submission["state"] != "open" or seconds() > _PATIENCE
        wrong = _compare(stage, glance) if settled else []
        if settled and (not wrong or seconds() > _PATIENCE):
            return glance, wrong
        time.sleep(_PAUSE)


def _look(stage: Stage, submission_id: str, seconds: float, act: str) -> Glance:
    return Glance(
        seconds=seconds,
        submission=stage.daemon.get("v1", "submissions", submission_id),
        records=list(stage.daemon.items("v1", "vms", limit=None)),
        stats=stage.truth("stats"),
        act=act,
    )


def _compare(stage: Stage, glance: Glance) -> list[str]:
    return [
        *shortcomings(glance.records, count=_VMS, on_contract=_ROOM_LATER),
        *differences(glance.records, stage.truth("vms")["vms"]),
    ]


def _tell(stage: Stage, glance: Glance) -> None:
    found = stage.daemon.get("v1", "fleet", submission_id=glance.submission["submission_id"])
    print()
    summary(glance, found["fleet"], found["evidence_counts"], stage.truth("deliveries")["deliveries"])
    one = worth_telling(glance.records)
    print(f"\nthe story of {one['name']} (rollcall vm {one['provider_id']})")
    table(list(stage.daemon.items("v1", "vms", one["ref"], "timeline", limit=None)), views.TIMELINE, nothing="nothing")
    print(
        "\nwhere to look next: docs/quickstart.md; rollcall --help; rollcall demo --keep leaves it running to look around"
    )


def _keep(stage: Stage) -> None:
    say("it goes on running until Ctrl-C. In another terminal:")
    say(f"  export ROLLCALL_API_URL={stage.daemon.url} ROLLCALL_API_TOKEN={stage.token}")
    say("  rollcall vms; rollcall fleet; rollcall submissions")
    say(f"the truth: {stage.simulator.url}/vms; logs and data: {stage.folder}")
    try:
        signal.pause()
    except KeyboardInterrupt:
        say("stopping")


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, so that what was started is taken down."""

    def stop(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
