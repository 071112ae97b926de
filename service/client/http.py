"""A running daemon as the commands see it: its HTTP API, with every failure turned into an exit code and a sentence.

Only the standard library, so that commands answer at once.
"""

import json
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from service.cli.exits import CliError, Exit

#: Seconds. Keeping or withdrawing 100,000 VMs takes a while.
_PATIENCE: Final = 30.0
_PATIENCE_TO_CHANGE: Final = 300.0
_CODES: Final = {401: Exit.REFUSED, 404: Exit.NOT_FOUND, 409: Exit.REFUSED, 413: Exit.REFUSED, 422: Exit.REFUSED}


class ApiClient:
    """The API at `url`, asked with `token`."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url.rstrip("/")
        self._parts = _parts(self.url)
        self._token = token

    def get(self, *path: object, **query: object) -> Any:
        """The JSON of a thing. Query values that are None are left out."""
        return self.ask("GET", *path, query=query)

    def items(self, *path: object, limit: int | None, **query: object) -> Iterator[Any]:
        """The items of a list, page by page; at most `limit` of them, or all."""
        left, cursor = limit, None
        while left is None or left > 0:
            page = self.get(*path, cursor=cursor, limit=min(left or 1000, 1000), **query)
            yield from page["items"]
            cursor = page["next"]
            left = None if left is None else left - len(page["items"])
            if cursor is None:
                return

    def ask(
        self,
        method: str,
        *path: object,
        query: Mapping[str, object] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """What the daemon answers. Raises `CliError` for every answer but a yes, and where there is none."""
        status, answered = self.exchange(method, _target(path, query or {}), body, headers or {})
        if 200 <= status < 300:
            return answered
        raise _refusal(status, answered, self.url)

    def exchange(self, method: str, target: str, body: object, headers: Mapping[str, str]) -> tuple[int, Any]:
        """One request: the status and the decoded answer, whatever they are. Raises `CliError` without an answer."""
        named = {"Accept": "application/json", **headers}
        if self._token is not None:
            named["Authorization"] = f"Bearer {self._token}"
        payload = None if body is None else json.dumps(body).encode()
        connection = _connection(self._parts, _PATIENCE if method == "GET" else _PATIENCE_TO_CHANGE)
        try:
            connection.request(method, self._parts.path.rstrip("/") + target, payload, named)
            answer = connection.getresponse()
            return answer.status, _decoded(answer.read())
        except (OSError, HTTPException) as error:
            raise CliError(Exit.UNREACHABLE, _unreachable(self.url, error)) from error
        finally:
            connection.close()


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none
        usable = False
    if not usable:
        raise CliError(Exit.USAGE, f"{url!r} is no URL of a daemon; it looks like http://127.0.0.1:8081")
    return parts


def _connection(parts: SplitResult, patience: float) -> HTTPConnection:
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=patience)


def _target(path: tuple[object, ...], query: Mapping[str, object]) -> str:
    wanted = {name: _word(value) for name, value in query.items() if value is not None}
    joined = "/" + "/".join(quote(str(part), safe="") for part in path)
    return f"{joined}?{urlencode(wanted)}" if wanted else joined


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _refusal(status: int, answered: Any, url: str) -> CliError:
    known = answered if isinstance(answered, dict) and "error" in answered else None
    if known is None:
        return CliError(Exit.UNREACHABLE, f"what answers at {url} is not Rollcall's API: HTTP status {status}")
    lines = [f"{one['field']}: {one['message']}" for one in known.get("mistakes", [])] or [str(known["message"])]
    if status == 401:
        lines.append(
            "the token is ROLLCALL_API_TOKEN, the first of ROLLCALL_API_TOKENS, or the file api-token in .data"
        )
    unstorable_fields = Exit.UNREACHABLE if status == 503 else Exit.FAILED
    return CliError(_CODES.get(status, unstorable_fields), lines)


def _unreachable(url: str, error: Exception) -> list[str]:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return [
        f"no daemon answers at {url}: {why}",
        "start one with `rollcall serve`, or name one with ROLLCALL_API_URL",
    ]
