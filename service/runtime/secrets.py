"""Secrets that the daemon makes for itself and stores in its data directory."""

import secrets
from pathlib import Path

from service.config import Settings


def callback_secrets(settings: Settings) -> tuple[bytes, ...]:
    """The secrets of callback URLs: from the settings, or one made and kept in the data directory."""
    given = tuple(secret.get_secret_value().encode() for secret in settings.callback_secrets)
    return given or (stored_secret(settings.data_dir / "callback-secret").encode(),)


def stored_secret(path: Path) -> str:
    """A secret that is made once and kept in a file that only its owner can read."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_hex(32))
        fresh.replace(path)
    return path.read_text().strip()
