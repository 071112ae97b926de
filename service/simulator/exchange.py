"""One call and its answer as plain values, and the provider's error bodies. No socket is touched here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

Fate = Literal["normal", "lost", "cut", "hang"]

# infrahub-api.md section 3.6
REASONS = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "not_allowed",
    409: "already_exist",
    500: "server_error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A call as it came: `path` begins with / and has the query string, headers are looked up without case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    source: str = "127.0.0.1"

    @property
    def route(self) -> str:
        return unquote(urlsplit(self.path).path)

    @property
    def query(self) -> dict[str, str]:
        """The last value of each parameter."""
        return dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers.items() if key.lower() == name), None)

    def json(self) -> Any:
        """Raises `Refusal` (400) when the body is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "The request body is not valid JSON.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer and what becomes of it.

    `delay` is in seconds of simulated time. `fate`: "lost" is work done and no answer, "cut" neither work nor answer
    (the connection is broken off in both), "hang" an answer that never comes, work done or not. `callbacks_first`
    asks the server to deliver the callbacks that are due before it sends the answer.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    fate: Fate = "normal"
    callbacks_first: bool = False

    def json(self) -> Any:
        return json.loads(self.body)


class Refusal(Exception):  # noqa: N818 - the provider says no; it is an answer, not a fault of ours
    """A handler says no in the provider's shape. Without a reason the status gives it."""

    def __init__(self, status: int, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason if reason is not None else REASONS.get(status)

    def reply(self, *, with_reason: bool = True) -> Reply:
        content = {"status": False, "message": self.message}
        if self.reason is not None and with_reason:
            content["error_reason"] = self.reason
        return answer(content, status=self.status)


JSON_HEADERS = {"Content-Type": "application/json"}


def answer(content: Any, *, status: int = 200) -> Reply:
    return Reply(status=status, body=json.dumps(content).encode(), headers=JSON_HEADERS)


def done(message: str, **more: Any) -> Reply:
    """The provider's usual answer to what worked."""
    return answer({"status": True, "message": message, **more})
