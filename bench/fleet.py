"""A fleet and what is heard of it: the same for every contender of the apply bench, and the same in every round.

Each VM is CREATING at first and goes along one path. Of what is delivered one in ten repeats an earlier delivery, and
one in ten is overtaken by its successor. Deliveries of all VMs are mixed as thoroughly as they can be, so that hardly
any two that follow each other are about the same VM: that is the hardest for whoever applies them in sets.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import orjson

from service.core.ids import uuid7
from service.core.lifecycle import VmState
from service.core.vm import Vm
from service.storage import creations, submissions, vms
from service.storage.creations import Creation
from service.storage.engine import begin, create_engine
from service.storage.events import Event
from service.storage.submissions import Submission

PATH = (
    ("create", "BUILD"),
    ("create", "ACTIVE"),
    ("stop", "STOPPING"),
    ("stop", "SHUTOFF"),
    ("start", "STARTING"),
    ("start", "ACTIVE"),
    ("reboot", "REBOOTING"),
    ("reboot", "ACTIVE"),
    ("hibernate", "HIBERNATING"),
    ("hibernate", "HIBERNATED"),
    ("restore", "RESTORING"),
    ("restore", "ACTIVE"),
)
IN_SUBMISSION, IN_CREATION = 200, 20
FIRST_ID = 500_000
REPEATED = OVERTAKEN = 0.1
HEADERS = '{"content-type": "application/json", "user-agent": "bench"}'


@dataclass(frozen=True)
class Fleet:
    """So many VMs and so many deliveries about them, in the order in which they come in."""

    vms: int
    events: int
    seed: int = 1

    def records(self, now: datetime) -> list[Vm]:
        return [
            Vm(
                submission_id=submission(number),
                vm_no=number % IN_SUBMISSION + 1,
                creation_no=number % IN_SUBMISSION // IN_CREATION + 1,
                provider_id=FIRST_ID + number,
                name=f"train-{number}",
                state=VmState.CREATING,
                provider_status="CREATING",
                state_since=now,
                seq=1,
                last_event_at=None,
                next_refresh_at=now + timedelta(minutes=2),
                flavor="n3-A100x1",
                environment="default-CANADA-1",
                region="CANADA-1",
                gpu_model="A100-80G-PCIe",
                gpu_count=1,
                created_at=now,
                bound_at=now,
            )
            for number in range(self.vms)
        ]

    def deliveries(self, began: datetime) -> Iterator[Event]:
        """One a millisecond from `began` on."""
        dice = random.Random(self.seed)
        turns = [number for number in range(self.vms) for _ in range(-(-self.events // self.vms))]
        dice.shuffle(turns)
        told = [self._told(dice) for _ in range(self.vms)]
        for place, number in enumerate(turns[: self.events]):
            yield delivery(number, next(told[number]), began + timedelta(milliseconds=place), place)

    def _told(self, dice: random.Random) -> Iterator[int]:
        """The steps of the path as they come in for one VM."""
        step, due, last = 0, list[int](), None
        while True:
            if last is not None and dice.random() < REPEATED:
                yield last
                continue
            if not due:
                due = [step % len(PATH), (step + 1) % len(PATH)]
                overtaken = dice.random() < 2 * OVERTAKEN  # of each two, so of all events half as many
                due, step = (due[::-1], step + 2) if overtaken else (due[:1], step + 1)
            last = due.pop(0)
            yield last


def submission(number: int) -> UUID:
    return UUID(int=(7 << 76) | (2 << 62) | number // IN_SUBMISSION)


def delivery(number: int, step: int, at: datetime, place: int) -> Event:
    content = body(number, *PATH[step])
    return Event(
        submission_id=submission(number),
        received_at=at,
        event_id=uuid7(at, place.to_bytes(8, "big")),
        creation_no=number % IN_SUBMISSION // IN_CREATION + 1,
        body=content,
        headers={},
        peer="127.0.0.1",
        digest=hashlib.sha256(content).digest(),
    )


def body(number: int, operation: str, status: str) -> bytes:
    """A callback of some 300 bytes."""
    return orjson.dumps({
        "resource": {"id": str(FIRST_ID + number), "type": "virtual_machine", "name": f"train-{number}"},
        "operation": {"name": f"{operation}VirtualMachine", "status": "IN_PROGRESS"},
        "data": {
            "id": FIRST_ID + number,
            "status": status,
            "fixed_ip": f"10.0.{number >> 8 & 255}.{number & 255}",
            "flavor": {"name": "n3-A100x1", "cpu": 28, "ram": 120.0, "gpu": "A100-80G-PCIe"},
        },
    })  # fmt: skip


async def settle(url: str, fleet: Fleet) -> None:
    """Write the fleet: submissions, creations and VMs, as they are when the creates were answered."""
    now = datetime.now(UTC)
    records = fleet.records(now)
    engine = create_engine(url)
    async with begin(engine) as conn:
        refs = sorted({(vm.submission_id, vm.creation_no) for vm in records})
        for one in sorted({ref[0] for ref in refs}):
            await submissions.insert_one(conn, _a_submission(one, now))
        await creations.insert(conn, [_a_creation(*ref, now) for ref in refs])
        await vms.insert(conn, records)
    await engine.dispose()


async def deliver(url: str, fleet: Fleet) -> None:
    """Keep and queue every delivery, as the receiver would have; and leave the tables as autovacuum would."""
    began = datetime.now(UTC) - timedelta(milliseconds=fleet.events)
    heard = list(fleet.deliveries(began))
    connection = await asyncpg.connect(url)
    await connection.copy_records_to_table(
        "events",
        columns=(*_KEY, "source", "body", "headers", "peer", "digest"),
        records=((*one.key, one.creation_no, one.source, one.body, HEADERS, one.peer, one.digest) for one in heard),
    )
    await connection.copy_records_to_table(
        "inbox",
        columns=(*_KEY, "due_at"),
        records=((*one.key, one.creation_no, one.received_at) for one in heard),
    )
    await tidy(connection)
    await connection.close()


_KEY = ("submission_id", "received_at", "event_id", "creation_no")


async def tidy(connection: asyncpg.Connection) -> None:
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")


def _a_submission(submission_id: UUID, now: datetime) -> Submission:
    return Submission(
        submission_id=submission_id,
        name="train",
        count=IN_SUBMISSION,
        spec={},
        policy={},
        reasons=[],
        warnings=[],
        requested_by="bench",
        next_creation_no=IN_SUBMISSION // IN_CREATION + 1,
        next_vm_no=IN_SUBMISSION + 1,
        created_at=now,
        deadline_at=now + timedelta(days=1),
    )


def _a_creation(submission_id: UUID, creation_no: int, now: datetime) -> Creation:
    return Creation(
        submission_id=submission_id,
        creation_no=creation_no,
        vm_count=IN_CREATION,
        name=f"train-{creation_no}",
        state="answered",
        due_at=None,
        created_at=now,
        deadline_at=now + timedelta(days=1),
        completed_at=now,
    )
