"""Postgres away for a minute under 500 callbacks a second: each is answered 200, and in the record soon after.

    .venv/bin/python bench/outage.py [--seconds 60] [--rate 500]

Exit code 0 if every callback was answered 200 at its first sending, all were in the record within 10 seconds of
Postgres's return, each once, and each VM's in their order. Result as JSON in bench/results/outage.json.
"""

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path

import ground

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import crashing
from postgres import embedded_postgres

VMS = 50
WITHIN = 10.0


def result(outage: crashing.Outage, wrong: list[str]) -> dict[str, object]:
    ledger, seconds = outage.load.ledger, sorted(outage.load.seconds)
    return {
        "acknowledged": len(ledger.acknowledged),
        "acknowledged_while_away": outage.acknowledged_meanwhile,
        "sent_again": ledger.tries.total() - len(ledger.tries),
        "answered_otherwise": len(outage.load.refused),
        "recorded_seconds_after_return": outage.recorded_after,
        "applied_seconds_after_return": outage.applied_after,
        "p50_ms": seconds[len(seconds) // 2] * 1e3,
        "p99_ms": seconds[int(len(seconds) * 0.99)] * 1e3,
        "max_ms": seconds[-1] * 1e3,
        "complaints": wrong[:100],
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--rate", type=float, default=500.0)
    asked = arguments.parse_args()
    # SIGTERM ends it as Ctrl-C does, so that what was started is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    about = {
        "seconds": asked.seconds,
        "rate": asked.rate,
        "vms": VMS,
        "machine": ground.machine(),
    }
    with (
        tempfile.TemporaryDirectory(prefix="rollcall-") as folder,
        embedded_postgres() as server,
        crashing.scene(Path(folder), server, seed=1, vms=VMS) as scene,
    ):
        outage = scene.outage(asked.seconds, every=VMS / asked.rate)
        told = result(outage, [*outage.complaints, *scene.finish()])
    ground.write("outage", {**about, **told})
    print(json.dumps(told, indent=1))
    kept = not (told["complaints"] or told["sent_again"] or told["answered_otherwise"])
    return 0 if kept and outage.recorded_after < WITHIN else 1


if __name__ == "__main__":
    sys.exit(main())
