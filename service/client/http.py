"""A client of Rollcall's HTTP API, with the standard library only.

Example:
    client = ApiClient("http://127.0.0.1:8081", token)
    for vm in client.items("v1", "vms", state="ACTIVE"):
        print(vm["ref"])
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Final
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from service.client.errors import ApiError, ErrorKind, InvalidClientOption, InvalidField

#: Seconds. Storing or cancelling 100,000 VMs takes a while.
_READ_TIMEOUT: Final = 30.0
_WRITE_TIMEOUT: Final = 300.0
_LARGEST_PAGE: Final = 1000
#: Bytes that are read of a stream at once.
_PIECE: Final = 2**18
_PROBLEM: Final = "application/problem+json"
_KINDS: Final[Mapping[int, ErrorKind]] = {
    401: ErrorKind.UNAUTHORIZED,
    403: ErrorKind.FORBIDDEN,
    404: ErrorKind.NOT_FOUND,
    409: ErrorKind.CONFLICT,
    429: ErrorKind.UNAVAILABLE,
    503: ErrorKind.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A response as it came. `value` is the decoded JSON, or None if the body is not JSON."""

    status: int
    content_type: str
    value: Any


class ApiClient:
    """The API at `url`, called with `token`.

    `token_source` says where the token came from (or where one was looked for); only error messages use it.
    Raises `InvalidClientOption` if the URL or the token cannot be sent, and `ApiError` from every call that fails.
    """

    def __init__(self, url: str, token: str | None = None, *, token_source: str = "") -> None:
        self.url = url.rstrip("/")
        self._parts = _parse(self.url)
        self._token = token
        self._token_source = token_source
        if token is not None:
            _check_header(f"the API token{token_source and f' from {token_source}'}", token)

    def get(self, *path: object, **query: object) -> Any:
        """The JSON of a resource. Query values that are None are left out."""
        return self.request("GET", *path, query=query).value

    def post(self, *path: object, body: object = None) -> Any:
        return self.request("POST", *path, body=body).value

    def delete(self, *path: object) -> Any:
        return self.request("DELETE", *path).value

    def pages(self, *path: object, limit: int | None = None, **query: object) -> Iterator[list[Any]]:
        """The pages of a list, each a list of items; together at most `limit` items, or all."""
        left, cursor = limit, None
        while left is None or left > 0:
            page = self.get(*path, cursor=cursor, limit=min(left or _LARGEST_PAGE, _LARGEST_PAGE), **query)
            try:
                items, cursor = list(page["items"]), page["next"]
            except (TypeError, KeyError):
                raise self._not_ours(200) from None
            yield items
            left = None if left is None else left - len(items)
            if cursor is None:
                return

    def items(self, *path: object, limit: int | None = None, **query: object) -> Iterator[Any]:
        """The items of a list, page by page; at most `limit` of them, or all."""
        for page in self.pages(*path, limit=limit, **query):
            yield from page

    def lines(self, *path: object, **query: object) -> Iterator[list[bytes]]:
        """The lines of a stream, with their ends, in pieces as they come.

        Raises `ApiError` if there is none, and in the midst of it if it breaks off; what came before is whole lines.
        """
        rest = b""
        for piece in self._pieces(_target(path, query)):
            whole, newline, rest = (rest + piece).rpartition(b"\n")
            if newline:
                yield [line + b"\n" for line in whole.split(b"\n")]
        if rest:
            raise ApiError(ErrorKind.UNREACHABLE, f"the stream from {self.url} broke off within a line")

    def _pieces(self, target: str) -> Iterator[bytes]:
        broken = f"the stream from {self.url} broke off"
        with self._exchange("GET", target, None, {}, timeout=_WRITE_TIMEOUT, failure=broken) as answer:
            if answer.status != 200:
                raise self._error(_read(answer))
            while piece := answer.read1(_PIECE):
                yield piece

    def request(
        self,
        method: str,
        *path: object,
        query: Mapping[str, object] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> RawResponse:
        """A successful response with a JSON object. Raises `ApiError` for any other."""
        response = self.send(method, _target(path, query or {}), body, headers or {})
        if 200 <= response.status < 300 and isinstance(response.value, dict):
            return response
        raise self._error(response)

    def send(
        self, method: str, target: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> RawResponse:
        """One request, and the response whatever its status is.

        Raises `ApiError` only if there is no response, and `InvalidClientOption` for a header that cannot be sent.
        """
        sent = {"Accept": "application/json", **(headers or {})}
        for name, value in sent.items():
            _check_header(name, value)
        payload = None if body is None else json.dumps(body).encode()
        timeout, failure = _READ_TIMEOUT if method == "GET" else _WRITE_TIMEOUT, f"no daemon answers at {self.url}"
        with self._exchange(method, target, payload, sent, timeout=timeout, failure=failure) as answer:
            return _read(answer)

    @contextmanager
    def _exchange(
        self,
        method: str,
        target: str,
        payload: bytes | None,
        headers: Mapping[str, str],
        *,
        timeout: float,
        failure: str,
    ) -> Iterator[HTTPResponse]:
        """The response to a request, on a connection of its own. Raises `ApiError`, which begins with `failure`."""
        token = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        try:
            with closing(self._connect(timeout)) as connection:
                connection.request(method, self._parts.path.rstrip("/") + target, payload, {**headers, **token})
                yield connection.getresponse()
        except (OSError, HTTPException, UnicodeError) as error:
            raise ApiError(ErrorKind.UNREACHABLE, f"{failure}: {_reason(error)}") from error

    def _connect(self, timeout: float) -> HTTPConnection:
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=timeout)

    def _error(self, response: RawResponse) -> ApiError:
        problem = response.value
        if response.content_type != _PROBLEM or not isinstance(problem, dict) or "title" not in problem:
            return self._not_ours(response.status)
        kind = _KINDS.get(response.status, ErrorKind.REFUSED if response.status < 500 else ErrorKind.UNEXPECTED)
        detail = str(problem.get("detail") or problem["title"])
        if kind is ErrorKind.UNAUTHORIZED:
            detail = self._unauthorized(detail)
        elif kind is ErrorKind.FORBIDDEN:
            detail += self._token_source and f" (the API token is from {self._token_source})"
        fields = tuple(InvalidField(str(one["field"]), str(one["message"])) for one in problem.get("errors", ()))
        return ApiError(kind, detail, status=response.status, invalid_fields=fields)

    def _unauthorized(self, detail: str) -> str:
        if self._token is None:
            return f"{self.url} needs an API token; none was found{self._token_source and f': {self._token_source}'}"
        why = f": {detail}" if detail.startswith("the token") else ""
        return f"the API token{self._token_source and f' from {self._token_source}'} was refused by {self.url}{why}"

    def _not_ours(self, status: int) -> ApiError:
        detail = f"what answers at {self.url} is not Rollcall's API (HTTP status {status})"
        return ApiError(ErrorKind.UNREACHABLE, detail, status=status)


def _parse(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and url.isprintable()
    except ValueError:  # the port is not a number, or too large
        usable = False
    if not usable or " " in url:
        raise InvalidClientOption(f"{url!r} is not a URL of a daemon; write it like http://127.0.0.1:8081")
    if parts.username is not None or parts.password is not None:
        raise InvalidClientOption("the URL of the daemon must hold no user name and no password; use an API token")
    return parts


def _check_header(name: str, value: str) -> None:
    """Refuse what a header cannot carry, without repeating the value: it may be a secret."""
    if not value:
        raise InvalidClientOption(f"{name} is empty")
    for position, character in enumerate(value, 1):
        if not (character.isascii() and character.isprintable()):
            what = f"U+{ord(character):04X}"
            raise InvalidClientOption(
                f"{name} has a character that a header cannot carry ({what}, character {position} of {len(value)}); "
                "use printable ASCII without line breaks"
            )


def _read(answer: HTTPResponse) -> RawResponse:
    return RawResponse(answer.status, answer.headers.get_content_type(), _decode(answer.read()))


def _target(path: tuple[object, ...], query: Mapping[str, object]) -> str:
    given = {name: _query_value(value) for name, value in query.items() if value is not None}
    joined = "/" + "/".join(quote(str(part), safe="", errors="replace") for part in path)
    return f"{joined}?{urlencode(given, errors='replace')}" if given else joined


def _query_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    # Some of these texts quote what the other side sent.
    return ascii(text)[1:-1][:200]
