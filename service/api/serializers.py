"""Response fields: the record as the API returns it. Secrets are left out: user_data becomes its size.

Fields are part of the API: none is renamed or removed within /v1.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

from service.core.ids import FLEET
from service.core.vm import Vm, on_demand_seconds_until
from service.queries.as_of import OffContract, VmAsOf
from service.storage.actions import Action
from service.storage.messages import Message
from service.storage.orphans import Orphan
from service.storage.submissions import Submission, Tally

VM_FIELDS: Final = (
    "submission_id", "vm_no", "creation_no", "provider_id", "name", "state", "provider_status", "state_since", "ready",
    "stuck", "reason", "assignment", "flavor", "environment", "alternative", "region", "gpu_model", "gpu_count", "wants_address",
    "fixed_ip", "floating_ip", "on_demand_since", "on_demand_seconds", "desired_state", "deletion_reason", "member", "replaces",
    "replaced_by", "created_at", "bound_at", "active_at", "ready_at", "ended_at", "next_refresh_at",
)  # fmt: skip
SUBMISSION_FIELDS: Final = (
    "submission_id", "name", "origin", "state", "count", "reasons", "warnings", "requested_by", "created_at", "deadline_at",
    "ended_at", "cancelled_at", "limit_reached_at", "limit_issue", "expires_at", "maintain_stopped_at", "spec", "policy",
)  # fmt: skip
ACTION_FIELDS: Final = ("kind", "caller", "at")
ORPHAN_FIELDS: Final = (
    "submission_id", "creation_no", "provider_id", "name", "state", "reason", "found_at", "ended_at",
)  # fmt: skip
MESSAGE_FIELDS: Final = (
    "message_id", "submission_id", "target", "seq", "kind", "text", "state", "attempts", "status", "error", "created_at",
    "due_at", "give_up_at", "ended_at",
)  # fmt: skip
VM_AS_OF_FIELDS: Final = (
    "submission_id", "vm_no", "provider_id", "name", "flavor", "region", "state", "since", "contract_requested",
    "contract_outcome", "off_contract",
)  # fmt: skip
OFF_CONTRACT_FIELDS: Final = (
    "submission_id", "vm_no", "provider_id", "name", "flavor", "gpu_model", "gpu_count", "contract_requested", "since",
    "until", "seconds",
)  # fmt: skip


class HasVmKey(Protocol):
    """A record with the key of a VM."""

    @property
    def submission_id(self) -> UUID: ...

    @property
    def vm_no(self) -> int: ...


def submission(
    record: Submission, tally: Tally, performed: Iterable[Action], *, next_attempt_at: datetime | None = None
) -> dict[str, Any]:
    """A submission, with the counts of its VMs and the actions on it as a whole. `counts` are its members by state."""
    return {
        **_fields(record, SUBMISSION_FIELDS),
        "spec": spec(record.spec),
        "notify_url": record.notify and record.notify["shown"],
        "counts": dict(tally.by_state),
        "ready": tally.ready,
        "current": {"ready": tally.ready, "count": tally.alive},
        "on_contract": tally.on_contract,
        "on_demand": tally.on_demand,
        "stuck": tally.stuck,
        "next_attempt_at": next_attempt_at,
        "actions": [_fields(one, ACTION_FIELDS) for one in performed],
    }


def spec(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a submission, without its secrets: `user_data` is shown by its size and digest."""
    secret = stored.get("user_data")
    return dict(stored) if secret is None else {**stored, "user_data": secret["summary"]}


def vm(record: Vm, now: datetime) -> dict[str, Any]:
    """A VM. `contract_id` is the contract it is on at the provider; `contract_requested` the one it should be on."""
    return {
        **_fields(record, VM_FIELDS),
        # The record counts a period only once it is over; the response includes the running one.
        "on_demand_seconds": round(on_demand_seconds_until(record, now), 3),
        "ref": ref(record),
        "contract_id": record.observed_contract_id,
        "contract_requested": record.contract_id,
    }


def ref(vm: HasVmKey) -> str:
    """The name that a VM has from the beginning: SUBMISSION.N."""
    return f"{vm.submission_id}.{vm.vm_no}"


def vm_as_of(record: VmAsOf) -> dict[str, Any]:
    """A VM as it was. Its evidence is what moved it last, or its own row if nothing had."""
    evidence: dict[str, object] = {"kind": "record", "id": ref(record)}
    if record.evidence is not None:
        evidence = {"kind": record.evidence, "id": record.evidence_id}
    return {**_fields(record, VM_AS_OF_FIELDS), "ref": ref(record), "evidence": evidence}


def off_contract(record: OffContract) -> dict[str, Any]:
    return {**_fields(record, OFF_CONTRACT_FIELDS), "ref": ref(record)}


def orphan(record: Orphan) -> dict[str, Any]:
    return _fields(record, ORPHAN_FIELDS)


def message(record: Message) -> dict[str, Any]:
    """A message to a target. `submission_id` is null if it is about the whole fleet."""
    return {
        **_fields(record, MESSAGE_FIELDS),
        "submission_id": None if record.submission_id == FLEET else record.submission_id,
    }


def _fields(record: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}
