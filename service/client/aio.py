"""The client for programs with an event loop. Its methods are those of `Rollcall`, to await.

Example:
    async with AsyncRollcall("http://127.0.0.1:8081", token) as client:
        fleet = await client.wait(await client.submit({"name": "train", "count": 8, ...}))
        async for vm in client.vms(submission_id=fleet["submission_id"]):
            print(vm["ref"], vm["floating_ip"])
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any, Self, cast
from uuid import uuid4

from aiohttp import ClientError, ClientSession, ClientTimeout
from yarl import URL

from service.client import exchange
from service.client.errors import ApiError, ErrorKind
from service.client.exchange import Api, Paging, RawResponse, Retries, SubmissionWait
from service.client.operation import AsyncCaller, AsyncItems, Prepared
from service.client.operations import Id, Operations
from service.client.requests import SubmissionRequestJson
from service.client.results import DryRunJson, SubmissionJson


class AsyncRollcall(Operations, AsyncCaller):
    """The API at `url`, called with `token`; a context manager. See `Rollcall`."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float | None = None,
        retries: Retries = exchange.DEFAULT_RETRIES,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url.rstrip("/")
        exchange.parse_url(self.url)
        self._token, self._timeout = token, timeout
        self._retries, self._pause, self._clock = retries, pause, clock
        self._api = Api(self.url, token is not None, "")
        if token is not None:
            exchange.check_header("the API token", token)

    async def __aenter__(self) -> Self:
        self._session = ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def submit(self, body: SubmissionRequestJson, *, idempotency_key: str | None = None) -> SubmissionJson:
        """Ask for VMs. Without a key one is made, so that a lost answer never makes a second submission."""
        key = idempotency_key or str(uuid4())
        return cast("SubmissionJson", await self.create_submission(body, idempotency_key=key))

    async def preview(self, body: SubmissionRequestJson) -> DryRunJson:
        """What `submit` would do. Nothing is stored or created."""
        return cast("DryRunJson", await self.create_submission(body, idempotency_key=str(uuid4()), dry_run=True))

    async def wait(
        self,
        submission: Id | SubmissionJson,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  the same as Rollcall's; asyncio.timeout works too
        interval: float = 2.0,
        on_look: Callable[[SubmissionJson | ApiError], None] | None = None,
    ) -> SubmissionJson:
        """The submission once all its VMs are ready; see `Rollcall.wait`."""
        waiting = SubmissionWait(self._clock, timeout, on_look)
        seen = submission if isinstance(submission, dict) else await self._look(submission)
        while not waiting.is_over(seen):
            await self._pause(interval)
            seen = await self._look(submission["submission_id"] if isinstance(submission, dict) else submission)
        return cast("SubmissionJson", seen)

    async def _look(self, submission: Id) -> SubmissionJson | ApiError:
        try:
            return await self.submission(submission)
        except ApiError as error:
            return error

    async def call(self, request: Prepared) -> Any:
        for tries in count(1):
            try:
                return exchange.result(request, await self._send(request), self._api)
            except ApiError as error:
                pause = self._retries.pause(request, error, tries)
                if pause is None:
                    raise
                await self._pause(pause)
        raise AssertionError

    def items(self, request: Prepared, limit: int | None) -> AsyncItems[Any, Any]:
        return _AsyncItems(self, Paging(request, limit, self._api))

    async def lines(self, request: Prepared) -> AsyncIterator[list[bytes]]:
        """The lines of a stream; see `Rollcall.lines`."""
        rest = b""
        try:
            async with self._session.get(self._target(request), **self._options(request, None)) as answer:
                if answer.status != 200:
                    raw = await answer.read()
                    raise exchange.error_of(
                        exchange.raw_response(answer.status, answer.content_type, raw, None), self._api
                    )
                async for piece in answer.content.iter_chunked(exchange.PIECE):
                    found, rest = exchange.whole_lines(rest, piece)
                    if found:
                        yield found
        except (OSError, ClientError, TimeoutError) as error:
            raise exchange.no_answer(f"the stream from {self.url} broke off", error) from error
        if rest:
            raise ApiError(ErrorKind.UNREACHABLE, f"the stream from {self.url} broke off within a line")

    async def _send(self, request: Prepared) -> RawResponse:
        usual = exchange.READ_TIMEOUT if request.method == "GET" else exchange.WRITE_TIMEOUT
        options = self._options(request, self._timeout or usual)
        payload = exchange.payload_of(request)
        try:
            async with self._session.request(request.method, self._target(request), data=payload, **options) as answer:
                raw, after = await answer.read(), answer.headers.get("Retry-After")
                return exchange.raw_response(answer.status, answer.content_type, raw, after)
        except (OSError, ClientError, TimeoutError) as error:
            raise exchange.no_answer(f"no daemon answers at {self.url}", error) from error

    def _target(self, request: Prepared) -> URL:
        return URL(self.url + request.target, encoded=True)

    def _options(self, request: Prepared, seconds: float | None) -> dict[str, Any]:
        wait = ClientTimeout(total=seconds, sock_read=seconds or exchange.WRITE_TIMEOUT)
        return {
            "headers": exchange.headers_of(request, self._token),
            "timeout": wait,
            "allow_redirects": False,
        }


class _AsyncItems(AsyncItems[Any, Any]):
    def __init__(self, client: AsyncRollcall, paging: Paging) -> None:
        self._client, self._paging = client, paging
        self._read: deque[Any] = deque()

    async def head(self) -> Any:
        if self._paging.head is None:
            await self._read_page()
        return self._paging.head

    async def __anext__(self) -> Any:
        while not self._read:
            if not await self._read_page():
                raise StopAsyncIteration
        return self._read.popleft()

    async def _read_page(self) -> bool:
        request = self._paging.next_request()
        if request is not None:
            self._read.extend(self._paging.items_of(await self._client.call(request)))
        return request is not None
