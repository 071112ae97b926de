"""Who is signed in: a cookie that any daemon of the database can check, and that no request to the API accepts.

It holds the caller's name, when it expires, and a fingerprint of the token, under a MAC. So nothing is stored, a
restart signs nobody out, and a token that is withdrawn ends its sessions.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import SecretStr

COOKIE: Final = "rollcall_session"
#: Seconds from signing in until the cookie expires.
LIFETIME: Final = 12 * 3600


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in. `csrf` has to come with every form of this session."""

    caller: str
    csrf: str


class Sessions:
    """Makes and checks cookies. `secret` is what all daemons of one database share."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"rollcall dashboard sessions", "sha256")

    def cookie(self, caller: str, token: SecretStr, now: datetime) -> str:
        """A cookie for a caller who has shown this token."""
        expires = int(now.timestamp()) + LIFETIME
        content = f"{_encoded(caller.encode())}.{expires}.{self._mac('token', token.get_secret_value())}"
        return f"{content}.{self._mac('cookie', content)}"

    def read(self, cookie: str, callers: Mapping[str, SecretStr], now: datetime) -> Session | None:
        """The session of a cookie; None if it is forged or expired, or if its token is no longer valid."""
        content, _, mac = cookie.rpartition(".")
        if not hmac.compare_digest(self._mac("cookie", content).encode(), mac.encode("utf-8", "surrogateescape")):
            return None
        name, expires, fingerprint = content.split(".")
        caller = base64.urlsafe_b64decode(name).decode()
        token = callers.get(caller)
        if token is None or int(expires) <= now.timestamp():
            return None
        if not hmac.compare_digest(self._mac("token", token.get_secret_value()), fingerprint):
            return None
        return Session(caller, self._mac("csrf", cookie))

    def _mac(self, purpose: str, text: str) -> str:
        content = f"{purpose}:{text}".encode("utf-8", "surrogateescape")
        return hmac.digest(self._key, content, hashlib.sha256).hex()[:32]


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode()
