"""A provider that hangs: what callbacks, other fleets, the API and health notice of it, on real processes.

    .venv/bin/python bench/hanging.py [--seconds 180] [--rate 50]

Eight creates of one fleet answer after `--seconds`; deletes and lists do not answer at all. Meanwhile somebody sends
callbacks, uses the API, and submits fleets of 5 VMs, one after another. The same without the hang goes before, with a
database of its own. Exit code 0 if each small fleet became ready within 30 seconds, no callback was refused, and
/readyz named the provider. Result as JSON in bench/results/hanging.json.
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import ground
import orjson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from postgres import embedded_postgres
from processes import BODY, FORM, SECRET, TOKEN, Stage, staged, until

from service.core.token import CreationRef, mint

SPEED = 20.0
CREATES, SMALL, WITHIN = 8, 5, 30.0
#: No answer at all.
NEVER = {"hang_before": {"probability": 1}}


@dataclass
class Noticed:
    """What somebody outside saw. Times are in seconds."""

    callbacks: list[float] = field(default_factory=list)
    refused: int = 0
    api: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    not_ready: int = 0
    issues: dict[str, float] = field(default_factory=dict)

    def told(self) -> dict[str, object]:
        return {
            "callbacks": len(self.callbacks), "callbacks_refused": self.refused, "callback_ms": spread(self.callbacks),
            "api_requests": len(self.api), "api_ms": spread(self.api),
            "small_fleets": len(self.ready), "small_fleets_late": self.not_ready,
            "seconds_to_ready": {"p50": statistics.median(self.ready or [0]), "max": max(self.ready, default=None)},
            "issues_after_seconds": self.issues,
        }  # fmt: skip


def spread(times: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100)
    return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3, "max": max(times) * 1e3}


@dataclass
class Visitor:
    """Uses one daemon until `until`: its callback URL, its API, and its health checks."""

    stage: Stage
    http: aiohttp.ClientSession
    until: float
    noticed: Noticed = field(default_factory=Noticed)
    began: float = field(default_factory=time.monotonic)

    async def callbacks(self, submission_id: str, provider_id: int, rate: float) -> None:
        """Send callbacks at fixed times; each latency counts from when it was due."""
        token = mint(CreationRef(UUID(submission_id), 1), SECRET.encode())
        url = f"{self.stage.daemon.callbacks}/callbacks/{token}"
        body = orjson.dumps({"resource": {"id": provider_id}, "data": {"status": "ACTIVE"}})
        due, sent = time.monotonic(), set[asyncio.Task[None]]()
        while due < self.until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            sent.add(asyncio.create_task(self._callback(url, body, due)))
            due += 1 / rate
        await asyncio.gather(*sent)

    async def _callback(self, url: str, body: bytes, due: float) -> None:
        async with self.http.post(url, data=body, headers=FORM) as answer:
            self.noticed.refused += answer.status != 200
        self.noticed.callbacks.append(time.monotonic() - due)

    async def api(self) -> None:
        paths = ("/v1/fleet", "/v1/submissions", "/v1/vms?limit=20", "/metrics")
        number = 0
        while time.monotonic() < self.until:
            began = time.monotonic()
            await self._get(paths[number % len(paths)])
            self.noticed.api.append(time.monotonic() - began)
            number += 1
            await asyncio.sleep(0.2)

    async def fleets(self) -> None:
        """Submit a small fleet, wait until it is ready, and so on."""
        while time.monotonic() < self.until - WITHIN:
            began = time.monotonic()
            body = {**BODY, "name": "small", "count": SMALL}
            url = f"{self.stage.daemon.api.url}/v1/submissions"
            async with self.http.post(url, json=body, headers=self._headers()) as answer:
                made = (await answer.json())["submission_id"]
            while (seen := await self._get(f"/v1/submissions/{made}"))["state"] == "open":
                if time.monotonic() > self.until:
                    break
                await asyncio.sleep(0.1)
            took = time.monotonic() - began
            self.noticed.ready.append(took)
            self.noticed.not_ready += seen["state"] != "ready" or took > WITHIN

    async def health(self) -> None:
        while time.monotonic() < self.until:
            for name, text in (await self._get("/readyz"))["issues"].items():
                self.noticed.issues.setdefault(f"{name}: {text[:120]}", round(time.monotonic() - self.began, 1))
            await asyncio.sleep(1)

    async def _get(self, path: str) -> Any:
        async with self.http.get(f"{self.stage.daemon.api.url}{path}", headers=self._headers()) as answer:
            return await answer.json() if path != "/metrics" else await answer.text()

    @staticmethod
    def _headers() -> dict[str, str]:
        return {"Authorization": f"Bearer {TOKEN}"}


async def visit(stage: Stage, first: str, seconds: float, rate: float) -> Noticed:
    provider_id = stage.daemon.vms(submission_id=first)[0]["provider_id"]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:
        visitor = Visitor(stage, http, time.monotonic() + seconds)
        await asyncio.gather(
            visitor.callbacks(first, provider_id, rate), visitor.api(), visitor.fleets(), visitor.health()
        )
    return visitor.noticed


def begin_hanging(stage: Stage, first: str, seconds: float) -> None:
    """Have creates of one fleet under way that answer late, then deletes and lists that do not answer."""
    before = len(stage.simulator.creates())
    late = {"hang": {"probability": 1}, "hang_seconds": seconds * SPEED}
    stage.simulator.query("faults", {"create": late, "list": NEVER, "delete": NEVER})
    stage.daemon.submit(CREATES * 20, name="crowd")
    until(lambda: len(stage.simulator.creates()) - before >= CREATES, "the creates are under way")
    stage.simulator.query("faults", {"list": NEVER, "delete": NEVER})
    stage.daemon.api.cancel_submission(first)


def measured(*, hanging: bool, seconds: float, rate: float) -> dict[str, object]:
    timeouts = {"CREATE_TIMEOUT": str(seconds + 30), "CALL_TIMEOUT": "30"}
    with (
        tempfile.TemporaryDirectory(prefix="rollcall-") as folder,
        embedded_postgres() as server,
        staged(Path(folder), server.url, speed=SPEED, **timeouts) as stage,
    ):
        first = stage.daemon.submit(40, name="first")
        stage.daemon.until_state(first, "ready")
        if hanging:
            begin_hanging(stage, first, seconds)
        return asyncio.run(visit(stage, first, seconds if hanging else min(seconds, 60), rate)).told()


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=180.0, help="until the creates are answered")
    arguments.add_argument("--rate", type=float, default=50.0, help="callbacks a second")
    asked = arguments.parse_args()
    # SIGTERM ends it as Ctrl-C does, so that what was started is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = {
        name: measured(hanging=name == "hanging", seconds=asked.seconds, rate=asked.rate)
        for name in ("quiet", "hanging")
    }
    ground.write("hanging", {**ground.machine(), "seconds": asked.seconds, "rate": asked.rate, **found})
    print(json.dumps(found, indent=1))
    told = found["hanging"]
    named = any("provider" in issue for issue in told["issues_after_seconds"])
    return 0 if named and not told["small_fleets_late"] and not told["callbacks_refused"] else 1


if __name__ == "__main__":
    sys.exit(main())
