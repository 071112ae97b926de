"""Crashes, hundreds of them, each at a moment that the seed draws: is everything acknowledged in the record, once?

    .venv/bin/python bench/crash.py [--rounds 500] [--seed 1]

In each round callbacks about VMs in the record are sent to a real daemon; then the daemon is killed, or Postgres is
stopped as by a power cut, or both, also while the daemon spools and while it drains; what died is started again, and
every callback that was ever acknowledged is compared with the record. Exit code 0 if none is lost, none moved its VM
twice, and each VM's are in their order. Result as JSON in bench/results/crash.json.
"""

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import ground

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import crashing
from numbered import record
from postgres import embedded_postgres

SAY_EVERY = 25


def rounds(scene: crashing.Scene, number: int, seed: int) -> None:
    """So many rounds, every kind as often; ends early where something is wrong."""
    rng = random.Random(seed)
    kinds: list[str] = []
    for done in range(1, number + 1):
        if not kinds:
            kinds = list(crashing.CRASHES)
            rng.shuffle(kinds)
        try:
            scene.round(kinds.pop())
        except AssertionError as error:
            scene.tally.complaints.append(f"round {done} did not end: {error}")
        if done % SAY_EVERY == 0 or scene.tally.complaints:
            say(scene.tally, done)
        if scene.tally.complaints:
            return


def say(tally: crashing.Tally, done: int) -> None:
    each = statistics.median(tally.seconds[-SAY_EVERY:] or [0])
    told = f"{len(tally.ledger.acknowledged)} acknowledged, {len(tally.complaints)} complaints"
    print(f"round {done}: {told}, {each:.1f} s a round", flush=True)


def result(scene: crashing.Scene) -> dict[str, object]:
    tally, found = scene.tally, record(scene.server.url)
    wrong = Counter(one.partition(":")[0] for one in tally.complaints)
    return {
        "rounds": tally.rounds,
        "acknowledged": len(tally.ledger.acknowledged),
        "sent": tally.ledger.tries.total(),
        "in_the_record": len(found.kept),
        "kept_though_not_acknowledged": found.kept_again,
        "transitions": len(found.moved),
        "lost": wrong["lost"],
        "moved_twice": wrong["moved twice"],
        "out_of_order": wrong["out of order"],
        "complaints": tally.complaints[:100],
        "killed_with_a_spool": tally.killed_with_a_spool,
        "answered_503": tally.refused,
        "seconds_a_round": {"median": statistics.median(tally.seconds), "max": max(tally.seconds)},
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=500)
    arguments.add_argument("--seed", type=int, default=1)
    asked = arguments.parse_args()
    # SIGTERM ends it as Ctrl-C does, so that what was started is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    about = {"seed": asked.seed, "machine": ground.machine()}
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="rollcall-") as folder,
        embedded_postgres() as server,
        crashing.scene(Path(folder), server, asked.seed) as scene,
    ):
        rounds(scene, asked.rounds, asked.seed)
        scene.finish()
        told = {**result(scene), "seconds": time.monotonic() - began}
    ground.write("crash", {**about, **told})
    print(json.dumps(told, indent=1))
    return 1 if told["complaints"] else 0


if __name__ == "__main__":
    sys.exit(main())
