"""API tokens: their roles, and how one is written and recognized. Pure.

A token is `rollcall_`, 43 characters for 256 random bits, and 6 for a CRC-32 of what stands before: enough to find leaked
tokens in files and logs, and to tell a token that was not copied whole from one that is wrong.
"""

import re
import string
import zlib
from collections.abc import Mapping
from enum import StrEnum
from hashlib import sha256
from typing import Final

PREFIX: Final = "rollcall_"
#: Random bytes in a token.
RANDOM: Final = 32
_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_LENGTH: Final = 43
_CHECK_LENGTH: Final = 6
#: Also a part of one is struck out of logs.
_LIKE_ONE: Final = re.compile(rf"{PREFIX}[0-9A-Za-z]{{12,}}")
_FORM: Final = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_SECRET_LENGTH}}}[0-9A-Za-z]{{{_CHECK_LENGTH}}}")


class Role(StrEnum):
    """What the holder of a token may do."""

    READ = "read"  #: look at the fleet and its record
    SUBMIT = "submit"  #: also ask for VMs, change and cancel submissions, delete VMs
    ADMIN = "admin"  #: everything
    AUDIT = "audit"  #: read everything, also exports and tokens, and change nothing; each use is recorded


#: Which roles may do what needs a role.
ALLOWED: Final[Mapping[Role, tuple[Role, ...]]] = {
    Role.READ: (Role.READ, Role.SUBMIT, Role.ADMIN, Role.AUDIT),
    Role.SUBMIT: (Role.SUBMIT, Role.ADMIN),
    Role.ADMIN: (Role.ADMIN,),
    Role.AUDIT: (Role.AUDIT, Role.ADMIN),
}


def roles_text(needed: Role) -> str:
    """The roles that suffice, for people: `submit or admin`."""
    *others, last = (str(role) for role in ALLOWED[needed])
    return f"{', '.join(others)} or {last}" if others else last


def mint_api_token(random: bytes) -> str:
    """A new token from `RANDOM` random bytes."""
    body = PREFIX + _base62(int.from_bytes(random, "big"), _SECRET_LENGTH)
    return body + _check(body)


def is_api_token(text: str) -> bool:
    """Whether the text has the form of a token and the right checksum. It may still be nobody's."""
    return _FORM.fullmatch(text) is not None and _check(text[:-_CHECK_LENGTH]) == text[-_CHECK_LENGTH:]


def is_damaged(text: str) -> bool:
    """Whether the text begins as a token does and was not copied whole."""
    return text.startswith(PREFIX) and not is_api_token(text)


def digest_of(token: str) -> bytes:
    """What is stored of a token: a plain SHA-256, since nobody can try all values of 256 random bits (decision 0065)."""
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


def redact_api_tokens(text: str) -> str:
    """The text without the secret part of any token in it, also of one that was cut."""
    return _LIKE_ONE.sub(PREFIX + "…", text)


def _check(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECK_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
