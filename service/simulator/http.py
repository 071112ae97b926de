"""HTTP requests and replies as plain values, and the provider's error bodies."""

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
class HttpRequest:
    """`path` begins with / and includes the query string."""

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
        """The header, whatever its case; `name` is lower case."""
        return next((value for key, value in self.headers.items() if key.lower() == name), None)

    def json(self) -> Any:
        """Raises `ApiError` (400) if the body is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, "The request body is not valid JSON.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReply:
    """A reply and how it is delivered.

    `delay` is in simulated seconds. `fate`: "lost" closes the connection after the work, "cut" closes it without doing
    the work, "hang" never answers. With `callbacks_first` the server delivers due callbacks before it replies.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    fate: Fate = "normal"
    callbacks_first: bool = False

    def json(self) -> Any:
        return json.loads(self.body)


class ApiError(Exception):
    """An error in the provider's form. `reason` defaults to the one that belongs to the status."""

    def __init__(self, status: int, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason if reason is not None else REASONS.get(status)

    def reply(self, *, with_reason: bool = True) -> HttpReply:
        content = {"status": False, "message": self.message}
        if self.reason is not None and with_reason:
            content["error_reason"] = self.reason
        return json_reply(content, status=self.status)


JSON_HEADERS = {"Content-Type": "application/json"}


def json_reply(content: Any, *, status: int = 200) -> HttpReply:
    return HttpReply(status=status, body=json.dumps(content).encode(), headers=JSON_HEADERS)


def success(message: str, **more: Any) -> HttpReply:
    """The provider's usual success reply."""
    return json_reply({"status": True, "message": message, **more})
