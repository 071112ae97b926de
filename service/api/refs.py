"""How a path names a submission, a VM or an event.

A submission: its id, a unique prefix of it, or its name. A VM: the provider's id, SUBMISSION.N, or its name.
"""

import re
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.api import serializers
from service.core.lifecycle import VmState
from service.core.vm import Vm
from service.errors import FieldError, Invalid, NotFound
from service.queries import names
from service.storage import vms

_UUID: Final = r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"
_VM_KEY: Final = re.compile(rf"({_UUID})\.([0-9]{{1,9}})")
_OF_SUBMISSION: Final = re.compile(r"(.+)\.([0-9]{1,9})", re.DOTALL)
_PROVIDER_ID: Final = re.compile(r"[0-9]{1,18}")
_PREFIX: Final = re.compile(r"[0-9a-fA-F-]{6,36}")
#: How many candidates an ambiguous name lists.
_CANDIDATES: Final = 5


def event_id(text: str) -> UUID:
    """The id of the event that a path names. Raises `NotFound` if it cannot be an id."""
    return _whole_id("event", text)


def message_id(text: str) -> UUID:
    """The id of the message that a path names. Raises `NotFound` if it cannot be an id."""
    return _whole_id("message", text)


def _whole_id(what: str, text: str) -> UUID:
    if not re.fullmatch(_UUID, text):
        raise NotFound(f"there is no such {what}; name it by its whole id, like 0198c0de-0000-7000-8000-000000000000")
    return UUID(text)


def cursor(text: str | None) -> vms.Ref | None:
    """The VM key in a cursor."""
    found = _VM_KEY.fullmatch(text or "")
    return (UUID(found.group(1)), int(found.group(2))) if found else None


async def submission_id(conn: AsyncConnection, text: str) -> UUID:
    """The id of the submission that a path names. It need not exist if the path has a whole id.

    Raises `NotFound`, or `Invalid` with the candidates if several match.
    """
    if re.fullmatch(_UUID, text):
        return UUID(text)
    found: Sequence[names.SubmissionName] = ()
    if _PREFIX.fullmatch(text) and (digits := text.replace("-", "").lower()) and len(digits) <= 32:
        found = await names.submissions_by_prefix(conn, digits, limit=_CANDIDATES + 1)
    if not found and _is_name(text):
        found = await names.submissions_by_name(conn, text, limit=_CANDIDATES + 1)
    if not found:
        raise NotFound("there is no such submission; name it by its id, a unique prefix of it, or its name")
    if len(found) > 1:
        raise _ambiguous("submission", [f"{one.submission_id} ({one.name})" for one in found])
    return found[0].submission_id


async def find(conn: AsyncConnection, text: str) -> Vm:
    """The VM that a path names. Raises `NotFound`, or `Invalid` with the candidates if several match."""
    candidates = await _candidates(conn, text)
    if not candidates:
        raise NotFound("there is no such VM; name it by the provider's id, as SUBMISSION.N, or by its name")
    if len(candidates) > 1:
        raise _ambiguous("ref", [f"{serializers.ref(one)} ({one.state})" for one in candidates])
    return candidates[0]


async def find_by_parameter(conn: AsyncConnection, ref: str) -> Vm:
    """The VM that the parameter `vm` names. Raises `NotFound`, or `Invalid` with the candidates."""
    try:
        return await find(conn, ref)
    except Invalid as error:
        raise Invalid([FieldError("vm", one.message) for one in error.field_errors]) from None


async def _candidates(conn: AsyncConnection, text: str) -> list[Vm]:
    if _PROVIDER_ID.fullmatch(text):
        bound = await vms.by_provider_id(conn, [int(text)])
        # A VM that was released may have been imported again.
        return [one for one in bound if one.state is not VmState.RELEASED] or bound[-1:]
    if key := _OF_SUBMISSION.fullmatch(text):
        try:
            found = await vms.get(conn, await submission_id(conn, key.group(1)), int(key.group(2)))
        except NotFound:
            found = None
        if found is not None:
            return [found]
    return await names.vms_by_name(conn, text, limit=_CANDIDATES + 1) if _is_name(text) else []


def _is_name(text: str) -> bool:
    # Postgres stores neither NUL nor half of a surrogate pair.
    return "\0" not in text and text.isprintable()


def _ambiguous(field: str, candidates: Sequence[str]) -> Invalid:
    listed = ", ".join(candidates[:_CANDIDATES])
    more = ", and more" if len(candidates) > _CANDIDATES else ""
    return Invalid([FieldError(field, f"matches more than one; name one of them: {listed}{more}")])
