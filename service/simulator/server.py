"""The simulated cloud on a socket: the only file with I/O and a clock. It decides nothing.

Simulated seconds pass `speed` times as fast as real ones; at speed 0 time stands still until `Running.pass_seconds`
or POST /_sim/advance moves it.
"""

import asyncio
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from service.simulator import private
from service.simulator.cloud import Cloud
from service.simulator.config import CloudConfig
from service.simulator.exchange import Refusal, Reply, Request, answer
from service.simulator.outbox import Delivery

CALLBACK_TIMEOUT_SECONDS = 10.0
CALLBACKS_AT_ONCE = 64
MAX_BODY_BYTES = 4 * 1024 * 1024


class Running:
    """A cloud that listens. `cloud` may be looked into and changed from the same event loop; `url` ends in /v1."""

    def __init__(self, cloud: Cloud, session: ClientSession, *, speed: float) -> None:
        self.cloud = cloud
        self._session = session
        self.speed = speed
        self.port = 0
        self.host = ""
        self._epoch = asyncio.get_running_loop().time()
        self._skipped = 0.0
        self._changed = asyncio.Event()
        self._posts: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(CALLBACKS_AT_ONCE)
        # Callbacks of one VM are posted one after the other: their order is the cloud's to spoil, not the network's.
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    @property
    def private_url(self) -> str:
        return f"http://{self.host}:{self.port}/_sim"

    def now(self) -> float:
        """Simulated seconds since the start."""
        return (asyncio.get_running_loop().time() - self._epoch) * self.speed + self._skipped

    async def pass_seconds(self, seconds: float) -> None:
        """Let so much simulated time pass at once, and return when every callback of it has been answered.

        The callbacks are posted in the order of their times, those of one time together.
        """
        until = self.now() + seconds
        while (due := self.cloud.next_due()) is not None and due <= until:
            self._skipped += max(due - self.now(), 0.0)
            self._post_due()
            await self.delivered()
        self._skipped += max(until - self.now(), 0.0)
        self._post_due()
        await self.delivered()

    async def delivered(self) -> None:
        """Wait until no callback is on its way."""
        while self._posts:
            await asyncio.wait(self._posts)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        asked = Request(
            method=request.method,
            path=request.raw_path,
            headers=dict(request.headers),
            body=await request.read(),
            source=request.remote or "",
        )
        if asked.route == "/_sim/advance" and asked.method == "POST":
            return _response(await self._advance(asked))
        if asked.route.startswith(private.PREFIX):
            reply = private.handle(self.cloud, asked, self.now())
        else:
            reply = self.cloud.handle(asked, self.now())
        self._changed.set()
        return await self._answer(request, reply)

    async def keep_time(self) -> None:
        """Post the callbacks when they are due, until cancelled."""
        while True:
            self._changed.clear()
            self._post_due()
            # Not wait_for: in Python 3.11 it can swallow a cancellation that comes together with its timeout.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._real_seconds_to_next()):
                    await self._changed.wait()

    async def stop(self) -> None:
        for post in self._posts:
            post.cancel()
        await asyncio.gather(*self._posts, return_exceptions=True)

    async def _advance(self, asked: Request) -> Reply:
        try:
            await self.pass_seconds(float(asked.json()["seconds"]))
        except (Refusal, KeyError, TypeError, ValueError):
            return Refusal(400, 'give {"seconds": a number}').reply()
        return answer({"status": True, "now": self.now()})

    async def _answer(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        if reply.callbacks_first:
            self._post_due()
            await self.delivered()
        if reply.fate == "hang":
            await asyncio.Event().wait()
        if reply.delay and self.speed:
            await asyncio.sleep(reply.delay / self.speed)
        if reply.fate in {"lost", "cut"}:
            # Not a polite close: the caller is to see what a broken connection looks like.
            if request.transport is not None:
                request.transport.abort()
            await asyncio.Event().wait()
        return _response(reply)

    def _post_due(self) -> None:
        for delivery in self.cloud.advance(self.now()):
            task = asyncio.create_task(self._post(delivery))
            self._posts.add(task)
            task.add_done_callback(self._posts.discard)

    async def _post(self, delivery: Delivery) -> None:
        async with self._turns[delivery.vm_id], self._at_once:
            status = await self._send(delivery)
        self.cloud.delivered(delivery.delivery_id, status, self.now())

    async def _send(self, delivery: Delivery) -> int | None:
        try:
            async with self._session.post(
                delivery.url, data=delivery.body, headers=delivery.headers, allow_redirects=False
            ) as response:
                await response.read()
                return response.status
        except (ClientError, OSError, TimeoutError, ValueError):
            return None

    def _real_seconds_to_next(self) -> float | None:
        due = self.cloud.next_due()
        if due is None or not self.speed:
            return None
        return max((due - self.now()) / self.speed, 0.0)


@asynccontextmanager
async def running(
    config: CloudConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    speed: float = 1.0,
    start: datetime | None = None,
) -> AsyncIterator[Running]:
    """A cloud that listens for as long as the block lasts. Port 0 takes a free one: see `Running.url`.

    `start` is the date of simulated second 0, by default today's. The rate limit's window is stretched by the speed,
    so that it is made of real seconds, as its caller's budget is. Raises OSError where the port cannot be had.
    """
    stretched = replace(config, rate_window=config.rate_window * (speed or 1.0))
    cloud = Cloud(stretched, start=start or datetime.now(UTC))
    async with ClientSession(timeout=ClientTimeout(total=CALLBACK_TIMEOUT_SECONDS)) as session:
        simulator = Running(cloud, session, speed=speed)
        runner = _runner(simulator)
        async with _keeping_time(simulator):
            await runner.setup()
            try:
                await web.TCPSite(runner, host, port).start()
                simulator.host, simulator.port = host, runner.addresses[0][1]
                yield simulator
            finally:
                await runner.cleanup()


def _runner(simulator: Running) -> web.AppRunner:
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_route("*", "/{path:.*}", simulator.serve)
    # Handlers are cancelled with their connection, or hanging answers would outlive their callers.
    return web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)


@asynccontextmanager
async def _keeping_time(simulator: Running) -> AsyncIterator[None]:
    clock = asyncio.create_task(simulator.keep_time())
    try:
        yield
    finally:
        clock.cancel()
        await simulator.stop()
        # A clock that broke is a bug of ours, and is not kept quiet about.
        with suppress(asyncio.CancelledError):
            await clock


async def serve(
    config: CloudConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    speed: float = 1.0,
    start: datetime | None = None,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Serve until cancelled. `on_ready` is called with the port once connections are accepted."""
    async with running(config, host=host, port=port, speed=speed, start=start) as simulator:
        if on_ready is not None:
            on_ready(simulator.port)
        await asyncio.Event().wait()


def run(
    config: CloudConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    speed: float = 1.0,
    start: datetime | None = None,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """As `serve`, in an event loop of its own, until SIGINT or SIGTERM. Prints nothing."""

    async def until_told() -> None:
        serving = asyncio.ensure_future(
            serve(config, host=host, port=port, speed=speed, start=start, on_ready=on_ready)
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        with suppress(asyncio.CancelledError):
            await serving

    asyncio.run(until_told())


def _response(reply: Reply) -> web.Response:
    return web.Response(status=reply.status, body=reply.body, headers=dict(reply.headers))
