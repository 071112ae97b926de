"""What a request asks for, from its method and target alone. No I/O, no headers, no body.

Only two things exist on the callback listener, and whatever else is asked for looks the same: nothing.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from service.core.token import CreationRef, verify

_CALLBACKS: Final = "/callbacks/"
#: Targets that are remembered: about a megabyte.
_REMEMBERED: Final = 4096


class Place(Enum):
    """Where a request leads that is no callback."""

    LIVE = "live"
    NOWHERE = "nowhere"


class Routes:
    """Knows where requests lead, given the secrets that sign the tokens."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = tuple(secrets)
        # Callbacks of one creation come in numbers. What is remembered is only what was genuine: whoever finds out
        # by the time taken that a token is known has been told so by the answer anyway.
        self._genuine: dict[str, CreationRef] = {}

    def find(self, method: str, target: str) -> CreationRef | Place:
        """The creation that a callback is for, or where else the request leads.

        Whatever leads nowhere has cost one verification, as a wrong token does, so that time tells them apart as
        little as the answer does. A query is passed over: proxies and providers are known to add one.
        """
        if method == "POST" and (known := self._genuine.get(target)) is not None:
            return known
        path = target.partition("?")[0]
        if path == "/livez" and method in {"GET", "HEAD"}:
            return Place.LIVE
        token = path[len(_CALLBACKS) :].removesuffix("/") if path.startswith(_CALLBACKS) else ""
        ref = verify(token, self._secrets)
        if ref is None or method != "POST":
            return Place.NOWHERE
        self._remember(target, ref)
        return ref

    def _remember(self, target: str, ref: CreationRef) -> None:
        if len(self._genuine) >= _REMEMBERED:
            self._genuine.clear()
        self._genuine[target] = ref
