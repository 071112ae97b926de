"""Serves the simulated cloud over HTTP. This is the only file that uses sockets and the clock.

Simulated time runs `speed` times as fast as real time. At speed 0 it stands still until `Running.advance` or POST
/_sim/advance moves it.
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
from service.simulator.callback_sender import CallbackDelivery
from service.simulator.cloud import Cloud
from service.simulator.config import CloudConfig
from service.simulator.http import ApiError, HttpReply, HttpRequest, json_reply

CALLBACK_TIMEOUT_SECONDS = 10.0
CALLBACKS_AT_ONCE = 64
# Simulated times are sums of floats.
CLOCK_TOLERANCE_SECONDS = 1e-6
MAX_BODY_BYTES = 4 * 1024 * 1024


class Running:
    """A running simulator. Use `cloud` only from the same event loop; `url` ends in /v1."""

    def __init__(self, cloud: Cloud, session: ClientSession, *, speed: float) -> None:
        self.cloud = cloud
        self._session = session
        self.speed = speed
        self.port = 0
        self.host = ""
        self._epoch = asyncio.get_running_loop().time()
        self._skipped = 0.0
        self._changed = asyncio.Event()
        self._advanced = asyncio.Event()
        self._posts: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(CALLBACKS_AT_ONCE)
        # Callbacks of one VM are posted one at a time: only faults may change their order, not the network.
        self._vm_locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    @property
    def private_url(self) -> str:
        return f"http://{self.host}:{self.port}/_sim"

    def now(self) -> float:
        """Simulated seconds since the start."""
        return (asyncio.get_running_loop().time() - self._epoch) * self.speed + self._skipped

    async def advance(self, seconds: float) -> None:
        """Skip simulated time, and return once every callback that became due is answered.

        Callbacks are posted in order of time; those of the same time are posted together.
        """
        until = self.now() + seconds
        while (due := self.cloud.next_due()) is not None and due <= until:
            self._skipped += max(due - self.now(), 0.0)
            self._post_due()
            await self.wait_for_callbacks()
        self._skipped += max(until - self.now(), 0.0)
        self._advanced.set()
        self._advanced = asyncio.Event()
        self._post_due()
        await self.wait_for_callbacks()

    async def wait_for_callbacks(self) -> None:
        """Wait until no callback is being posted."""
        while self._posts:
            await asyncio.wait(self._posts)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        received_at = self.now()
        received = HttpRequest(
            method=request.method,
            path=request.raw_path,
            headers=dict(request.headers),
            body=await request.read(),
            source=request.remote or "",
        )
        if received.route == "/_sim/advance" and received.method == "POST":
            return _response(await self._advance(received))
        if received.route.startswith(private.PREFIX):
            reply = private.handle(self.cloud, received, self.now())
        else:
            reply = self.cloud.handle(received, self.now())
        self._changed.set()
        return await self._answer(request, reply, received_at)

    async def run_clock(self) -> None:
        """Post callbacks when they are due, until cancelled."""
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

    async def _advance(self, received: HttpRequest) -> HttpReply:
        try:
            await self.advance(float(received.json()["seconds"]))
        except (ApiError, KeyError, TypeError, ValueError):
            return ApiError(400, 'give {"seconds": a number}').reply()
        return json_reply({"status": True, "now": self.now()})

    async def _sleep_until(self, at: float) -> None:
        """Wait until simulated time reaches `at`, by itself or by `advance`."""
        while (left := at - self.now()) > CLOCK_TOLERANCE_SECONDS:
            with suppress(TimeoutError):
                async with asyncio.timeout(left / self.speed if self.speed else None):
                    await self._advanced.wait()

    async def _answer(self, request: web.Request, reply: HttpReply, received_at: float) -> web.StreamResponse:
        if reply.callbacks_first:
            self._post_due()
            await self.wait_for_callbacks()
        if reply.fate == "hang":
            await asyncio.Event().wait()
        await self._sleep_until(received_at + reply.delay)
        if reply.fate in {"lost", "cut"}:
            # Abort instead of closing, so that the caller sees a broken connection.
            if request.transport is not None:
                request.transport.abort()
            await asyncio.Event().wait()
        return _response(reply)

    def _post_due(self) -> None:
        for delivery in self.cloud.advance(self.now()):
            task = asyncio.create_task(self._post(delivery))
            self._posts.add(task)
            task.add_done_callback(self._posts.discard)

    async def _post(self, delivery: CallbackDelivery) -> None:
        async with self._vm_locks[delivery.vm_id], self._slots:
            status = await self._send(delivery)
        self.cloud.record_answer(delivery.delivery_id, status, self.now())

    async def _send(self, delivery: CallbackDelivery) -> int | None:
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
    """Run a simulator for the duration of the block. Port 0 picks a free port: see `Running.url`.

    `start` is the date of simulated second 0, by default now. The rate limit's window is multiplied by the speed, so
    that it lasts the configured number of real seconds. Raises OSError if the port is not available.
    """
    scaled = replace(config, rate_window=config.rate_window * (speed or 1.0))
    cloud = Cloud(scaled, start=start or datetime.now(UTC))
    async with ClientSession(timeout=ClientTimeout(total=CALLBACK_TIMEOUT_SECONDS)) as session:
        simulator = Running(cloud, session, speed=speed)
        runner = _runner(simulator)
        async with _running_clock(simulator):
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
    # Cancel handlers with their connection, or hanging answers would outlive their callers.
    return web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)


@asynccontextmanager
async def _running_clock(simulator: Running) -> AsyncIterator[None]:
    clock = asyncio.create_task(simulator.run_clock())
    try:
        yield
    finally:
        clock.cancel()
        await simulator.stop()
        # Any other exception of the clock is a bug in the simulator: let it propagate.
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
    """Serve until cancelled. Calls `on_ready` with the port once connections are accepted."""
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
    """As `serve`, in a new event loop, until SIGINT or SIGTERM. Prints nothing."""

    async def until_signal() -> None:
        server = asyncio.ensure_future(serve(config, host=host, port=port, speed=speed, start=start, on_ready=on_ready))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, server.cancel)
        with suppress(asyncio.CancelledError):
            await server

    asyncio.run(until_signal())


def _response(reply: HttpReply) -> web.Response:
    return web.Response(status=reply.status, body=reply.body, headers=dict(reply.headers))
