"""Parses callbacks. Never raises: what cannot be parsed is Unreadable, with the reason.

The provider publishes no schema for callbacks. What is known comes from one integrator's fixes after real
deliveries (infrahub-api.md section 1.2): three naming families, ids as text or number, null statuses, mixed
case. So read what is there, require only the VM's id, and treat nothing unknown as an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import orjson

from service.core import storable
from service.core.content import unpacked
from service.core.lifecycle import VmState, state_of

_MAX_ID: Final = 2**63 - 1

#: What an operation's name is about, by the first part found in it, in this order: an attached volume's name
#: contains no "create", but "CreateVolume" would (infrahub-api.md section 1.4).
_ABOUT: Final = (
    ("volume", "volume"),
    ("floatingip", "floating IP"),
    ("securityrule", "security rule"),
    ("vnc", "console"),
    ("delet", "delete"),
    ("creat", "create"),
    ("reboot", "reboot"),
    ("hibernation", "restore"),  # RestoreHibernationInstance… must not be taken for HibernateInstance…
    ("restor", "restore"),
    ("hibern", "hibernate"),
    ("stop", "stop"),
    ("start", "start"),
)

#: Things attached to a VM: such callbacks say nothing about the VM's own state.
_ATTACHED: Final = frozenset({"volume", "floating IP", "security rule", "console"})

#: The state of a VM after the operation succeeded (infrahub-api.md section 2.1).
_END_OF: Final = {
    "create": VmState.ACTIVE,
    "delete": VmState.DELETED,
    "start": VmState.ACTIVE,
    "stop": VmState.SHUTOFF,
    "reboot": VmState.ACTIVE,
    "hibernate": VmState.HIBERNATED,
    "restore": VmState.ACTIVE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """What a callback claims. `state` is None if nothing follows from it, and the VM has to be refreshed.

    `status` is the status as written; `about` what the operation is about, or None if it is unknown.
    """

    provider_id: int
    operation: str | None = None
    about: str | None = None
    status: str | None = None
    state: VmState | None = None
    floating_ip: str | None = None
    fixed_ip: str | None = None

    @property
    def concerns_state(self) -> bool:
        """Whether it is about the VM itself, rather than something attached to it."""
        return self.about not in _ATTACHED


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A callback that names no VM. `reason` is for people. The bytes are stored, so a later release may parse them."""

    reason: str


def parse(body: bytes) -> Callback | Unreadable:
    """Parse a callback's body. Never raises."""
    try:
        decoded = orjson.loads(unpacked(body))
    except ValueError as error:  # damaged compression, too deep, not UTF-8, not JSON
        return Unreadable(f"not JSON: {str(error)[:120]}")
    if not isinstance(decoded, dict):
        return Unreadable(f"a JSON {type(decoded).__name__} where an object was expected")
    provider_id = _provider_id(decoded)
    if provider_id is None:
        return Unreadable("no VM id in resource.id, data.id or id")
    return _callback(provider_id, decoded)


def _callback(provider_id: int, decoded: Mapping[str, Any]) -> Callback:
    operation, data = _object(decoded, "operation"), _object(decoded, "data")
    name = _text(operation, "name") or _text(decoded, "event") or _text(decoded, "event_type")
    about = operation_of(name)
    status = _text(data, "status")
    step = _text(operation, "status") or (None if status else _text(decoded, "status"))
    return Callback(
        provider_id=provider_id,
        operation=name,
        about=about,
        status=status or step,
        state=None if about in _ATTACHED else state_of(status) or _concluded(about, step),
        floating_ip=_text(data, "floating_ip"),
        fixed_ip=_text(data, "fixed_ip"),
    )


def _concluded(about: str | None, step: str | None) -> VmState | None:
    """The state that follows from `operation.status` if `data.status` is absent (infrahub-api.md section 1.6).

    A failed create leaves a VM in ERROR; after any other failure the VM may be in any state. The suffix Success of a
    name alone means nothing, since it comes with every step.
    """
    match (step or "").strip().upper():
        case "SUCCESS":
            return _END_OF.get(about or "")
        case "FAILED" | "FAILURE":
            return VmState.ERROR if about == "create" else None
        case other:
            return state_of(other)


@lru_cache(maxsize=1024)  # few names, in millions of callbacks
def operation_of(name: str | None) -> str | None:
    """What an operation's name is about, such as create; None if it is unknown."""
    folded = (name or "").lower().replace("_", "").replace("-", "")
    return next((about for part, about in _ABOUT if part in folded), None)


def _provider_id(decoded: Mapping[str, Any]) -> int | None:
    resource = decoded.get("resource")
    if isinstance(resource, dict) and (number := _id(resource.get("id"))) is not None:
        return number
    candidates = (resource, _object(decoded, "data").get("id"), decoded.get("id"))
    return next((number for number in map(_id, candidates) if number is not None), None)


def _id(value: object) -> int | None:
    if isinstance(value, str):
        digits = value.strip()
        value = int(digits) if digits.isascii() and digits.isdigit() and len(value) < 40 else None
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 < value <= _MAX_ID else None


def _object(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _text(parent: Mapping[str, Any], key: str) -> str | None:
    value = parent.get(key)
    if not isinstance(value, str):
        return None
    return storable.text(value.strip(), longest=200)
