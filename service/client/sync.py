"""The client for programs without an event loop, and for our own commands.

Example:
    client = Rollcall("http://127.0.0.1:8081", token)
    fleet = client.wait(client.submit({"name": "train", "count": 8, ...}))
    for vm in client.vms(submission_id=fleet["submission_id"]):
        print(vm["ref"], vm["floating_ip"])
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, cast
from uuid import uuid4

from service.client import exchange
from service.client.errors import ApiError, ErrorKind
from service.client.exchange import Paging, Retries, SubmissionWait
from service.client.http import ApiClient
from service.client.operation import Items, Prepared, SyncCaller
from service.client.operations import Id, Operations
from service.client.requests import SubmissionRequestJson
from service.client.results import DryRunJson, SubmissionJson


class Rollcall(Operations, ApiClient, SyncCaller):
    """The API at `url`, called with `token`.

    Each operation of the API is a method, whose result is the JSON of the response, typed. A list is an iterator that reads page
    by page. Raises `ApiError` from every request that fails. What is safe to send again is tried again (`Retries`).
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        token_source: str = "",
        timeout: float | None = None,
        retries: Retries = exchange.DEFAULT_RETRIES,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(url, token, token_source=token_source, timeout=timeout)
        self._retries, self._pause, self._clock = retries, pause, clock

    def submit(self, body: SubmissionRequestJson, *, idempotency_key: str | None = None) -> SubmissionJson:
        """Ask for VMs. Without a key one is made, so that a lost answer never makes a second submission."""
        return cast("SubmissionJson", self.create_submission(body, idempotency_key=idempotency_key or str(uuid4())))

    def preview(self, body: SubmissionRequestJson) -> DryRunJson:
        """What `submit` would do. Nothing is stored or created."""
        return cast("DryRunJson", self.create_submission(body, idempotency_key=str(uuid4()), dry_run=True))

    def wait(
        self,
        submission: Id | SubmissionJson,
        *,
        timeout: float | None = None,
        interval: float = 2.0,
        on_look: Callable[[SubmissionJson | ApiError], None] | None = None,
    ) -> SubmissionJson:
        """The submission once all its VMs are ready. Goes on while the daemon is away; times are in seconds.

        `on_look` is called with what each look found, such as for a progress bar. Raises `NotReady` if it ends otherwise and
        `WaitTimeout` if it takes longer.
        """
        waiting = SubmissionWait(self._clock, timeout, on_look)
        seen = submission if isinstance(submission, dict) else self._look(submission)
        while not waiting.is_over(seen):
            self._pause(interval)
            seen = self._look(submission["submission_id"] if isinstance(submission, dict) else submission)
        return cast("SubmissionJson", seen)

    def _look(self, submission: Id) -> SubmissionJson | ApiError:
        try:
            return self.submission(submission)
        except ApiError as error:
            return error

    def call(self, request: Prepared) -> Any:
        return exchange.result(request, self.response(request), self._api)

    def response(self, request: Prepared) -> exchange.RawResponse:
        """The response to a prepared request, whose status is one of success. Raises `ApiError` for any other."""
        for tries in count(1):
            try:
                response = self.send(request.method, request.target, request.body, request.headers)
                exchange.result(request, response, self._api)
            except ApiError as error:
                pause = self._retries.pause(request, error, tries)
                if pause is None:
                    raise
                self._pause(pause)
            else:
                return response
        raise AssertionError

    def items(self, request: Prepared, limit: int | None) -> Items[Any, Any]:
        return _Items(self, Paging(request, limit, self._api))

    def lines(self, request: Prepared) -> Iterator[list[bytes]]:
        """The lines of a stream, with their ends, in pieces as they come.

        Raises `ApiError` if there is none, and in the midst of it if it breaks off; what came before is whole lines.
        """
        rest = b""
        for piece in self._pieces(request):
            found, rest = exchange.whole_lines(rest, piece)
            if found:
                yield found
        if rest:
            raise ApiError(ErrorKind.UNREACHABLE, f"the stream from {self.url} broke off within a line")


class _Items(Items[Any, Any]):
    def __init__(self, client: Rollcall, paging: Paging) -> None:
        self._client, self._paging = client, paging
        self._read: deque[Any] = deque()

    @property
    def head(self) -> Any:
        if self._paging.head is None:
            self._read_page()
        return self._paging.head

    def __next__(self) -> Any:
        while not self._read:
            if not self._read_page():
                raise StopIteration
        return self._read.popleft()

    def _read_page(self) -> bool:
        request = self._paging.next_request()
        if request is not None:
            self._read.extend(self._paging.items_of(self._client.call(request)))
        return request is not None
