"""A submission's own `notify_url` is stored encrypted, since it may hold a secret, and its key is derived, not stored."""

import base64
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.notify_rules import shown
from service.runtime.runtime import Runtime

#: The target of messages that go to a submission's own URL.
TARGET: Final = "submission"


def encrypted(rt: Runtime, url: str | None) -> dict[str, str] | None:
    """The URL as it is stored: the encrypted one, and what may be shown of it."""
    return None if url is None else {"encrypted": rt.cipher.encrypt(url), "shown": shown(url)}


def decrypted(rt: Runtime, stored: Mapping[str, str]) -> str:
    """The URL. Raises `Undecryptable` if no callback secret fits."""
    return rt.cipher.decrypt(stored["encrypted"])


def signing_keys(rt: Runtime, submission_id: UUID) -> list[str]:
    """The keys that sign the messages of a submission, `whsec_` and base64: one of each callback secret, the first first."""
    return [_key(secret, submission_id) for secret in rt.callback_secrets]


def _key(secret: bytes, submission_id: UUID) -> str:
    info = b"rollcall notify_url " + submission_id.bytes
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)
    return f"whsec_{base64.b64encode(derived).decode()}"
