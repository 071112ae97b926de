"""The demo's scenario and its play loop. It yields snapshots and prints nothing.

The scenario: 60 VMs on a contract with room for 45 GPUs, which grows to 55 once 45 are taken, while callbacks are
lost, repeated and reordered. It succeeds only if the record matches the simulator's ground truth at the end.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from service.client.requests import SubmissionRequestJson
from service.lab.demo.ground_truth import differences, shortcomings
from service.lab.demo.stage import Stage

Json = Mapping[str, Any]

VMS: Final = 60
CONTRACT: Final = 41
ROOM: Final = 45
ROOM_LATER: Final = 55
SPEED: Final = 10.0
#: Seconds that a VM tries to get on the contract before it stays on demand.
_RETRY_SECONDS: Final = 24
#: Seconds after which the demo has failed. It takes about half of them.
_TIMEOUT: Final = 55.0
_INTERVAL: Final = 0.25

BODY: Final[SubmissionRequestJson] = {
    "name": "demo",
    "environment_name": "default-CANADA-1",
    "flavor_name": "n3-A100x1",
    "image_name": "Ubuntu Server 22.04 LTS R535 CUDA 12.2",
    "key_name": "example-key",
    "assign_floating_ip": True,
    "count": VMS,
    "contract_id": CONTRACT,
    "policy": {
        "retry": {
            "attempts": 1000,
            "deadline_seconds": _RETRY_SECONDS,
            "first_wait_seconds": 1,
            "max_wait_seconds": 2,
        }
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The fleet at one moment: the record, and the simulator's counts of callbacks and calls.

    `differences` is None until record and ground truth are compared, which is when the submission has ended.
    """

    seconds: float
    submission: Json
    records: Sequence[Json]
    stats: Json
    room: int  #: GPUs that the contract has room for
    differences: Sequence[str] | None = None

    @property
    def members(self) -> list[Json]:
        """The VMs that count towards the submission."""
        return [one for one in self.records if one["member"]]

    @property
    def waiting_for(self) -> str:
        """What has to happen next, in a few words."""
        if self.submission["state"] != "open":
            return "the record to match the provider" if self.differences else "nothing: the fleet is complete"
        states = Counter(one["state"] for one in self.members)
        if missing := VMS - states["ACTIVE"]:
            return f"{missing} VMs to become ACTIVE"
        if off := sum(one["contract_id"] is None for one in self.members):
            if self.submission["on_contract"] >= ROOM_LATER:
                return f"{off} VMs that find the contract full; they try for {_RETRY_SECONDS} s"
            return f"{off} VMs to get on the contract"
        return "the last VMs to be ready"


def cloud(seed: int) -> dict[str, Any]:
    """The simulator's configuration."""
    return {
        "seed": seed,
        "contracts": [
            {
                "id": CONTRACT,
                "description": "the contract of the demo",
                "discounts": [{"resource_name": "A100-80G-PCIe", "resource_count": ROOM}],
            }
        ],
        "timing": {"build": [20, 50]},
        "faults": {"callbacks": {"lost": 0.15, "repeated": 0.15, "reordered": 0.3, "reorder_wait": 20}},
    }


def play(
    stage: Stage, elapsed: Callable[[], float], *, pause: Callable[[float], None] = time.sleep
) -> Iterator[Snapshot]:
    """Submit the fleet and yield snapshots until record and ground truth match, or the demo's time is over."""
    submission_id = stage.daemon.submit(BODY)["submission_id"]
    room = ROOM
    while True:
        snapshot = _snapshot(stage, submission_id, elapsed(), room)
        yield snapshot
        late = elapsed() > _TIMEOUT
        if snapshot.differences is not None and (late or not snapshot.differences):
            return
        if room == ROOM and snapshot.submission["on_contract"] >= ROOM:
            stage.simulate("POST", f"contracts/{CONTRACT}", {"resource_count": ROOM_LATER})
            room = ROOM_LATER
        pause(_INTERVAL)


def _snapshot(stage: Stage, submission_id: str, seconds: float, room: int) -> Snapshot:
    submission = stage.daemon.submission(submission_id)
    records = list(stage.daemon.vms())
    compared = submission["state"] != "open" or seconds > _TIMEOUT
    return Snapshot(
        seconds=seconds,
        submission=submission,
        records=records,
        stats=stage.simulate("GET", "stats"),
        room=room,
        differences=_compare(stage, records) if compared else None,
    )


def _compare(stage: Stage, records: Sequence[Json]) -> list[str]:
    return [
        *shortcomings(records, count=VMS, on_contract=ROOM_LATER),
        *differences(records, stage.simulate("GET", "vms")["vms"]),
    ]
