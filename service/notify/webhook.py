"""Delivers a message to a URL, signed as Standard Webhooks says. Redirects are not followed, and answers are not read."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from standardwebhooks.webhooks import Webhook

from service import __version__
from service.config import Settings
from service.notify.addresses import AddressRefusedError, guarded
from service.notify.result import DeliveryResult
from service.storage.messages import Message

#: What is read of an answer, so that its connection can be used again.
_READ: Final = 4096
_LONGEST_HEADER: Final = 4096
_LONGEST_WAIT: Final = timedelta(hours=1)
#: Answers after which the other messages of a target wait too. Anything else is about this message.
_AWAY: Final = frozenset({408, 425, 429})


def session(settings: Settings) -> ClientSession:
    """An HTTP client for webhooks. It checks each address as it connects, and takes no proxy from the environment."""
    connector = TCPConnector(socket_factory=guarded(settings), use_dns_cache=False, limit=1)
    return ClientSession(
        connector=connector,
        timeout=ClientTimeout(total=settings.notify_timeout_seconds),
        cookie_jar=DummyCookieJar(),
        max_line_size=_LONGEST_HEADER,
        max_field_size=_LONGEST_HEADER,
        auto_decompress=False,
    )


async def send(
    client: ClientSession, url: str, keys: Sequence[str], message: Message, *, now: datetime
) -> DeliveryResult:
    """Send a message. Any 2xx is success."""
    try:
        async with client.post(
            url, data=message.body.encode(), headers=headers(message, keys, now), allow_redirects=False
        ) as answer:
            await answer.content.read(_READ)
            return _result(answer, now)
    except TimeoutError:
        return DeliveryResult(error="no answer in time", away=True)
    except (ClientError, OSError, ValueError) as error:
        return _failed(error)


def headers(message: Message, keys: Iterable[str], now: datetime) -> dict[str, str]:
    """The headers of Standard Webhooks: one signature with each key."""
    id_ = str(message.message_id)
    signatures = [Webhook(key).sign(id_, now, message.body) for key in keys]
    return {
        "Content-Type": "application/json",
        "User-Agent": f"Rollcall/{__version__}",
        "webhook-id": id_,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _result(answer: ClientResponse, now: datetime) -> DeliveryResult:
    status = answer.status
    if 200 <= status < 300:
        return DeliveryResult(status=status)
    if status == 410:
        return DeliveryResult(error="410: it is gone for good", status=status, final=True)
    if 300 <= status < 400:
        return DeliveryResult(error=f"{status}: redirects are not followed", status=status)
    away = status in _AWAY or status >= 500
    return DeliveryResult(
        error=f"it answered {status}", status=status, away=away, retry_after=_retry_after(answer, now) if away else None
    )


def _retry_after(answer: ClientResponse, now: datetime) -> timedelta | None:
    given = answer.headers.get("Retry-After", "").strip()
    if given.isascii() and given.isdigit():
        return min(timedelta(seconds=int(given[:9])), _LONGEST_WAIT)
    with suppress(ValueError, TypeError):
        at = parsedate_to_datetime(given)
        wait = (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
        return min(max(wait, timedelta()), _LONGEST_WAIT)
    return None


def _failed(error: Exception) -> DeliveryResult:
    cause = error.os_error if isinstance(error, ClientConnectorError) else error
    if isinstance(cause, AddressRefusedError):
        return DeliveryResult(error=f"not sent: {cause}")
    # Texts of the client's errors quote the URL, which may hold a secret.
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else type(cause).__name__
    return DeliveryResult(error=f"no answer: {reason}"[:200], away=True)
