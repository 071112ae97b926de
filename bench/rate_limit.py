"""How much of the provider's 500 calls a minute is used, and whether it is ever exceeded: 10,000 VMs, two daemons.

It runs the real processes against the simulator, which enforces the limit in real minutes, and ends by itself:
exit code 0 if not one call was refused for the limit and at least 90 % of it was used while there was work.

    .venv/bin/python bench/budget.py [--vms 10000] [--limit 500] [--daemons 2]
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from postgres import embedded_postgres
from processes import Stage, staged, until

WINDOW = 60.0
SPEED = 20.0
PATIENCE = 240.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--vms", type=int, default=10_000)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--daemons", type=int, default=2)
    given = parser.parse_args()
    # SIGTERM ends it as Ctrl-C does, so that what was started is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cloud = {"rate_limit": given.limit}
    # As they are by default, in the provider's time: what is overdue, and our share of the limit.
    refresh_policy = {"CALLS_PER_MINUTE": str(given.limit * 99 // 100), "OVERDUE_SECONDS": "30", "RESYNC_SECONDS": "60"}
    with (
        tempfile.TemporaryDirectory(prefix="rollcall-") as folder,
        embedded_postgres() as server,
        staged(Path(folder), server.url, cloud=cloud, speed=SPEED, daemons=given.daemons, **refresh_policy) as stage,
    ):
        return _measured(stage, given.vms, given.limit)


def _measured(stage: Stage, vms: int, limit: int) -> int:
    began = time.monotonic()
    submission = stage.daemon.submit(vms)
    until(lambda: _sent(stage, submission), "every creation was sent", within=PATIENCE)
    sent = time.monotonic() - began
    stage.daemon.until_state(submission, "ready", within=PATIENCE)
    ready = time.monotonic() - began
    wrong = stage.wrong()
    stats, calls = stage.simulator.query("stats"), stage.simulator.calls()
    at = [call["at"] / SPEED for call in calls]
    creates = [call["at"] / SPEED for call in stage.simulator.creates()]
    used = _used_while_there_was_work(at, creates, limit)
    print(f"{vms} VMs in {len(creates)} create calls, {len(calls)} calls in all; limit {limit} a minute")
    print(f"all creates sent after {sent:.0f} s, all VMs ready after {ready:.0f} s")
    print(f"refused for the limit: {stats['calls_limited']}; the busiest minute held {_busiest(at)} calls")
    print(f"used while creates were waiting: {used:.1%} of the limit")
    print(f"record and truth: {'equal' if not wrong else f'{len(wrong)} differences, such as {wrong[0]}'}")
    return 0 if not stats["calls_limited"] and used >= 0.9 and not wrong else 1


def _sent(stage: Stage, submission: str) -> bool:
    counts: dict[str, Any] = stage.daemon.submission(submission)["counts"]
    return not counts.get("REQUESTED")


def _busiest(at: list[float]) -> int:
    """The most calls in any minute, wherever it begins."""
    return max(sum(begin <= one < begin + WINDOW for one in at) for begin in at)


def _used_while_there_was_work(at: list[float], creates: list[float], limit: int) -> float:
    """Calls made in the whole minutes from the first create on in which creates were still waiting, of the limit."""
    first, last = creates[0], creates[-1]
    minutes = max(1, int((last - first) // WINDOW))
    return sum(first <= one < first + minutes * WINDOW for one in at) / (minutes * limit)


if __name__ == "__main__":
    sys.exit(main())
