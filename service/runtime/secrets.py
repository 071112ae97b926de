"""Secrets that the daemon creates and stores in its data directory."""

import os
import secrets
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.config import Settings
from service.errors import ConfigError, FieldError
from service.files import sync_folder

#: The fewest characters of a stored secret. Those that we create have twice as many.
_SHORTEST: Final = 32


def callback_secrets(settings: Settings) -> tuple[bytes, ...]:
    """The secrets that sign callback URLs: from the settings, or one created and stored in the data directory.

    Raises `ConfigError` if the stored one cannot be used.
    """
    given = tuple(secret.get_secret_value().encode() for secret in settings.callback_secrets)
    return given or (stored_secret(settings.data_dir / "callback-secret").encode(),)


def seal_keys(settings: Settings) -> tuple[bytes, ...]:
    """The keys that checkpoints are signed with, if the settings name them."""
    return tuple(bytes.fromhex(key.get_secret_value()) for key in settings.seal_keys)


def derived_seal_keys(secrets_: Iterable[bytes]) -> tuple[bytes, ...]:
    """Those that are used otherwise: one of each callback secret, which every daemon on a database shares already."""
    return tuple(
        HKDF(algorithm=SHA256(), length=32, salt=None, info=b"rollcall seal key").derive(one) for one in secrets_
    )


def stored_secret(path: Path) -> str:
    """A secret that is created once and stored in a file that only its owner can read.

    It is on disk before it is returned. Raises `ConfigError` if the file does not hold a whole secret, as after a power
    cut or a bad restore: a part of one could be guessed.
    """
    try:
        if not path.exists():
            _make(path)
        found = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError([FieldError(str(path), f"cannot be read or made: {error.strerror}")]) from None
    if len(found) < _SHORTEST or not (found.isascii() and found.decode("ascii").isprintable()):
        advice = "restore it from a backup, or remove it to have another made"
        raise ConfigError(
            [FieldError(str(path), f"is damaged: it holds no secret of {_SHORTEST} characters or more; {advice}")]
        )
    return found.decode("ascii")


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first: use its secret
            os.link(fresh, path)
    finally:
        Path(fresh).unlink()
    sync_folder(path.parent)
