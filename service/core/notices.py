"""Notices become messages: those of one submission and kind that come together are one, with its members. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from msgspec import Struct

from service.core.printable import escape

#: Members that a message lists; it counts the others.
MEMBERS: Final = 50
_LONGEST: Final = 500

#: What is said of one VM, and of several.
_OF_VMS: Final[Mapping[str, tuple[str, str]]] = {
    "vm.ready": ("VM is ready", "VMs are ready"),
    "vm.lost": ("VM is lost", "VMs are lost"),
    "vm.error": ("VM is in ERROR", "VMs are in ERROR"),
    "vm.stuck": ("VM is stuck", "VMs are stuck"),
    "vm.refused": ("VM was refused", "VMs were refused"),
    "vm.deleted_unasked": ("VM was deleted, and not by Rollcall", "VMs were deleted, and not by Rollcall"),
    "vm.off_contract": ("VM stays off its contract", "VMs stay off their contract"),
    "vm.on_contract": ("VM is back on its contract", "VMs are back on their contract"),
    "vm.replaced": ("VM was replaced", "VMs were replaced"),
    "orphan.found": ("orphan was found", "orphans were found"),
}
_OF_SUBMISSIONS: Final[Mapping[str, str]] = {
    "submission.ready": "is ready",
    "submission.failed": "failed",
    "submission.deadline_passed": "was not ready by its deadline",
    "submission.cancelled": "is cancelled",
    "submission.expires_soon": "expires soon",
    "submission.expired": "has expired",
    "submission.repairs_stopped": "is not repaired any more: replacements keep failing",
    "money.limit_near": "has nearly reached a limit of money",
    "money.limit_reached": "has passed a limit of money",
}


class Notice(Struct, frozen=True):
    """One row of `notices`, with what is known of its VM."""

    submission_id: UUID
    notice_no: int
    kind: str
    at: datetime
    vm_no: int | None = None
    subject: str | None = None
    detail: str | None = None
    name: str | None = None
    provider_id: int | None = None
    state: str | None = None
    address: str | None = None

    def shown(self) -> dict[str, Any]:
        """As a member of a message."""
        member = {"at": self.at, "reason": self.detail and self.detail[:_LONGEST]}
        if self.vm_no is None:
            return {**member, "subject": self.subject}
        vm = {"ref": f"{self.submission_id}.{self.vm_no}", "name": self.name, "provider_id": self.provider_id}
        return {**vm, "state": self.state, "address": self.address, **member}


class About(Struct, frozen=True):
    """The submission that a message is about."""

    submission_id: UUID
    name: str
    labels: Sequence[str]


class NoticeGroup(Struct, frozen=True):
    """The notices of one submission and kind, oldest first."""

    kind: str
    notices: Sequence[Notice]
    about: About | None = None  #: None: the whole fleet

    @property
    def submission_id(self) -> UUID:
        return self.notices[0].submission_id

    def text(self) -> str:
        """What happened, for people, in one line."""
        return escape(f"{self._head()}{self._why()}")

    def _head(self) -> str:
        name = self.about.name if self.about else None
        if self.kind in _OF_SUBMISSIONS:
            return f"submission {name} {_OF_SUBMISSIONS[self.kind]}"
        one, many = _OF_VMS.get(self.kind, ("", ""))
        if not one:
            return {"health.raised": "health issue", "health.resolved": "health issue resolved"}.get(
                self.kind, "this is a test"
            )
        count = len(self.notices)
        return f"{count} {one if count == 1 else many}" + (f" in {name}" if name else "")

    def _why(self) -> str:
        """The first reasons, each once."""
        reasons = {(f"{one.subject}: " if one.subject else "") + one.detail for one in self.notices if one.detail}
        some = sorted(reasons)
        more = f"; and {len(some) - 2} more" if len(some) > 2 else ""
        return f": {'; '.join(text[:_LONGEST] for text in some[:2])}{more}" if some else ""

    def body(self, *, seq: int, at: datetime) -> str:
        """The message as it is signed and sent (Standard Webhooks: type, timestamp and data)."""
        data: dict[str, Any] = {
            "sequence": seq,
            "text": self.text(),
            "submission_id": self.about and self.about.submission_id,
            "submission_name": self.about and self.about.name,
            "labels": list(self.about.labels) if self.about else [],
            "count": len(self.notices),
            "members": [one.shown() for one in self.notices[:MEMBERS]],
        }
        return orjson.dumps(
            {"type": self.kind, "timestamp": at, "data": data}, default=str, option=orjson.OPT_UTC_Z
        ).decode()


def grouped(notices: Iterable[Notice], about: Mapping[UUID, About]) -> list[NoticeGroup]:
    """The notices by submission and kind, in the order of the first of each."""
    groups: dict[tuple[UUID, str], list[Notice]] = {}
    for one in notices:
        groups.setdefault((one.submission_id, one.kind), []).append(one)
    return [NoticeGroup(kind, some, about.get(id_)) for (id_, kind), some in groups.items()]
