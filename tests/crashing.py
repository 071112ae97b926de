"""Rounds of crashes: callbacks under way, an end without warning at a moment that a seed draws, a restart, a comparison.

The daemon is a real process and is killed; Postgres is stopped as by a power cut. The acceptance tests run a few
rounds, bench/crash.py hundreds.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event

import asyncpg
from ledger import Ledger, complaints
from numbered import (
    BEGINNING,
    UNASKED,
    Load,
    bound_vms,
    latest,
    record,
    sending,
    spooled,
    until_ended,
    value,
)
from processes import HASTE, KEY, SECRET, TOKEN, Serve, blunders, until

from service.storage.embedded import EmbeddedPostgres

_HEARD = "SELECT count(*) FROM events"
#: How many callbacks have to be acknowledged after the last crash of a round: what still works is a part of it.
_AFTERWARDS = 20


@dataclass
class Tally:
    """What all rounds together were."""

    rounds: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    complaints: list[str] = field(default_factory=list)
    #: VMs that were moved in another order than they were heard of, where that may be: it costs them a reading.
    #: Kills of the daemon at which callbacks were in the spool, by the kind of round.
    killed_with_a_spool: Counter[str] = field(default_factory=Counter)
    refused: int = 0


@dataclass
class Outage:
    """What became of the callbacks while Postgres was away, and how many seconds after its return."""

    load: Load
    acknowledged_meanwhile: int
    recorded_after: float
    applied_after: float
    complaints: list[str]


class Scene:
    """A daemon, its Postgres, and the VMs that callbacks are sent about."""

    def __init__(self, daemon: Serve, server: EmbeddedPostgres, seed: int, vms: int) -> None:
        self.daemon = daemon
        self.server = server
        self.rng = random.Random(seed)
        self.tally = Tally()
        self.data_dir = Path(daemon.settings["DATA_DIR"])
        self.vms = bound_vms(server.url, vms, SECRET)
        self.port = int(daemon.callbacks.rpartition(":")[2])
        #: What waits in the spool, wherever that is; by default on disk.
        self.waits: Callable[[], object] = lambda: spooled(self.data_dir)
        self._since: datetime = BEGINNING
        self._kind = ""

    def round(self, kind: str) -> list[str]:
        """One round; what is wrong with the record after it."""
        began, self._kind = time.monotonic(), kind
        with self.load() as load:
            load.until_more(_AFTERWARDS)
            CRASHES[kind](self, load)
            load.until_more(_AFTERWARDS)
        wrong = self.compared(load)
        self.tally.rounds[kind] += 1
        self.tally.complaints += wrong
        self.tally.refused += len(load.refused)
        self.tally.seconds.append(time.monotonic() - began)
        return wrong

    def load(self, *, every: float = 0.01) -> AbstractContextManager[Load]:
        """Callbacks about each VM every so many seconds, for as long as the block lasts."""
        return sending(self.port, self.vms, every=every, seed=self.rng.getrandbits(32))

    def compared(self, load: Load) -> list[str]:
        """What is wrong with the record, of what was sent since it was compared last; once nothing is on its way."""
        until(lambda: not self.waits(), "the spool is empty", within=90)
        until_ended(self.server.url, self.data_dir)
        wrong = complaints(load.ledger, record(self.server.url, self._since))
        self._since = latest(self.server.url)
        self.tally.ledger.add(load.ledger)
        return wrong

    def outage(self, seconds: float, *, every: float) -> Outage:
        """Take Postgres away for so long, under callbacks about each VM every so many seconds."""
        with self.load(every=every) as load:
            load.until_more(_AFTERWARDS)
            self.server.stop("immediate")
            before = load.acknowledged
            Event().wait(seconds)
            until(self.waits, "the spool is in use")
            meanwhile = load.acknowledged - before
            self.server.start()
            back = time.monotonic()
            until(lambda: not self.waits(), "the spool is empty", within=60)
            recorded = time.monotonic() - back
            load.until_more(_AFTERWARDS)
        until_ended(self.server.url, self.data_dir)
        applied = time.monotonic() - back
        return Outage(load, meanwhile, recorded, applied, self.compared(load))

    def finish(self) -> list[str]:
        """Compare everything that was ever acknowledged with the whole record, and look through the daemon's log."""
        found = complaints(self.tally.ledger, record(self.server.url))
        wrong = found + blunders(self.daemon.log)
        self.tally.complaints += wrong
        return wrong

    # What a round is made of.

    def moment(self, longest: float) -> None:
        """Let a while pass that the seed draws: what a crash interrupts is not to be foreseen."""
        Event().wait(self.rng.uniform(0, longest))

    def kill(self) -> None:
        """End the daemon as a power cut does, with all of its processes."""
        children = self.daemon.children()
        self.daemon.kill()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.waits():
            self.tally.killed_with_a_spool[self._kind] += 1

    def spool(self, load: Load) -> None:
        """Take Postgres away until callbacks are spooled."""
        self.server.stop("immediate")
        load.until_more(self.rng.randint(10, 400))
        until(self.waits, "the spool is in use")


def _kill_daemon(scene: Scene, _load: Load) -> None:
    scene.moment(0.25)
    scene.kill()
    scene.daemon.start()


def _crash_postgres(scene: Scene, _load: Load) -> None:
    scene.moment(0.25)
    scene.server.stop("immediate")
    scene.moment(0.25)
    scene.server.start()


def _crash_both(scene: Scene, _load: Load) -> None:
    scene.moment(0.25)
    ends: list[Callable[[], None]] = [scene.kill, lambda: scene.server.stop("immediate")]
    scene.rng.shuffle(ends)
    for end in ends:
        end()
    scene.server.start()
    scene.daemon.start()


def _kill_spooling(scene: Scene, load: Load) -> None:
    scene.spool(load)
    scene.moment(0.6)  # the spool looks for Postgres twice a second, and begins another segment when it does
    scene.kill()
    scene.server.start()
    scene.daemon.start()


def _kill_draining(scene: Scene, load: Load) -> None:
    before = value(scene.server.url, _HEARD)
    scene.spool(load)
    scene.moment(0.6)
    scene.server.start()
    asyncio.run(_until_growth(scene.server.url, before))
    scene.moment(0.03)
    scene.kill()
    scene.daemon.start()


async def _until_growth(database_url: str, before: object) -> None:
    """Wait for the first group that is drained: a matter of milliseconds, so it is looked for without pause."""
    connection = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(30):
            while await connection.fetchval(_HEARD) == before:
                pass
    finally:
        await connection.close()


#: The ways to crash, by name.
CRASHES: Mapping[str, Callable[[Scene, Load], None]] = {
    "daemon": _kill_daemon,
    "Postgres": _crash_postgres,
    "both": _crash_both,
    "daemon spooling": _kill_spooling,
    "daemon draining": _kill_draining,
}


@contextmanager
def scene(folder: Path, server: EmbeddedPostgres, seed: int, *, vms: int = 24, **changes: str) -> Iterator[Scene]:
    """A daemon that serves, on an empty database that it has migrated; gone at the end of the block.

    Its settings may be changed, by their names without prefix.
    """
    settings = {
        **HASTE,
        **UNASKED,
        "DATABASE_URL": server.url,
        "INFRAHUB_API_KEY": KEY,
        "CALLBACK_SECRETS": SECRET,
        "API_TOKENS": f"tests={TOKEN}",
        **changes,
    }
    daemon = Serve(folder, "daemon", settings)
    try:
        daemon.start()
        yield Scene(daemon, server, seed, vms)
    finally:
        daemon.kill()
