"""Senders of numbered callbacks: bound VMs in the record, and for each of them somebody who posts without pause.

A callback is sent until it is acknowledged, and only then the next one of that VM. What a VM hears moves it each time:
it is rebooted, and comes back, for ever.
"""

import asyncio
import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from uuid import UUID

import asyncpg
from ledger import Kept, Ledger, Moved, Record, Serial
from processes import rows, until

from service.core.lifecycle import VmState
from service.core.submission import SubmissionState
from service.core.token import CreationRef, mint
from service.core.vm import Vm
from service.storage import creations, submissions, vms
from service.storage.creations import Creation
from service.storage.engine import begin, create_engine
from service.storage.submissions import Submission

_OF_A_CREATION = 20
_PATIENCE = 20.0
#: Nobody answers here. Nothing is to be asked for either: callbacks alone move these VMs.
NOWHERE = "http://127.0.0.1:9/v1"
#: Settings, without their prefix, with which a daemon asks the provider nothing about these VMs.
UNASKED = {"INFRAHUB_URL": NOWHERE, "OVERDUE_SECONDS": "86400", "RESYNC_SECONDS": "86400"}

# Everything is about one submission, and is said to be: so the key finds what is new among hundreds of thousands.
_OURS = "submission_id = (SELECT submission_id FROM submissions LIMIT 1)"
_EVENTS = f"SELECT body, event_id FROM events WHERE {_OURS} AND received_at > $1 ORDER BY received_at, event_id"
_MOVES = (
    "SELECT provider_id, evidence_id FROM transitions JOIN vms USING (submission_id, vm_no)"
    " WHERE verdict = 'moved' AND evidence = 'event' AND evidence_at > $1 ORDER BY submission_id, vm_no, transitions.seq"
)
_WAITING = "SELECT count(*) FROM inbox"
_LATEST = f"SELECT coalesce(max(received_at), 'epoch') FROM events WHERE {_OURS}"
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


class Numbered:
    """A VM that is bound, and the callbacks about it that were sent so far."""

    def __init__(self, provider_id: int, path: str) -> None:
        self.provider_id = provider_id
        self.path = path
        self.number = 0

    def next(self) -> Serial:
        self.number += 1
        return Serial(self.provider_id, self.number)

    def request(self, serial: Serial) -> bytes:
        word = "REBOOTING" if serial.number % 2 else "ACTIVE"
        said = {"resource": {"id": serial.provider_id}, "operation": {"name": "hardRebootVM", "status": word}}
        body = json.dumps({**said, "data": {"status": word}, "number": serial.number}).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: there\r\nContent-Type: application/json\r\n"
        return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def bound_vms(database_url: str, count: int, secret: str) -> list[Numbered]:
    """Put VMs on record that are bound and ACTIVE. The database is at the head of the migrations."""
    return asyncio.run(_bound_vms(database_url, count, secret))


def vms_of(database_url: str, submission_id: str, secret: str) -> list[Numbered]:
    """The VMs of a submission that is ready: the provider knows these."""
    query = f"SELECT submission_id, creation_no, provider_id FROM vms WHERE submission_id = '{submission_id}'"
    return [
        Numbered(row["provider_id"], f"/callbacks/{mint(CreationRef(row['submission_id'], row['creation_no']), secret.encode())}")
        for row in rows(database_url, query)
    ]  # fmt: skip


