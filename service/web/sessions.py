"""Who is signed in: a cookie that any daemon of the database can check, and that no request to the API accepts.

It holds the token's key, when it expires, and a fingerprint of the token, under a MAC. So nothing is stored, a restart
signs nobody out, and a token that is revoked or expires ends its sessions.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from service.api.callers import Caller, Callers
from service.core.api_token import ALLOWED, Role

COOKIE: Final = "rollcall_session"
#: Seconds from signing in until the cookie expires.
LIFETIME: Final = 12 * 3600


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in. `csrf` has to come with every form of this session."""

    caller: Caller
    csrf: str

    def may(self, role: str) -> bool:
        """Whether the caller may do what needs this role."""
        return self.caller.role in ALLOWED[Role(role)]


class Sessions:
    """Makes and checks cookies. `secret` is what all daemons of one database share."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"rollcall dashboard sessions", "sha256")

    def cookie(self, caller: Caller, now: datetime) -> str:
        """A cookie for a caller who has shown a token."""
        expires = int(now.timestamp()) + LIFETIME
        content = f"{_encoded(caller.key.encode())}.{expires}.{self._mac('token', caller.digest.hex())}"
        return f"{content}.{self._mac('cookie', content)}"

    async def read(self, cookie: str, callers: Callers, now: datetime) -> Session | None:
        """The session of a cookie; None if it is forged or expired, or if its token is no longer valid.

        Raises `StorageUnavailable` if that cannot be known now.
        """
        content, _, mac = cookie.rpartition(".")
        if not hmac.compare_digest(self._mac("cookie", content).encode(), mac.encode("utf-8", "surrogateescape")):
            return None
        key, expires, fingerprint = content.split(".")
        if int(expires) <= now.timestamp():
            return None
        caller = await callers.by_key(base64.urlsafe_b64decode(key).decode())
        if caller is None or not hmac.compare_digest(self._mac("token", caller.digest.hex()), fingerprint):
            return None
        return Session(caller, self._mac("csrf", cookie))

    def _mac(self, purpose: str, text: str) -> str:
        content = f"{purpose}:{text}".encode("utf-8", "surrogateescape")
        return hmac.digest(self._key, content, hashlib.sha256).hex()[:32]


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode()
