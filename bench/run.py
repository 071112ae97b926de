"""Every bench, one after another: `make bench` in a few minutes, `make bench ARGS=--full` as the README's figures are made.

    .venv/bin/python bench/run.py [--full] [NAME ...]

Each is a script of its own, with arguments of its own, and is ended when it takes longer than it may. The quick form
shows that everything runs, and roughly how fast; its figures go to bench/results/quick, which git does not keep.
Exit code 0 if every bench has ended by itself and found what it demands.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Bench:
    """A script of this folder, the arguments of its two forms, and the minutes after which each is ended."""

    name: str
    quick: str
    full: str = ""
    quick_minutes: float = 5
    full_minutes: float = 60


BENCHES = (
    Bench("ingest", "--rounds 1 --seconds 3 --connections 64 --sizes 320 --rates 1000", full_minutes=120),
    Bench("apply", "--rounds 1 --vms 2000 --events 20000", full_minutes=90),
    Bench("seal", "--rounds 1 --vms 2000 --events 20000 --seconds 3", full_minutes=60),
    Bench("export", "--rounds 1 --events 50000"),
    Bench("audit", "--events 50000 --rounds 10", full_minutes=180),
    Bench("latency", "--rounds 1 --rates 100,1000 --seconds 5"),
    Bench("growth", "--events 0,100000 --rounds 2 --seconds 2", full_minutes=90),
    Bench("memory", "--minutes 0.5 --rate 500", full_minutes=20),
    Bench("jobs", "--vms 1000 --seconds 3", full_minutes=60),
    Bench("pages", "--vms 2000 --events 40000 --rounds 1 --seconds 3", full_minutes=90),
    Bench("hanging", "--seconds 60", full_minutes=10),
    Bench("crash", "--rounds 14"),
    Bench("outage", "--seconds 10 --rate 200"),
    Bench("flood", "--requests 10000"),
    Bench("rate_limit", "--vms 2000 --limit 100"),
)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--full", action="store_true", help="as the README's figures are made; takes hours")
    arguments.add_argument("names", nargs="*", metavar="NAME", help=" ".join(one.name for one in BENCHES))
    asked = arguments.parse_args()
    unknown = set(asked.names) - {one.name for one in BENCHES}
    if unknown:
        arguments.error(f"no such bench: {', '.join(sorted(unknown))}")
    # SIGTERM ends it as Ctrl-C does, so that what was started is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = [one for one in BENCHES if not asked.names or one.name in asked.names]
    ends = {one.name: ran(one, full=asked.full) for one in chosen}
    print("\n" + "\n".join(f"{name:<8} {end}" for name, end in ends.items()))
    return 0 if all(end.startswith("ok") for end in ends.values()) else 1


def ran(bench: Bench, *, full: bool) -> str:
    """Run a bench, and say how it ended."""
    print(f"\n== {bench.name}", flush=True)
    command = [sys.executable, str(HERE / f"{bench.name}.py"), *(bench.full if full else bench.quick).split()]
    folder = HERE / "results" if full else HERE / "results" / "quick"
    begun = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, "BENCH_RESULTS": str(folder)})
    try:
        code = process.wait((bench.full_minutes if full else bench.quick_minutes) * 60)
        end = "ok" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        end = "ended, since it took too long"
    finally:
        stopped(process)
    return f"{end}, {time.monotonic() - begun:.0f} s"


def stopped(process: subprocess.Popen[bytes]) -> None:
    """Have a bench take down what it has started, as at Ctrl-C."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
