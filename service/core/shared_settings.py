"""The settings that every daemon on a database must share, and what goes wrong if they differ. Secrets as fingerprints."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from service.errors import FieldError

_CALLBACK_SECRETS: Final = "ROLLCALL_CALLBACK_SECRETS"
_PUBLIC_URL: Final = "ROLLCALL_PUBLIC_URL"
_NOTIFY: Final = "ROLLCALL_NOTIFY"
_PROVIDER_URL: Final = "ROLLCALL_INFRAHUB_URL"


class SharedSettings(Struct, frozen=True):
    """What daemons compare. `secrets` are fingerprints: the first secret signs and encrypts, all verify and decrypt.

    `public_url` is None if it is not set.
    """

    secrets: Sequence[str]
    public_url: str | None
    provider_url: str
    notify: Mapping[str, str] | None = None  #: the rules of each target, without secrets; None if it tells nobody


def fingerprint(secret: bytes) -> str:
    """A short text that tells secrets apart and does not reveal them, being as hard to invert as the URLs they sign."""
    return hashlib.sha256(b"rollcall callback secret\x00" + secret).hexdigest()[:12]


def differences(ours: SharedSettings, theirs: SharedSettings, daemon: str, *, running: bool) -> list[FieldError]:
    """What keeps a daemon with `ours` from sharing a database with `daemon`, which has `theirs` and may have stopped.

    A daemon that has stopped has left VMs with callback URLs, and user data, of its first secret, and both are at its
    provider; nothing more of it matters.
    """
    found = []
    if theirs.secrets[0] not in ours.secrets:
        text = (
            f"does not hold the secret {theirs.secrets[0]} (its fingerprint), which signed the callback URLs of {daemon}: "
            "callbacks to them would be refused; add it behind your own"
        )
        found.append(FieldError(_CALLBACK_SECRETS, text))
    elif running and ours.secrets[0] not in theirs.secrets:
        text = (
            f"begins with a secret that {daemon} does not know, so it would refuse callbacks of what we create; "
            "add the new secret behind the old one on every daemon before you put it first"
        )
        found.append(FieldError(_CALLBACK_SECRETS, text))
    if running and None not in {ours.public_url, theirs.public_url} and ours.public_url != theirs.public_url:
        found.append(FieldError(_PUBLIC_URL, f"is {ours.public_url}, and that of {daemon} is {theirs.public_url}"))
    if ours.provider_url != theirs.provider_url:
        text = f"is {ours.provider_url}, and that of {daemon} is {theirs.provider_url}, where the VMs of the record are; use another database"
        found.append(FieldError(_PROVIDER_URL, text))
    return found


def rule_differences(ours: SharedSettings, theirs: SharedSettings, daemon: str) -> list[FieldError]:
    """How the rules of notifications differ from those of a daemon that runs. The one that started last decides what is told."""
    if ours.notify is None or theirs.notify is None or ours.notify == theirs.notify:
        return []
    names = {*ours.notify, *theirs.notify}
    differing = sorted(name for name in names if ours.notify.get(name) != theirs.notify.get(name))
    text = f"differs from that of {daemon} in {', '.join(differing)}: what is told depends on which one does it"
    return [FieldError(_NOTIFY, text)]
