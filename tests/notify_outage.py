"""Messages that are due while processes are killed and the database stops: what a target of webhooks gets of them.

The deliverer is a process of its own. Nothing here waits for a time to pass, but for what the target has received.
"""

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from uuid import UUID

from webhook_target import KEY, Target, listening

from service.core.ids import FLEET
from service.storage.embedded import EmbeddedPostgres
from service.storage.engine import begin, create_engine
from service.storage.messages import Message, insert, next_numbers

_SUBMISSIONS = 20
#: The deliverer: the two jobs of a daemon, and nothing else.
_PROCESS = """
import asyncio, sys
from pydantic import SecretStr
from service.config import Settings
from service.runtime.logs import configure_logs
from service.runtime.runtime import open_runtime
from service.worker import runner
configure_logs("error", "json")
url, secret, notify, folder = sys.argv[1:]
settings = Settings(_env_file=None, data_dir=folder, callback_secrets=secret, notify=notify, notify_private=True,
                    poll_seconds=0.1, notify_timeout_seconds=2)
async def main():
    jobs = {name: runner.ALL[name] for name in ("notify", "deliver")}
    await runner.run(open_runtime(settings, url), asyncio.Event(), grace=0, jobs=jobs)
asyncio.run(main())
"""


@dataclass(frozen=True)
class Outcome:
    """What was sent and what arrived. `missing` are messages that never did; `unlike`, numbers that told no order."""

    due: int
    killed: int
    stopped: int
    requests: int
    missing: int
    unlike: int
    repeated: int

    @property
    def good(self) -> bool:
        return not self.missing and not self.unlike


async def outage(server: EmbeddedPostgres, folder: str, *, due: int, crashes: int, seed: int = 1) -> Outcome:
    """Write `due` messages, and end the deliverer or the database `crashes` times while they are delivered."""
    rng, kinds = random.Random(seed), Counter[str]()
    async with listening() as target:
        await _write(server.url, due)
        process = _start(server.url, target, folder)
        try:
            for number in range(1, crashes + 1):
                await target.arrived(min(due - 1, len(target.requests) + rng.randrange(1, due // crashes)))
                kind = "killed" if number % 2 else "stopped"
                kinds[kind] += 1
                if kind == "killed":
                    process.kill()
                    process.wait()
                    process = _start(server.url, target, folder)
                else:
                    await asyncio.to_thread(server.stop, "immediate")
                    await asyncio.to_thread(server.start)
                await _forget_leases(server.url)
            await _all_arrived(target, due)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        return _outcome(target, due, kinds)


async def _forget_leases(url: str) -> None:
    """End the leases that whoever died or lost the database still has, as time does."""
    await _execute(url, "UPDATE message_lanes SET lease_token = NULL, lease_until = NULL")


async def _all_arrived(target: Target, due: int) -> None:
    while len({headers["webhook-id"] for headers, _ in target.requests}) < due:
        await target.arrived(len(target.requests) + 1)


def _outcome(target: Target, due: int, kinds: Counter[str]) -> Outcome:
    arrived = {headers["webhook-id"]: json.loads(body) for headers, body in target.requests}
    told = Counter((one["data"]["submission_id"], one["data"]["sequence"]) for one in arrived.values())
    wanted = {(str(UUID(int=1 + place % _SUBMISSIONS)), 1 + place // _SUBMISSIONS) for place in range(due)}
    return Outcome(
        due=due,
        killed=kinds["killed"],
        stopped=kinds["stopped"],
        requests=len(target.requests),
        missing=due - len(arrived),
        unlike=len(wanted ^ told.keys()) + sum(many - 1 for many in told.values()),
        repeated=len(target.requests) - len(arrived),
    )


async def _write(url: str, due: int) -> None:
    """Messages of several submissions, in their order, as the job `notify` writes them."""
    engine, now = create_engine(url), datetime.now(UTC)
    async with begin(engine) as conn:
        counts = Counter((UUID(int=1 + place % _SUBMISSIONS), "ops") for place in range(due))
        numbers = await next_numbers(conn, counts)
        new = []
        for place in range(due):
            key = (UUID(int=1 + place % _SUBMISSIONS), "ops")
            new.append(_message(key[0], numbers[key], place, now))
            numbers[key] += 1
        await insert(conn, new, now=now)
    await engine.dispose()


def _message(submission_id: UUID, seq: int, place: int, now: datetime) -> Message:
    body = {"type": "vm.ready", "data": {"submission_id": str(submission_id), "sequence": seq}}
    return Message(
        submission_id=submission_id,
        target="ops",
        seq=seq,
        message_id=UUID(int=(FLEET.int + 1) << 64 | place),
        lane="target ops",
        kind="vm.ready",
        text="1 VM is ready",
        body=json.dumps(body),
        created_at=now,
        due_at=now,
        give_up_at=now.replace(year=now.year + 1),
    )


async def _execute(url: str, statement: str) -> None:
    engine = create_engine(url)
    async with begin(engine) as conn:
        await conn.exec_driver_sql(statement)
    await engine.dispose()


def _start(url: str, target: Target, folder: str) -> subprocess.Popen[bytes]:
    arguments = [
        url,
        "a secret of thirty-two characters",
        json.dumps([{"name": "ops", "to": target.url, "secrets": [KEY]}]),
    ]
    return subprocess.Popen([sys.executable, "-c", _PROCESS, *arguments, folder])


def shown(outcome: Outcome) -> dict[str, int]:
    return asdict(outcome)
