"""Encrypts what may hold a secret before it is stored.

The keys are derived from the callback secrets, which every daemon on a database shares already: the first encrypts, all
decrypt. No key and no clear text is in a repr or an error.
"""

import base64
from collections.abc import Sequence
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.errors import Undecryptable

#: Separates these keys from other uses of the same secrets.
_INFO: Final = b"rollcall user_data"


class Cipher:
    """Encrypts with a key of the first secret, and decrypts with a key of any of them (Fernet: AES-128-CBC, HMAC-SHA256)."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._fernet = MultiFernet([Fernet(_key(secret)) for secret in secrets])

    def encrypt(self, text: str) -> str:
        """An ASCII token, different each time."""
        return self._fernet.encrypt(text.encode()).decode("ascii")

    def decrypt(self, token: str) -> str:
        """The text of a token. Raises `Undecryptable` if no secret fits, or if the token was changed."""
        try:
            return self._fernet.decrypt(token.encode()).decode()
        except InvalidToken:
            raise Undecryptable from None


def _key(secret: bytes) -> bytes:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_INFO).derive(secret)
    return base64.urlsafe_b64encode(derived)
