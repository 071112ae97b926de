"""An API client for tests: its requests are answered by the test, and recorded."""

from collections.abc import Callable, Mapping
from typing import Any

from service.client.exchange import NO_RETRIES, RawResponse
from service.client.sync import Rollcall

PROBLEM = "application/problem+json"


def problem(status: int, **members: Any) -> RawResponse:
    return RawResponse(status, PROBLEM, {"type": "/problems/x", "title": "No", "status": status, **members})


class FakeApi(Rollcall):
    """A client whose requests are answered by the test, and recorded."""

    def __init__(self, answer: Callable[[str, str], RawResponse], token: str | None = "a-token-of-tests", **more: Any):
        super().__init__("http://127.0.0.1:8081", token, **{"retries": NO_RETRIES, **more})
        self.requests: list[str] = []
        self._answer = answer

    def send(
        self, method: str, target: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> RawResponse:
        self.requests.append(f"{method} {target}")
        return self._answer(method, target)


def ok(value: Any) -> RawResponse:
    return RawResponse(200, "application/json", value)
