"""Load: a closed loop with wrk where there is one, else with a generator of ours; an open loop always with ours.

    python bench/load.py closed|open CONNECTIONS SECONDS RATE PORT < SAID     prints one line of JSON

Closed: every connection asks again as soon as it is answered, so a slow server is asked less. Open: requests are due
at fixed times whatever becomes of the earlier ones, and the latency counts from when a request was due.
"""

import asyncio
import json
import math
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import uvloop
from servers import tokens

TOKENS = 64
LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
#: Seconds that a closed loop waits at its end for the last answers.
PATIENCE = 10.0

# Latencies are in microseconds; what is no 2xx is counted by wrk as an error of status.
WRK = """
local said, requests, at = {{ {said} }}, {{}}, 0
function init()
  for number = 1, #said, 2 do
    requests[#requests + 1] = wrk.format("POST", "/callbacks/" .. said[number],
      {{["Content-Type"] = "application/json", ["User-Agent"] = "bench"}}, said[number + 1])
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


#: What is sent, again and again in this order: a token and a body each.
Said = Sequence[tuple[str, str]]


def said(size: int) -> Said:
    """A body of so many bytes, to each of so many submissions in turn."""
    return [(token, a_body(size)) for token in tokens(TOKENS)]


def a_body(size: int) -> str:
    """A callback of so many bytes, of which the most part does not compress."""
    head = '{"resource": {"id": "507279"}, "operation": {"name": "createInstance", "status": "BUILD"}, "data": {"x": "'
    return head + "".join(random.Random(size).choices("0123456789abcdef", k=size - len(head) - 3)) + '"}}'


def closed(connections: int, seconds: float, port: int, what: Said) -> dict[str, float]:
    """A closed loop for so many seconds, from a process of its own."""
    if shutil.which("wrk") is None:
        return _own("closed", connections, seconds, 0, port, what)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        # A string of JSON is one of Lua as well, as long as nothing in it needs an escape that only JSON has.
        script.write(WRK.format(said=", ".join(json.dumps(text) for one in what for text in one)))
        script.flush()
        how = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", script.name]
        told = _told(["wrk", *how, f"http://127.0.0.1:{port}"], seconds)
    return {"generator": "wrk", **json.loads(told.splitlines()[-1])}


def at_rate(rate: float, connections: int, seconds: float, port: int, what: Said) -> dict[str, float]:
    """An open loop at so many requests a second."""
    return _own("open", connections, seconds, rate, port, what)


def _own(how: str, connections: int, seconds: float, rate: float, port: int, what: Said) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__)), *map(str, (how, connections, seconds, rate, port))]
    return {"generator": "bench/load.py", **json.loads(_told(command, seconds, json.dumps(what)))}


def _told(command: list[str], seconds: float, asked: str | None = None) -> str:
    patience = seconds * 2 + 90
    return subprocess.run(command, input=asked, capture_output=True, text=True, check=True, timeout=patience).stdout


class Generator:
    """Sends the requests of one measurement over connections that are kept, and takes the time of each."""

    def __init__(self, connections: int, what: Said) -> None:
        self._connections = connections
        self._requests = cycle(
            b"POST /callbacks/%s HTTP/1.1\r\nHost: x\r\nUser-Agent: bench\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (token.encode(), len(body.encode()), body.encode())
            for token, body in what
        )
        self._loop = asyncio.get_running_loop()
        self._latencies: list[float] = []
        self._failed = 0
        self._late: deque[float] = deque()  # requests that were due and found every connection busy
        self._idle: list[Sender] = []
        self._busy: set[Sender] = set()
        self._all_idle = asyncio.Event()
        self._until = math.inf  # a closed loop asks again until then; an open one does not
        self.now = time.perf_counter  # uvloop's own time goes by milliseconds

    async def connect(self, port: int) -> None:
        for _ in range(self._connections):
            _, sender = await self._loop.create_connection(lambda: Sender(self), "127.0.0.1", port)
            self._idle.append(sender)

    async def closed(self, seconds: float) -> None:
        self._until = self.now() + seconds
        while self._idle:
            self._send(self._idle.pop(), self.now())
        await self._finish(seconds + PATIENCE)

    async def at_rate(self, rate: float, seconds: float) -> None:
        due = self.now()
        end = due + seconds
        self._until = 0.0
        while due < end:
            while due <= self.now():
                if self._idle:
                    self._send(self._idle.pop(), due)
                else:
                    self._late.append(due)
                due += 1 / rate
            await asyncio.sleep(
                max(0.001, due - self.now())
            )  # less than a millisecond is none to uvloop: it would spin
        await self._finish(max(seconds, 2.0))

    def answered(self, sender: "Sender", good: bool) -> None:
        if sender not in self._busy:
            return  # we have given it up
        self._busy.discard(sender)
        now = self.now()
        self._latencies.append(now - sender.due)
        self._failed += not good
        if self._late:
            self._send(sender, self._late.popleft())
        elif now < self._until:
            self._send(sender, now)
        else:
            self._idle.append(sender)
            self._settled()

    def lost(self, sender: "Sender") -> None:
        """A connection has ended: what was asked on it has failed, and there is one fewer."""
        if sender in self._busy:
            self._give_up(sender.due)
            self._busy.discard(sender)
        elif sender in self._idle:
            self._idle.remove(sender)
        self._settled()

    def forget(self) -> None:
        """Begin to count anew."""
        self._latencies.clear()
        self._failed = 0

    def told(self, seconds: float) -> dict[str, float]:
        latencies = sorted(self._latencies)
        return {
            "answered": len(latencies) - self._failed,
            "failed": self._failed,
            "seconds": seconds,
            "p50_ms": latencies[len(latencies) // 2] * 1e3,
            "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        }

    def request(self) -> bytes:
        """What is sent next."""
        return next(self._requests)

    async def _finish(self, within: float) -> None:
        """Wait for what is still to be answered, but not for ever: a server that cannot keep up has told us so.

        What is given up has failed, and counts with the time that it has waited so far; it would only be longer.
        """
        self._all_idle.clear()
        self._settled()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_idle.wait(), within)
        for due in (*self._late, *(sender.due for sender in self._busy)):
            self._give_up(due)
        self._late.clear()
        self._busy.clear()

    def _settled(self) -> None:
        if not self._busy:
            self._all_idle.set()

    def _give_up(self, due: float) -> None:
        self._latencies.append(self.now() - due)
        self._failed += 1

    def _send(self, sender: "Sender", due: float) -> None:
        self._busy.add(sender)
        sender.send(self.request(), due)


class Sender(asyncio.Protocol):
    """One connection, on which one request at a time is under way."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._transport: asyncio.Transport | None = None
        self._heard = b""
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self._generator.lost(self)

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        head, end, body = self._heard.partition(b"\r\n\r\n")
        if end and len(body) >= int(LENGTH.search(head)[1]):  # some servers send the two apart
            self._heard = b""
            self._generator.answered(self, head.startswith(b"HTTP/1.1 200"))


async def generate(kind: str, connections: int, seconds: float, rate: float, port: int, what: Said) -> dict[str, float]:
    generator = Generator(connections, what)
    await generator.connect(port)
    begun = generator.now()
    await (generator.closed(seconds) if kind == "closed" else generator.at_rate(rate, seconds))
    return generator.told(generator.now() - begun)


if __name__ == "__main__":
    how_, connections_, seconds_, rate_, port_ = sys.argv[1:]
    what_ = json.load(sys.stdin)
    print(json.dumps(uvloop.run(generate(how_, int(connections_), float(seconds_), float(rate_), int(port_), what_))))