async def _bound_vms(database_url: str, count: int, secret: str) -> list[Numbered]:
    now = datetime.now(UTC)
    submission_id = UUID(int=(7 << 76) | (2 << 62) | 1)
    numbers = range(1, count + 1)
    made = {number: CreationRef(submission_id, (number - 1) // _OF_A_CREATION + 1) for number in numbers}
    engine = create_engine(database_url)
    async with begin(engine) as conn:
        await submissions.insert_one(conn, _submission(submission_id, count, now))
        await creations.insert(conn, [_answered(ref, now) for ref in sorted(set(made.values()))])
        await vms.insert(conn, [_active(ref, number, now) for number, ref in made.items()])
    await engine.dispose()
    return [Numbered(number, f"/callbacks/{mint(ref, secret.encode())}") for number, ref in made.items()]


def _submission(submission_id: UUID, count: int, now: datetime) -> Submission:
    return Submission(
        submission_id=submission_id,
        name="numbered",
        count=count,
        spec={},
        policy={},
        state=SubmissionState.OPEN,
        reasons=[],
        warnings=[],
        requested_by="tests",
        next_creation_no=count,
        next_vm_no=count + 1,
        created_at=now,
        deadline_at=now + timedelta(days=1),
    )


def _answered(ref: CreationRef, now: datetime) -> Creation:
    return Creation(
        submission_id=ref.submission_id,
        creation_no=ref.creation_no,
        vm_count=_OF_A_CREATION,
        name=f"numbered-{ref.creation_no}",
        state="answered",
        created_at=now,
        deadline_at=now + timedelta(days=1),
        due_at=None,
        completed_at=now,
    )


def _active(ref: CreationRef, number: int, now: datetime) -> Vm:
    return Vm(
        submission_id=ref.submission_id,
        vm_no=number,
        creation_no=ref.creation_no,
        provider_id=number,
        state=VmState.ACTIVE,
        state_since=now,
        next_refresh_at=now + timedelta(days=1),
        flavor="n3-A100x1",
        environment="default-CANADA-1",
        created_at=now,
        bound_at=now,
        active_at=now,
    )


class Load:
    """Senders at work in a thread of their own. `ledger` says what they were told, `seconds` how long that took."""

    def __init__(self, port: int, vms_: Sequence[Numbered], *, every: float, seed: int) -> None:
        self.ledger = Ledger()
        self.refused: list[int] = []
        self.seconds: list[float] = []
        self._port = port
        self._vms = vms_
        self._every = every
        self._chance = random.Random(seed)
        self._over = Event()

    @property
    def acknowledged(self) -> int:
        return len(self.ledger.acknowledged)

    def until_more(self, number: int) -> None:
        """Wait until so many more callbacks were acknowledged."""
        wanted = self.acknowledged + number
        until(lambda: self.acknowledged >= wanted, f"{number} more callbacks are acknowledged")

    def work(self) -> None:
        asyncio.run(self._work())

    def stop(self) -> None:
        self._over.set()

    async def _work(self) -> None:
        await asyncio.gather(*(self._send_all(vm) for vm in self._vms))

    async def _send_all(self, vm: Numbered) -> None:
        line, loop = _Line(self._port), asyncio.get_running_loop()
        due = loop.time()
        while not self._over.is_set():
            serial = vm.next()
            # Also when it is over: whatever was begun is told to its end.
            while serial not in self.ledger.acknowledged:
                await self._send(line, vm, serial)
                # Who was kept waiting is late, and does not make up for it.
                due = max(due + self._chance.uniform(0, 2 * self._every), loop.time())
                await asyncio.sleep(due - loop.time())
        line.drop()

    async def _send(self, line: "_Line", vm: Numbered, serial: Serial) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await line.connect()
                self.ledger.tries[serial] += 1
                began = time.monotonic()
                status = await line.exchange(vm.request(serial))
        except (OSError, EOFError, TimeoutError):
            line.drop()
            return
        if status == 200:
            self.ledger.acknowledged.add(serial)
            self.seconds.append(time.monotonic() - began)
        else:
            self.refused.append(status)


class _Line:
    """A connection that is kept, and made again where it was lost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def connect(self) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)

    async def exchange(self, request: bytes) -> int:
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(request)
        answer = await reader.readuntil(b"}")
        return int(answer[9:12])

    def drop(self) -> None:
        if self._streams is not None:
            with suppress(OSError):
                self._streams[1].close()
        self._streams = None


@contextmanager
def sending(port: int, vms_: Sequence[Numbered], *, every: float = 0.01, seed: int = 0) -> Iterator[Load]:
    """Senders for as long as the block lasts; at its end everything that was begun has been acknowledged.

    Each VM is heard of every so many seconds, more or less.
    """
    load = Load(port, vms_, every=every, seed=seed)
    thread = Thread(target=load.work)
    thread.start()
    try:
        yield load
    finally:
        load.stop()
        thread.join(timeout=90)
    assert not thread.is_alive(), "a callback is not acknowledged, however often it is sent"


def record(database_url: str, since: datetime = BEGINNING) -> Record:
    """The events that were heard after `since`, and the transitions that they made."""
    return asyncio.run(_record(database_url, since))


async def _record(database_url: str, since: datetime) -> Record:
    connection = await asyncpg.connect(database_url)
    try:
        events, moves = await connection.fetch(_EVENTS, since), await connection.fetch(_MOVES, since)
    finally:
        await connection.close()
    return Record(
        [Kept(_serial(row["body"]), row["event_id"]) for row in events],
        [Moved(row["provider_id"], row["evidence_id"]) for row in moves],
    )


def _serial(body: bytes) -> Serial:
    said = json.loads(body)
    return Serial(said["resource"]["id"], said["number"])


def value(database_url: str, statement: str) -> object:
    """The one value that a statement finds."""

    async def fetch() -> object:
        connection = await asyncpg.connect(database_url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def latest(database_url: str) -> datetime:
    """When the latest event was heard."""
    found = value(database_url, _LATEST)
    assert isinstance(found, datetime)
    return found


def spooled(data_dir: Path) -> list[Path]:
    """The segments of the spool, of whatever process."""
    while True:
        with suppress(FileNotFoundError):  # a folder that was drained went while it was looked through
            return list((data_dir / "spool").glob("process-*/*.segment"))


def until_drained(data_dir: Path, *, within: float = 60.0) -> None:
    """Wait until the spool is empty."""
    until(lambda: not spooled(data_dir), "the spool is empty", within=within)


def until_ended(database_url: str, data_dir: Path, *, within: float = 60.0) -> None:
    """Wait until nothing is on its way any more: the spool is empty, and every event is applied."""
    until_drained(data_dir, within=within)
    until(lambda: value(database_url, _WAITING) == 0, "every event is applied", within=within)
