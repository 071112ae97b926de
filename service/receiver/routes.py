"""What a request asks for, from its method and target alone. No I/O, no headers, no body.

Only two things exist on the callback listener, and whatever else is asked for looks the same: nothing.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from service.core.token import CreationRef, verify

_CALLBACKS: Final = b"/callbacks/"


class Place(Enum):
    """Where a request leads that is no callback."""

    LIVE = "live"
    NOWHERE = "nowhere"


def find(method: bytes, target: bytes, secrets: Sequence[bytes]) -> CreationRef | Place:
    """The creation that a callback is for, or where else the request leads.

    Whatever leads nowhere has cost one verification, as a wrong token does, so that time tells them apart as
    little as the answer does. A query is ignored: proxies and providers are known to add one.
    """
    path = target.partition(b"?")[0]
    if path == b"/livez" and method in {b"GET", b"HEAD"}:
        return Place.LIVE
    token = path[len(_CALLBACKS) :] if path.startswith(_CALLBACKS) else b""
    ref = verify(token.decode("latin-1"), secrets)
    return ref if ref is not None and method == b"POST" else Place.NOWHERE
