"""A submission's `user_data` is stored encrypted: a cloud-init script may hold passwords and keys.

It is encrypted before the submission is stored, and decrypted only while a create call is made.
"""

from collections.abc import Mapping
from typing import Any, Final

from service.core.create_body import summary_of_secret
from service.errors import TryLater, Undecryptable
from service.runtime.runtime import Runtime

_ISSUE: Final = "user_data"


def encrypted(rt: Runtime, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec as it is stored: `user_data` becomes `{"encrypted": token, "summary": size and digest}`."""
    text = spec.get("user_data")
    if text is None:
        return dict(spec)
    return {**spec, "user_data": {"encrypted": rt.cipher.encrypt(text), "summary": summary_of_secret(text)}}


def decrypted(rt: Runtime, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec as the provider gets it.

    Raises `TryLater` if no callback secret decrypts it: the creation waits, and a health issue says what to do.
    """
    stored = spec.get("user_data")
    if stored is None:
        return dict(spec)
    try:
        text = rt.cipher.decrypt(stored["encrypted"])
    except Undecryptable:
        rt.health.report(
            _ISSUE,
            "user_data of a submission cannot be decrypted: put the callback secret that was first when it was "
            "submitted back into ROLLCALL_CALLBACK_SECRETS",
        )
        raise TryLater("not sent: its user_data cannot be decrypted with the present callback secrets") from None
    rt.health.resolve(_ISSUE)
    return {**spec, "user_data": text}
