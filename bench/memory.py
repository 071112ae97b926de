"""Memory: what the whole daemon holds while callbacks come at a steady rate and are applied, minute after minute.

    .venv/bin/python bench/memory.py [--minutes 10] [--rate 1000]

It runs `rollcall serve` itself, and looks at its resident memory every few seconds. Figures go to
bench/results/memory.json. Exit code 0 if every callback was acknowledged, memory stayed under 200 MB, and it was flat:
the most that was seen in the second half is within 5 MB of the most that was seen before, the first tenth left out.
"""

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import as_of
import ground
import load
from ground import Ground, cpu_seconds, resident_mb
from servers import SECRET

from service.lab.demo.stage import free_ports

CONNECTIONS = 64
MOST_MB = 200.0
MOST_GROWTH_MB = 5.0
PATIENCE = 60.0
#: Nobody answers here, and nothing is asked: callbacks alone move these VMs.
UNASKED = {
    "INFRAHUB_URL": "http://127.0.0.1:9/v1",
    "INFRAHUB_API_KEY": "none",
    "OVERDUE_SECONDS": "86400",
    "RESYNC_SECONDS": "86400",
}


async def measured(here: Ground, minutes: float, rate: int) -> dict[str, object]:
    url = await here.fresh()
    await as_of.fill(url, 0)
    with daemon(url) as (pid, port):
        sending = asyncio.create_task(
            asyncio.to_thread(load.at_rate, rate, CONNECTIONS, minutes * 60, port, as_of.said())
        )
        samples = await _sampled(pid, sending, max(0.5, minutes / 2))
        told, busy = await sending, cpu_seconds(pid)
        left = await here.count("inbox")
    kept = await here.count("events")
    return {
        "minutes": minutes,
        "rate": rate,
        **told,
        "stored": kept,
        "left_to_apply": left,
        "daemon_cpu_us": busy / max(1, kept) * 1e6,
        "memory_mb": samples,
        "most_mb": max(samples),
        "growth_mb": _growth(samples),
    }


async def _sampled(pid: int, sending: asyncio.Task[dict[str, float]], pause: float) -> list[float]:
    samples = []
    while not sending.done():
        samples.append(resident_mb(pid))
        await asyncio.wait({sending}, timeout=pause)
    return samples


def _growth(samples: Sequence[float]) -> float:
    """How much more the second half has seen than the first, without the beginning, when everything is used first."""
    half, begun = len(samples) // 2, -(-len(samples) // 10)
    return max(samples[half:]) - max(samples[begun:half], default=0.0)


@contextlib.contextmanager
def daemon(url: str, *, api_port: int | None = None) -> Iterator[tuple[int, int]]:
    """The whole daemon in a process of its own: its process id, and the port of its callback listener."""
    callbacks, api = free_ports(2)
    ports = [callbacks, api_port or api]
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-") as folder:
        settings = UNASKED | {
            "DATABASE_URL": url,
            "DATA_DIR": folder,
            "CALLBACK_SECRETS": SECRET,
            "CALLBACK_LISTEN": f"127.0.0.1:{ports[0]}",
            "API_LISTEN": f"127.0.0.1:{ports[1]}",
        }
        env = {**os.environ, **{f"ROLLCALL_{name}": value for name, value in settings.items()}}
        command = [str(Path(sys.executable).with_name("rollcall")), "serve"]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
        try:
            _wait_for(process, ports[0], Path(folder) / "log")
            yield process.pid, ports[0]
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the daemon does not listen: {log.read_text()[-2000:]}")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--minutes", type=float, default=10.0)
    arguments.add_argument("--rate", type=int, default=1000, help="callbacks a second")
    asked = arguments.parse_args()
    about = ground.machine()
    with ground.ground() as here:
        told = asyncio.run(measured(here, asked.minutes, asked.rate))
    ground.write("memory", about | told)
    print(
        f"{told['answered']} callbacks acknowledged, {told['failed']} not, {told['stored']} on record, "
        f"{told['left_to_apply']} still to be applied; p99 {told['p99_ms']:.1f} ms\n"
        f"resident memory: {told['most_mb']:.0f} MB at most, {told['growth_mb']:+.1f} MB from the first half to the second"
    )
    good = not told["failed"] and told["stored"] >= told["answered"]
    return 0 if good and told["most_mb"] < MOST_MB and told["growth_mb"] < MOST_GROWTH_MB else 1


if __name__ == "__main__":
    sys.exit(main())
