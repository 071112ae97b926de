"""A Postgres that Patroni keeps loses its primary, again and again, under callbacks and while fleets are made.

    .venv/bin/python bench/failover.py [--rounds 20] [--kinds killed,frozen,partitioned,isolated,"switched over"] [--daemons 1,2] [--clusters 1]

Three nodes, synchronous replication, 200 callbacks a second, and in each round a submission that is stored a moment before the
primary is killed (`kill -9` of Patroni and Postgres), frozen (SIGSTOP), partitioned (bench/patroni.py says how), isolated (it
loses its standbys and etcd, and not the daemons) or switched over. With two daemons one of them is killed at the same moment.
Each callback that was acknowledged is looked for in the record, and each VM of the simulator counted. Then some of it with
asynchronous replication, where Postgres may lose what it has committed: how much is written down.
A round mostly waits for Patroni, so several clusters may play at once: that is sooner, and its seconds are those of a busier machine.

Exit code 0 if with synchronous replication nothing acknowledged is lost, no event moved a VM twice, no VM was made twice, and
callbacks were applied again within 5 s of each promotion.
Result as JSON in bench/results/failover.json.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import ground
import patroni

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from ledger import Ledger, Serial
from numbered import BEGINNING, Load, sending, spooled, vms_of
from processes import Stage, rows, staged, until
from tcp_proxy import Proxies

from service.lab.demo.stage import free_ports

VMS, RATE = 40, 200.0
FLEET: Final = 60
WITHIN: Final = 5.0
PATIENCE: Final = 120.0
#: What a primary may lose of what it has committed: played with asynchronous replication, too.
LOSING: Final = ("killed", "isolated")
#: How long a daemon waits after failures is its own default: that is measured here.
AS_IT_COMES: Final = {"RETRY_FIRST_SECONDS": "2", "RETRY_CAP_SECONDS": "120", "POLL_SECONDS": "0.5"}

_EVENTS: Final = """
SELECT body, event_id, received_at FROM events WHERE source = 'callback' AND received_at > '{since}' ORDER BY received_at, event_id
"""
_MOVED: Final = """
SELECT evidence_id, count(*) FROM transitions WHERE verdict = 'moved' AND evidence = 'event'
GROUP BY evidence_id HAVING count(*) > 1
"""
_SEQ: Final = "SELECT sum(seq) FROM vms WHERE submission_id = $1"


@dataclass
class Round:
    """What was seen in a round; seconds."""

    kind: str
    patroni: float = 0.0  #: from the fault to the promotion
    applied: float = 0.0  #: from the promotion until a callback was applied
    caught_up: float = 0.0  #: from the promotion until the spools and the inbox were empty
    acknowledged: int = 0
    lost: list[Serial] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


class Scene:
    """Daemons on a cluster, a simulator, VMs that callbacks are sent about, and a proxy that finds a daemon that lives."""

    def __init__(self, stage: Stage, cluster: patroni.Cluster, port: int, seed: int) -> None:
        self.stage, self.cluster, self.port = stage, cluster, port
        self.url = cluster.url  # of the primary itself: one that thaws still takes itself for it
        self.rng = random.Random(seed)
        self.submission = stage.daemon.submit(VMS, name="numbered")
        stage.daemon.until_state(self.submission, "ready")
        self._vms = vms_of(self.url, self.submission, stage.daemon.settings["CALLBACK_SECRETS"])
        self.old = cluster.nodes[0]  # the primary that the fault hits
        self._since: datetime = BEGINNING
        self._moved_twice: set[object] = set()

    def round(self, kind: str) -> Round:
        found = Round(kind)
        with sending(self.port, self._vms, every=VMS / RATE, seed=self.rng.getrandbits(32)) as load:
            load.until_more(100)
            fleet = self.stage.daemons[-1].submit(FLEET)
            time.sleep(self.rng.uniform(0, 1.0))  # the fault hits whatever the fleet has come to
            asyncio.run(self._fault(kind, found))
            load.until_more(100)
        self._heal(kind)
        found.caught_up = self._caught_up()
        self.stage.daemon.until_state(fleet, "ready", within=PATIENCE)
        self._compare(load, found)
        found.complaints += self._wrong(fleet)
        self.stage.daemon.api.cancel_submission(fleet)
        self.cluster.until_whole()
        return found

    async def _fault(self, kind: str, found: Round) -> None:
        old = self.cluster.leader()
        assert old is not None
        self.old = old
        standbys = self.cluster.standbys()
        connections = [await asyncpg.connect(one.url) for one in standbys]
        began = time.monotonic()
        happens = asyncio.create_task(asyncio.to_thread(FAULTS[kind], self))
        if len(self.stage.daemons) > 1:
            self.stage.daemons[0].kill()
        promoted, at = await _promoted(connections), time.monotonic()
        self.url = standbys[connections.index(promoted)].url
        before = await promoted.fetchval(_SEQ, self.submission)
        while await promoted.fetchval(_SEQ, self.submission) == before:
            assert time.monotonic() < at + PATIENCE, "no callback is applied after the promotion"
            await asyncio.sleep(0.01)
        found.patroni, found.applied = at - began, time.monotonic() - at
        await happens
        self._at = at
        for one in connections:
            one.terminate()

    def _heal(self, kind: str) -> None:
        """The node comes back, and with it the daemon that was killed."""
        HEALED[kind](self.old)
        for one in self.stage.daemons:
            if not one.running:
                one.start()

    def _caught_up(self) -> float:
        """Wait until everything is applied. Returns how many seconds after the promotion that was so of the numbered callbacks:
        some of the fleet's wait until their creation is found at the provider.
        """
        for one in self.stage.daemons:
            folder = Path(one.settings["DATA_DIR"])
            until(lambda folder=folder: not spooled(folder), "the spool is empty", within=PATIENCE)
        ours = f"SELECT FROM inbox WHERE submission_id = '{self.submission}' LIMIT 1"
        until(lambda: not rows(self.url, ours), "every numbered event is applied", within=PATIENCE)
        seconds = time.monotonic() - self._at
        until(lambda: not rows(self.url, "SELECT FROM inbox LIMIT 1"), "every event is applied", within=PATIENCE)
        return seconds

    def _compare(self, load: Load, found: Round) -> None:
        kept: list[tuple[Serial, object]] = []
        for row in rows(self.url, _EVENTS.format(since=self._since.isoformat())):
            said = json.loads(row["body"])
            if "number" in said:
                kept.append((Serial(said["resource"]["id"], said["number"]), row["event_id"]))
            self._since = max(self._since, row["received_at"])
        times = Counter(serial for serial, _ in kept)
        found.acknowledged = load.acknowledged
        found.lost = sorted(load.ledger.acknowledged - set(times))
        found.complaints += _too_often(load.ledger, times)
        twice = {row["evidence_id"] for row in rows(self.url, _MOVED)}
        found.complaints += [f"moved twice: by event {one}" for one in twice - self._moved_twice]
        self._moved_twice |= twice

    def _wrong(self, fleet: str) -> Iterator[str]:
        """Whether the provider has as many VMs of a ready submission as were asked for, and the record each once."""
        vms = rows(self.url, f"SELECT provider_id FROM vms WHERE submission_id = '{fleet}' AND ended_at IS NULL")
        ids = {row["provider_id"] for row in vms}
        known = {row["provider_id"] for row in rows(self.url, "SELECT provider_id FROM vms")}
        alive = {one["id"] for one in self.stage.simulator.alive()}
        if len(vms) != FLEET or len(ids) != FLEET or not ids <= alive:
            yield f"twice or missing: {len(vms)} VMs on record, {len(ids)} ids, {len(ids & alive)} of them alive"
        if unknown := alive - known:
            yield f"made twice: {len(unknown)} VMs are in no row of the record"


async def _promoted(standbys: Sequence[asyncpg.Connection]) -> asyncpg.Connection:
    """The connection to the standby that becomes the primary, as soon as it is one."""
    patience = time.monotonic() + PATIENCE
    while True:
        for one in standbys:
            if not await one.fetchval("SELECT pg_is_in_recovery()"):
                return one
        assert time.monotonic() < patience, "no standby was promoted"
        await asyncio.sleep(0.01)


def _too_often(ledger: Ledger, times: Mapping[Serial, int]) -> Iterator[str]:
    for serial, number in times.items():
        if number > ledger.tries[serial] > 0:
            yield f"kept too often: {serial} was sent {ledger.tries[serial]} times and is in the record {number} times"


FAULTS: Final[Mapping[str, Callable[[Scene], None]]] = {
    "killed": lambda scene: scene.old.kill(),
    "frozen": lambda scene: scene.old.freeze(),
    "partitioned": lambda scene: scene.old.cut_off(),
    "isolated": lambda scene: scene.old.isolate(),
    "switched over": lambda scene: scene.cluster.switch_over(),
}
HEALED: Final[Mapping[str, Callable[[patroni.Node], None]]] = {
    "killed": lambda node: node.start(),
    "frozen": lambda node: node.thaw(),
    "partitioned": lambda node: node.reconnect(),
    "isolated": lambda node: node.reconnect(),
    "switched over": lambda _: None,
}


@contextlib.contextmanager
def scene(*, synchronous: bool, daemons: int, seed: int) -> Iterator[Scene]:
    folder = Path(tempfile.mkdtemp(prefix="rollcall-failover-"))
    proxies = Proxies()
    (front,) = free_ports(1)
    try:
        with ExitStack() as stack:
            cluster = stack.enter_context(patroni.cluster(folder, proxies, synchronous=synchronous))
            asyncio.run(_create_database(cluster))
            settings = {**AS_IT_COMES, "PUBLIC_URL": f"http://127.0.0.1:{front}"}
            stage = stack.enter_context(staged(folder, cluster.url, daemons=daemons, **settings))
            # The last daemon is the one that lives.
            proxies.add([int(one.callbacks.rpartition(":")[2]) for one in stage.daemons], port=front)
            yield Scene(stage, cluster, front, seed)
    except Exception:
        print(f"the logs are in {folder}", flush=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


async def _create_database(cluster: patroni.Cluster) -> None:
    leader = cluster.leader()
    assert leader is not None
    connection = await asyncpg.connect(leader.url.replace("/rollcall", "/postgres"))
    await connection.execute("CREATE DATABASE rollcall")
    await connection.close()


def measured(kinds: Sequence[str], rounds: int, *, synchronous: bool, daemons: int, clusters: int) -> Iterator[Round]:
    """As many rounds of each kind, mixed, on so many clusters at once."""
    order = list(kinds) * rounds
    random.Random(daemons).shuffle(order)
    spawn = multiprocessing.get_context("spawn")
    rounds_played: multiprocessing.Queue[Round | None] = spawn.Queue()
    players = [
        spawn.Process(target=play, args=(rounds_played, order[number::clusters], synchronous, daemons, number))
        for number in range(clusters)
    ]
    for player in players:
        player.start()
    number, playing = 0, clusters
    try:
        while playing:
            found = rounds_played.get(timeout=4 * PATIENCE)
            if found is None:
                playing -= 1
                continue
            number += 1
            told = f"{found.acknowledged} acknowledged, {len(found.lost)} lost, {'; '.join(found.complaints[:3]) or 'else all well'}"
            print(
                f"{number}/{len(order)} {found.kind}: promoted after {found.patroni:.1f} s, applied {found.applied:.2f} s and "
                f"caught up {found.caught_up:.1f} s after that; {told}", flush=True,
            )  # fmt: skip
            yield found
    finally:
        for player in players:
            if playing and player.is_alive() and player.pid is not None:
                os.kill(player.pid, signal.SIGINT)
            player.join()
    if any(player.exitcode for player in players):
        raise SystemExit("a cluster's rounds broke off")


def play(told: Any, kinds: Sequence[str], synchronous: bool, daemons: int, number: int) -> None:
    """One cluster's rounds, in a process of its own; None at their end."""
    try:
        with scene(synchronous=synchronous, daemons=daemons, seed=100 * number + daemons) as played:
            for kind in kinds:
                told.put(played.round(kind))
    finally:
        told.put(None)


