"""How a path names a submission, a VM or an event: by SUBMISSION, by SUBMISSION.N or the provider's id, by EVENT_ID."""

import re
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.api import serializers
from service.core.vm import Vm
from service.errors import FieldError, Invalid, NotFound
from service.storage import vms

_UUID: Final = r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"
_OURS: Final = re.compile(rf"({_UUID})\.([0-9]{{1,9}})")
_THEIRS: Final = re.compile(r"[0-9]{1,18}")


def submission_id(text: str) -> UUID:
    """The submission that a path names. Raises `NotFound` for what cannot be one."""
    if not re.fullmatch(_UUID, text):
        raise NotFound("there is no such submission; its id looks like 0198c0de-0000-7000-8000-000000000000")
    return UUID(text)


def event_id(text: str) -> UUID:
    """The event that a path names. Raises `NotFound` for what cannot be one."""
    if not re.fullmatch(_UUID, text):
        raise NotFound("there is no such event; its id looks like 0198c0de-0000-7000-8000-000000000000, in full")
    return UUID(text)


def cursor(text: str | None) -> vms.Ref | None:
    """The key that a cursor of VMs stands for."""
    found = _OURS.fullmatch(text or "")
    return (UUID(found.group(1)), int(found.group(2))) if found else None


async def find(conn: AsyncConnection, text: str) -> Vm:
    """The VM that a path names. Raises `NotFound`, or `Invalid` where the provider's id fits more than one."""
    if key := cursor(text):
        found = await vms.get(conn, *key)
        candidates = [found] if found else []
    else:
        candidates = await vms.by_provider_id(conn, [int(text)]) if _THEIRS.fullmatch(text) else []
    if not candidates:
        raise NotFound("there is no such VM in the record; name it by the provider's id or as SUBMISSION.N")
    if len(candidates) > 1:
        names = ", ".join(sorted(map(serializers.ref, candidates)))
        raise Invalid([FieldError("ref", f"is bound to more than one VM; name one of them: {names}")])
    return candidates[0]
