"""Load: a closed loop with wrk where there is one, else with a generator of ours; an open loop always with ours.

    python bench/load.py closed|open CONNECTIONS SECONDS RATE PORT BODY_BYTES     prints one line of JSON

Closed: every connection asks again as soon as it is answered, so a slow server is asked less. Open: requests are due
at fixed times whatever becomes of the earlier ones, and the latency counts from when a request was due.
"""

import asyncio
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from itertools import cycle
from pathlib import Path

import uvloop
from servers import tokens

TOKENS = 64

# Latencies are in microseconds; what is no 2xx is counted by wrk as an error of status.
WRK = """
local requests, at = {{}}, 0
function init()
  for token in string.gmatch("{tokens}", "%x+") do
    requests[#requests + 1] = wrk.format("POST", "/callbacks/" .. token,
      {{["Content-Type"] = "application/json", ["User-Agent"] = "bench"}}, "{body}")
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('{{"answered": %d, "failed": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f}}\\n',
    summary.requests - e.status, e.status + e.connect + e.read + e.write + e.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


def a_body(size: int) -> str:
    """A callback of so many bytes, of which the most part does not compress."""
    head = '{"resource": {"id": "507279"}, "operation": {"name": "createInstance", "status": "BUILD"}, "data": {"x": "'
    return head + "".join(random.Random(size).choices("0123456789abcdef", k=size - len(head) - 3)) + '"}}'


def closed(connections: int, seconds: float, port: int, size: int) -> dict[str, float]:
    """A closed loop for so many seconds, from a process of its own."""
    if shutil.which("wrk") is None:
        return _own("closed", connections, seconds, 0, port, size)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WRK.format(tokens=" ".join(tokens(TOKENS)), body=a_body(size).replace('"', '\\"')))
        script.flush()
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{int(seconds)}s",
            "-s",
            script.name,
            f"http://127.0.0.1:{port}",
        ]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {"generator": "wrk", **json.loads(told.splitlines()[-1])}


def at_rate(rate: float, connections: int, seconds: float, port: int, size: int) -> dict[str, float]:
    """An open loop at so many requests a second."""
    return _own("open", connections, seconds, rate, port, size)


def _own(*arguments: object) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__)), *map(str, arguments)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {"generator": "bench/load.py", **json.loads(told)}


class Generator:
    """Sends the requests of one measurement over connections that are kept, and takes the time of each."""

    def __init__(self, connections: int, size: int) -> None:
        self._connections = connections
        self._requests = cycle(
            b"POST /callbacks/%s HTTP/1.1\r\nHost: x\r\nUser-Agent: bench\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (token.encode(), size, a_body(size).encode())
            for token in tokens(TOKENS)
        )
        self._loop = asyncio.get_running_loop()
        self._latencies: list[float] = []
        self._failed = 0
        self._late: deque[float] = deque()  # requests that were due and found every connection busy
        self.idle: list[Sender] = []
        self._all_idle = asyncio.Event()
        self._until = math.inf  # a closed loop asks again until then; an open one does not
        self.now = time.perf_counter  # uvloop's own time goes by milliseconds

    async def connect(self, port: int) -> None:
        for _ in range(self._connections):
            _, sender = await self._loop.create_connection(lambda: Sender(self), "127.0.0.1", port)
            self.idle.append(sender)

    async def closed(self, seconds: float) -> None:
        self._until = self.now() + seconds
        while self.idle:
            self._send(self.idle.pop(), self.now())
        await self._all_idle.wait()

    async def at_rate(self, rate: float, seconds: float) -> None:
        due = self.now()
        end = due + seconds
        self._until = 0.0
        while due < end:
            while due <= self.now():
                if self.idle:
                    self._send(self.idle.pop(), due)
                else:
                    self._late.append(due)
                due += 1 / rate
            await asyncio.sleep(max(0.0005, due - self.now()))
        self._all_idle.clear()
        if len(self.idle) < self._connections:
            await self._all_idle.wait()

    def answered(self, sender: "Sender", good: bool) -> None:
        now = self.now()
        self._latencies.append(now - sender.due)
        self._failed += not good
        if self._late:
            self._send(sender, self._late.popleft())
        elif now < self._until:
            self._send(sender, now)
        else:
            self.idle.append(sender)
            if len(self.idle) == self._connections:
                self._all_idle.set()

    def told(self, seconds: float) -> dict[str, float]:
        latencies = sorted(self._latencies)
        return {
            "answered": len(latencies) - self._failed,
            "failed": self._failed,
            "seconds": seconds,
            "p50_ms": latencies[len(latencies) // 2] * 1e3,
            "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        }

    def _send(self, sender: "Sender", due: float) -> None:
        sender.send(next(self._requests), due)


class Sender(asyncio.Protocol):
    """One connection. Answers are told apart by their status line alone: each is small and comes in one piece."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._transport: asyncio.Transport | None = None
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._generator.answered(self, data.startswith(b"HTTP/1.1 200"))


async def generate(kind: str, connections: int, seconds: float, rate: float, port: int, size: int) -> dict[str, float]:
    generator = Generator(connections, size)
    await generator.connect(port)
    begun = generator.now()
    await (generator.closed(seconds) if kind == "closed" else generator.at_rate(rate, seconds))
    return generator.told(generator.now() - begun)


if __name__ == "__main__":
    how, many, long, fast, where, large = sys.argv[1:]
    print(json.dumps(uvloop.run(generate(how, int(many), float(long), float(fast), int(where), int(large)))))
