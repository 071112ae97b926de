"""Turns the provider's answers into values or errors.

The tables that map statuses, reasons and texts to errors are only here. Unknown keys and nulls are fine anywhere; an answer
is unreadable only if it lacks what the caller needs.
"""

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

from service import errors
from service.core import storable
from service.provider import tolerant
from service.provider.calls import ProviderRequest
from service.provider.decoding import decode

Value = TypeVar("Value")
_Error = type[errors.ProviderError]

# The provider documents no Retry-After, only that its limit holds "until the minute is over" (infrahub-api.md
# section 6). A header that asks for more than an hour is probably wrong.
RETRY_AFTER = 60.0
LONGEST_RETRY_AFTER = 3600.0

# Whether a call may be repeated, by status. The first row with the status decides; any other status (such as 5xx)
# means "perhaps done", since a gateway may answer so after the call went through.
BY_STATUS: tuple[tuple[Container[int], _Error], ...] = (
    ((401,), errors.CredentialsRejected),
    ((402,), errors.NoBalance),
    ((408, 499), errors.Unconfirmed),  # from gateways that stopped waiting, perhaps for an answer
    ((409,), errors.AlreadyExists),
    ((425,), errors.TryLater),  # RFC 8470: not processed
    ((429,), errors.RateLimited),
    (range(300, 500), errors.Refused),
)

# Only the provider itself can say this. In a body that is not its own (of a gateway, a redirect, a firewall), these
# statuses mean nothing: the call may have gone through or not.
ONLY_ITS_OWN: frozenset[_Error] = frozenset({errors.Refused, errors.NoBalance, errors.AlreadyExists})
# The provider's errors have at least one of these keys (infrahub-api.md section 3.6). A gateway's 404 has only a message.
OWN_KEYS: tuple[str, ...] = ("status", "message", "error_reason")
ROUTED = frozenset({404, 405})

# `error_reason` makes a refusal more exact (infrahub-api.md section 3.6). "not_found" depends on the call: see
# `ProviderRequest.not_found`.
BY_REASON: Mapping[str, _Error] = {
    "unauthorized": errors.CredentialsRejected,
    "already_exist": errors.AlreadyExists,
}

