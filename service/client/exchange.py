"""What both clients decide alike: which answers are errors, what is tried again, where a list goes on, when waiting ends. No I/O."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from service.client.errors import ApiError, ErrorKind, InvalidClientOption, InvalidField, NotReady, WaitTimeout
from service.client.operation import Prepared
from service.client.results import SubmissionJson

#: Seconds. Storing or cancelling 100,000 VMs takes a while.
READ_TIMEOUT: Final = 30.0
WRITE_TIMEOUT: Final = 300.0
#: Bytes that are read of a stream at once.
PIECE: Final = 2**18
_LARGEST_PAGE: Final = 1000
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
    body: bytes = b""
    retry_after: float | None = None


class Api(NamedTuple):
    """Which API is called, and where its token is from, for error messages."""

    url: str
    has_token: bool
    token_source: str


class Retries(NamedTuple):
    """How often what is safe to send again is sent again, and how long is waited before."""

    most: int = 4
    first: float = 0.5  #: seconds; doubled each time
    longest: float = 30.0
    rng: random.Random = random.Random()  # noqa: S311  no secret

    def pause(self, request: Prepared, error: ApiError, tries: int) -> float | None:
        """Seconds to wait before the next try, with jitter; None to give up. `tries` is how many were made.

        429 was certainly not done. A request without an answer, or with 502 to 504, may have been: it is sent again if that is harmless.
        """
        passing = error.status in {None, 502, 503, 504}
        if tries > self.most or not (error.status == 429 or (request.is_repeatable and passing)):
            return None
        wait: float = min(self.first * 2 ** (tries - 1), self.longest) * (0.5 + self.rng.random() / 2)
        return max(wait, min(error.retry_after or 0.0, self.longest))


DEFAULT_RETRIES: Final = Retries()
NO_RETRIES: Final = Retries(most=0)


@dataclass
class SubmissionWait:
    """Waits for a submission; `clock` is in seconds."""

    clock: Callable[[], float]
    timeout: float | None
    on_look: Callable[[SubmissionJson | ApiError], None] | None = None

    def __post_init__(self) -> None:
        self._began = self.clock()

    def is_over(self, seen: SubmissionJson | ApiError) -> bool:
        """Whether it is ready. Raises `NotReady` if it never will be, `WaitTimeout` if it took too long, and lasting errors.

        A daemon that is away does not end the waiting: the submission is on record.
        """
        if self.on_look is not None:
            self.on_look(seen)
        if isinstance(seen, ApiError):
            if not is_away(seen):
                raise seen
        elif seen["state"] == "ready":
            return True
        elif seen["state"] != "open":
            raise NotReady(seen)
        if self.timeout is not None and self.clock() - self._began >= self.timeout:
            raise WaitTimeout(f"not ready after {self.timeout:g} s: {_standing(seen)}")
        return False


def is_away(error: ApiError) -> bool:
    """Whether the daemon, or its database, may be back in a while."""
    return error.kind in {ErrorKind.UNREACHABLE, ErrorKind.UNAVAILABLE}


class Paging:
    """Walks through the pages of a list, to at most `limit` items."""

    def __init__(self, request: Prepared, limit: int | None, api: Api) -> None:
        self._request, self._left, self._api = request, limit, api
        self._cursor: str | None = None
        self._head: dict[str, Any] | None = None

    @property
    def head(self) -> dict[str, Any] | None:
        """What the first page said besides its items; None if it was not read."""
        return self._head

    def next_request(self) -> Prepared | None:
        """The request of the next page, or None if there is no more to read."""
        is_first = self._head is None
        if not is_first and (self._cursor is None or (self._left is not None and self._left <= 0)):
            return None
        query: dict[str, object] = {}
        if "limit" in self._request.query:
            query["limit"] = min(self._left or _LARGEST_PAGE, _LARGEST_PAGE)
        if not is_first:
            # A period that ends now is asked for by its end, or every page would be of another period.
            query |= {name: value for name, value in (self._head or {}).items() if name in {"since", "until"}}
            query["cursor"] = self._cursor
        return self._request.with_query(**query)

    def items_of(self, page: Any) -> list[Any]:
        """The items of the page that was read."""
        try:
            items, cursor = list(page["items"]), page["next"]
        except (TypeError, KeyError):
            raise not_ours(200, self._api) from None
        if self._head is None:
            self._head = {name: value for name, value in page.items() if name not in {"items", "next"}}
        self._cursor = cursor
        if self._left is not None:
            items = items[: self._left]
            self._left -= len(items)
        return items


def result(request: Prepared, response: RawResponse, api: Api) -> Any:
    """What a response answers: JSON, or text. Raises `ApiError` for any other."""
    if response.status in request.statuses:
        if request.is_text:
            return response.body.decode(errors="replace")
        if isinstance(response.value, dict):
            return response.value
    raise error_of(response, api)


def error_of(response: RawResponse, api: Api) -> ApiError:
    """The error that a response is."""
    problem = response.value
    if response.content_type != _PROBLEM or not isinstance(problem, dict) or "title" not in problem:
        return not_ours(response.status, api)
    kind = _KINDS.get(response.status, ErrorKind.REFUSED if response.status < 500 else ErrorKind.UNEXPECTED)
    detail = str(problem.get("detail") or problem["title"])
    if kind is ErrorKind.UNAUTHORIZED:
        detail = _unauthorized(detail, api)
    elif kind is ErrorKind.FORBIDDEN:
        detail += api.token_source and f" (the API token is from {api.token_source})"
    return ApiError(
        kind,
        detail,
        status=response.status,
        type_=str(problem.get("type", "about:blank")),
        title=str(problem["title"]),
        invalid_fields=tuple(InvalidField(str(one["field"]), str(one["message"])) for one in problem.get("errors", ())),
        retry_after=response.retry_after,
    )


def not_ours(status: int, api: Api) -> ApiError:
    """The error of an answer that Rollcall does not give."""
    detail = f"what answers at {api.url} is not Rollcall's API (HTTP status {status})"
    return ApiError(ErrorKind.UNREACHABLE, detail, status=status)


def no_answer(failure: str, error: Exception) -> ApiError:
    """The error of a connection that failed or broke off. `failure` says which."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    # Some of these texts quote what the other side sent.
    return ApiError(ErrorKind.UNREACHABLE, f"{failure}: {ascii(text)[1:-1][:200]}")


