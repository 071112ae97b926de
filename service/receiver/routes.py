"""Routes requests of the callback listener by method and target. Anything but its two paths gets the same 404."""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from service.core.token import CreationRef, verify
from service.storage.events import driver_uuid

_CALLBACKS: Final = "/callbacks/"
#: The most targets in the cache: about a megabyte.
_REMEMBERED: Final = 4096


class Place(Enum):
    """The target of a request that is no callback."""

    LIVE = "live"
    NOWHERE = "nowhere"


class Routes:
    """Routes requests. `secrets` are those that may have signed the tokens."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = tuple(secrets)
        # A creation gets many callbacks, so genuine targets are cached. The shorter time reveals nothing that the
        # response does not.
        self._genuine: dict[str, CreationRef] = {}

    def find(self, method: str, target: str) -> CreationRef | Place:
        """The creation that a callback is for, or another place.

        An unknown path takes as long as a wrong token: one verification. The query is ignored: proxies and
        providers are known to add one.
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
        ref = CreationRef(driver_uuid(ref.submission_id.bytes), ref.creation_no)
        self._remember(target, ref)
        return ref

    def _remember(self, target: str, ref: CreationRef) -> None:
        if len(self._genuine) >= _REMEMBERED:
            self._genuine.clear()
        self._genuine[target] = ref