def summary(found: Sequence[Round], *, synchronous: bool, daemons: int) -> Iterator[dict[str, object]]:
    for kind in FAULTS:
        if not (ours := [one for one in found if one.kind == kind]):
            continue
        yield {
            "kind": kind,
            "replication": "synchronous" if synchronous else "asynchronous",
            "daemons": daemons,
            "rounds": len(ours),
            "promoted_seconds": _spread([one.patroni for one in ours]),
            "applied_seconds": _spread([one.applied for one in ours]),
            "caught_up_seconds": _spread([one.caught_up for one in ours]),
            "acknowledged": sum(one.acknowledged for one in ours),
            "lost": sum(len(one.lost) for one in ours),
            "most_lost_in_a_round": max(len(one.lost) for one in ours),
            "complaints": [text for one in ours for text in one.complaints][:20],
        }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"p50": statistics.median(values), "max": max(values)}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=20, help="of each kind")
    arguments.add_argument("--kinds", type=lambda text: text.split(","), default=list(FAULTS))
    arguments.add_argument("--daemons", type=ground.numbers, default=[1, 2])
    arguments.add_argument("--clusters", type=int, default=1, help="that play at once")
    arguments.add_argument(
        "--asynchronous", type=int, default=None, help="rounds of each kind with asynchronous replication"
    )
    asked = arguments.parse_args()
    patroni.required()
    # SIGTERM ends it as Ctrl-C does, so that what was started is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    about = {"machine": ground.machine(), "versions": patroni.versions(), "patroni_settings": patroni.TIMES,
             "rate": RATE, "fleet": FLEET, "clusters": asked.clusters}  # fmt: skip
    rounds = asked.rounds if asked.asynchronous is None else asked.asynchronous
    told = list[dict[str, object]]()
    for synchronous, daemons, times in [*((True, one, asked.rounds) for one in asked.daemons), (False, 1, rounds)]:
        done = list[Round]()
        kinds = asked.kinds if synchronous else [one for one in LOSING if one in asked.kinds]
        if not times or not kinds:
            continue
        for one in measured(kinds, times, synchronous=synchronous, daemons=daemons, clusters=asked.clusters):
            done.append(one)
            rows_ = [*told, *summary(done, synchronous=synchronous, daemons=daemons)]
            ground.write("failover", {**about, "summary": rows_})  # each round, so that an end halfway loses nothing
        told += summary(done, synchronous=synchronous, daemons=daemons)
    print(json.dumps(told, indent=1))
    return 0 if all(is_well(one) for one in told) else 1


def is_well(one: Mapping[str, object]) -> bool:
    if one["replication"] == "asynchronous":
        return True
    return not (one["lost"] or one["complaints"]) and one["applied_seconds"]["max"] < WITHIN


if __name__ == "__main__":
    sys.exit(main())