# If the provider has one slug for many errors, only its text tells them apart. Anywhere in the message, in any case.
BY_TEXT: tuple[tuple[str, _Error], ...] = (
    (r"not enough stock|out of stock|insufficient (stock|capacity)", errors.NoCapacity),  # section 3.6: known from use
    (r"(insufficient|not enough) (balance|credit)", errors.NoBalance),  # section 3.6
    (r"currently being created", errors.NotYet),  # section 2.3: delete while creating
    (r"hibernation process is still going on", errors.NotYet),  # section 2.3: restore too early
    (r"being used to create a snapshot", errors.NotYet),  # section 2.3: anything during a snapshot
    (r"\bVM \S+ does not exist", errors.VmNotFound),  # section 3.6, where error_reason was omitted
    (r"name is not available", errors.AlreadyExists),  # section 10: perhaps made by an earlier attempt
    # What Flask says of a path that it does not serve, whatever slug is added: a wrong base URL must not look as
    # if every VM were gone, nor end a creation.
    (r"requested URL was not found", errors.Unconfirmed),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """A complete HTTP answer. Header names are in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def read(
    call: ProviderRequest, answer: HttpResponse, parse: Callable[[Any], Value | None], *, secret: str = ""
) -> Value:
    """The value that `parse` finds in the answer's JSON; `parse` returns None if it finds none.

    Otherwise raises a `ProviderError`, which never holds the `secret`. An unreadable 2xx is `Unconfirmed`, since the call
    was perhaps done, or `TryLater` for a safe call.
    """
    document = _decode(answer)
    if not 200 <= answer.status < 300 or _is_no(document):
        _refuse(call, answer, document, secret)
    if (value := parse(document)) is None:
        # Do not quote the body: it may hold a callback URL, and errors end in logs.
        what = "are not JSON" if document is None else f"hold no answer to {call.operation}"
        _fail(call, errors.Unconfirmed, answer.status, f"HTTP {answer.status} whose {len(answer.body)} bytes {what}")
    return value


def unsure(call: ProviderRequest) -> _Error:
    """The error for a call whose answer is unknown."""
    return errors.TryLater if call.safe else errors.Unconfirmed


def _decode(answer: HttpResponse) -> Any:
    return {} if answer.status == 204 else decode(answer.body)


def _is_no(document: Any) -> bool:
    # A 2xx may have "status": false (infrahub-api.md section 3.6). If it has VMs all the same, they exist: read it as a
    # success.
    answered = tolerant.mapping(document)
    return tolerant.flag(answered.get("status")) is False and not answered.get("instances")


def _refuse(call: ProviderRequest, answer: HttpResponse, document: Any, secret: str) -> NoReturn:
    body = tolerant.mapping(document)
    said = "; ".join(tolerant.texts(body.get("message") or body.get("error") or body.get("detail")))
    reason = _scrubbed((tolerant.text(body.get("error_reason")) or "").lower(), secret)[:100] or None
    is_own = _is_own(answer.status, body)
    kind = _kind(call, answer.status, reason, said, is_own=is_own)
    message = _scrubbed(said or _silence(answer, is_own=is_own), secret)
    if kind is errors.RateLimited:
        raise errors.RateLimited(message, retry_after=_retry_after(answer.headers), status=answer.status)
    _fail(call, kind, answer.status, message, reason)


def _is_own(status: int, body: Mapping[str, Any]) -> bool:
    """Whether an error comes from the provider itself, not from something between us and it."""
    found = [key for key in OWN_KEYS if key in body]
    return not 300 <= status < 400 and bool(found) and (status not in ROUTED or found != ["message"])


def _fail(call: ProviderRequest, kind: _Error, status: int, message: str, reason: str | None = None) -> NoReturn:
    kind = unsure(call) if kind is errors.Unconfirmed else kind
    raise kind(message, status=status, reason=reason)


def _kind(call: ProviderRequest, status: int, reason: str | None, said: str, *, is_own: bool) -> _Error:
    kind = _by_status(status)
    if kind in ONLY_ITS_OWN and not is_own:
        return errors.Unconfirmed
    if kind not in {errors.Refused, errors.AlreadyExists}:
        return kind  # more exact than a text
    for pattern, by_text in BY_TEXT:
        if re.search(pattern, said, re.IGNORECASE):
            return by_text
    if kind is errors.AlreadyExists:
        return kind
    return call.not_found if reason == "not_found" else BY_REASON.get(reason or "", kind)


def _by_status(status: int) -> _Error:
    if 200 <= status < 300:
        return errors.Refused  # it said "status": false
    return next((kind for statuses, kind in BY_STATUS if status in statuses), errors.Unconfirmed)


def _silence(answer: HttpResponse, *, is_own: bool) -> str:
    if 300 <= answer.status < 400:
        where = _header(answer.headers, "location") or "nowhere"
        return f"HTTP {answer.status} leads to {where}: check the provider's base URL, redirects are not followed"
    shown = f"HTTP {answer.status}, body: {answer.body.decode(errors='replace').strip() or 'empty'}"
    if 300 <= answer.status < 500 and not is_own:
        return f"not from the provider itself, check its base URL: {shown}"
    return shown


def _scrubbed(message: str, secret: str) -> str:
    # A proxy may echo our headers. Scrub before cutting, or a part of the key could stay.
    # Errors are stored in Postgres, which takes no NUL and no lone surrogates.
    if secret:
        forms = "|".join(map(re.escape, (secret, quote(secret, safe=""))))
        message = re.sub(forms, "[api key]", message, flags=re.IGNORECASE)
    return storable.clean(message)[:500]


def _retry_after(headers: Mapping[str, str]) -> float:
    value = _header(headers, "retry-after") or ""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return min(max(float(value), 1.0), LONGEST_RETRY_AFTER)
    # A date is relative to the sender's own clock, which came with it: ours may differ.
    until, now = _http_date(value), _http_date(_header(headers, "date") or "")
    if until is None or now is None:
        return RETRY_AFTER
    return min(max((until - now).total_seconds(), 1.0), LONGEST_RETRY_AFTER)


def _http_date(value: str) -> datetime | None:
    try:
        read = parsedate_to_datetime(value)
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value.strip() for key, value in headers.items() if key.lower() == name), None)