def raw_response(status: int, content_type: str, body: bytes, retry_after: str | None) -> RawResponse:
    """A response, its body decoded if it is JSON. A `Retry-After` that is a date is left out."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    seconds = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    return RawResponse(status, content_type, value, body, seconds)


def payload_of(request: Prepared) -> bytes | None:
    return None if request.body is None else json.dumps(request.body).encode()


def headers_of(request: Prepared, token: str | None) -> dict[str, str]:
    """The headers to send. Raises `InvalidClientOption` for one that cannot be sent."""
    sent = {"Accept": "*/*" if request.is_text else "application/json", **request.headers}
    for name, value in sent.items():
        check_header(name, value)
    return sent if token is None else {**sent, "Authorization": f"Bearer {token}"}


def whole_lines(rest: bytes, piece: bytes) -> tuple[list[bytes], bytes]:
    """The lines that are whole, with their ends, and what is left."""
    whole, newline, left = (rest + piece).rpartition(b"\n")
    return ([line + b"\n" for line in whole.split(b"\n")] if newline else []), left


def parse_url(url: str) -> SplitResult:
    """The parts of a daemon's URL. Raises `InvalidClientOption` if it is none."""
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


def check_header(name: str, value: str) -> None:
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


def _unauthorized(detail: str, api: Api) -> str:
    source = api.token_source
    if not api.has_token:
        return f"{api.url} needs an API token; none was found{source and f': {source}'}"
    why = f": {detail}" if detail.startswith("the token") else ""
    return f"the API token{source and f' from {source}'} was refused by {api.url}{why}"


def _standing(seen: SubmissionJson | ApiError) -> str:
    if isinstance(seen, ApiError):
        return seen.detail
    reasons = "; ".join(seen["reasons"])
    return f"{seen['ready']} of {seen['count']} VMs are ready{reasons and f'; {reasons}'}"
