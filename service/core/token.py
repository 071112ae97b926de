"""Callback tokens: they name a creation, and a MAC proves it without the database.

A token is lowercase hex only, since the provider lowercases the query of a URL and perhaps more of it
(infrahub-api.md section 1.1): 32 digits of submission, 6 of creation, 32 of MAC.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

TOKEN_LENGTH: Final = 70
_MAX_CREATION_NO: Final = 0xFFFFFF
_HEX: Final = frozenset(b"0123456789abcdef")
#: Without word boundaries: %2F before a token, or \n in JSON, leaves none.
_TOKEN_FORM: Final = re.compile(r"([0-9a-f]{38})[0-9a-f]{32,}", re.IGNORECASE)


class CreationRef(NamedTuple):
    """The creation that a callback URL belongs to."""

    submission_id: UUID
    creation_no: int


def mint(ref: CreationRef, secret: bytes) -> str:
    """The token of a creation's callback URL, signed with `secret`."""
    if not secret:
        raise ValueError("an empty secret signs nothing")
    if not 0 <= ref.creation_no <= _MAX_CREATION_NO:
        raise ValueError(f"creation_no {ref.creation_no} does not fit a token")
    head = f"{ref.submission_id.hex}{ref.creation_no:06x}"
    return head + _mac(head.encode(), secret)


def verify(token: str, secrets: Sequence[bytes]) -> CreationRef | None:
    """The creation a token was minted for by any of `secrets`, or None. Never raises.

    The time taken depends only on the number of secrets and the token's length: every secret is compared, in constant
    time, even after a match. An empty secret verifies nothing.
    """
    raw = token.encode("utf-8", "replace")
    well_formed = len(raw) == TOKEN_LENGTH and _HEX.issuperset(raw)
    head, given = (raw[:38], raw[38:]) if well_formed else (b"0" * 38, b"0" * 32)
    genuine = False
    for secret in secrets:
        genuine |= hmac.compare_digest(_mac(head, secret).encode(), given) and len(secret) > 0
    if not (genuine and well_formed):
        return None
    return CreationRef(UUID(hex=head[:32].decode()), int(head[32:], 16))


def claimed(token: str) -> CreationRef | None:
    """The creation that a token names, genuine or not; None if it does not have the form of a token."""
    if len(token) != TOKEN_LENGTH or not token.isascii() or not _HEX.issuperset(token.encode()):
        return None
    return CreationRef(UUID(hex=token[:32]), int(token[32:38], 16))


def redact(text: str) -> str:
    """The text with the MAC of every token in it replaced by an ellipsis."""
    return _TOKEN_FORM.sub(lambda found: found.group(1) + "…", text)


def redact_bytes(data: bytes) -> bytes:
    """The same of bytes that may be no text: all others survive."""
    try:
        return redact(data.decode()).encode()
    except UnicodeDecodeError:
        # Latin-1 maps each byte to a character.
        return redact(data.decode("latin-1")).replace("…", "...").encode("latin-1")


def _mac(head: bytes, secret: bytes) -> str:
    return hmac.new(secret, b"rollcall callback\x00" + head, hashlib.sha256).hexdigest()[:32]
