"""Postgres away for a minute under 500 callbacks a second: each is answered 200, and in the record soon after.

    .venv/bin/python bench/outage.py [--seconds 60] [--rate 500] [--spool disk,nats]

Once with the spool on disk and once with it in a cluster of three NATS servers on this machine, which sync before they
acknowledge. Exit code 0 if every callback was answered 200 at its first sending, all were in the record within 10 seconds
of Postgres's return, each once, and each VM's in their order. Result as JSON in bench/results/outage.json: that of the disk,
and below `nats` that of NATS; not written if the disk was left out.
"""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
from pathlib import Path

import ground

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import crashing
from nats_servers import nats_cluster, spool_url, waiting
from postgres import embedded_postgres
from processes import until

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


def measured(asked: argparse.Namespace, spool: str) -> dict[str, object]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rollcall-")))
        nodes = stack.enter_context(nats_cluster(folder)) if spool == "nats" else []
        settings = {"SPOOL_URL": spool_url(nodes)} if nodes else {}
        server = stack.enter_context(embedded_postgres())
        scene = stack.enter_context(crashing.scene(folder, server, seed=1, vms=VMS, **settings))
        if nodes:
            scene.waits = lambda: waiting(nodes)
            until(lambda: "spool.connected" in scene.daemon.log, "the stream is there")
        outage = scene.outage(asked.seconds, every=VMS / asked.rate)
        return result(outage, [*outage.complaints, *scene.finish()])


def is_kept(told: dict[str, object]) -> bool:
    broken = told["complaints"] or told["sent_again"] or told["answered_otherwise"]
    return not broken and told["recorded_seconds_after_return"] < WITHIN


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--rate", type=float, default=500.0)
    arguments.add_argument("--spool", default="disk,nats", choices=("disk", "nats", "disk,nats"))
    asked = arguments.parse_args()
    # SIGTERM ends it as Ctrl-C does, so that what was started is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    about = {
        "seconds": asked.seconds,
        "rate": asked.rate,
        "vms": VMS,
        "machine": ground.machine(),
    }
    told = {spool: measured(asked, spool) for spool in asked.spool.split(",")}
    if "disk" in told:
        ground.write("outage", {**about, **told["disk"], **({"nats": told["nats"]} if "nats" in told else {})})
    print(json.dumps(told, indent=1))
    return 0 if all(map(is_kept, told.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
