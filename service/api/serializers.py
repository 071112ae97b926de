"""What the API shows of the record, field by field. Secrets are not shown: user_data as its size, no callback URL.

Each key here is part of the surface that stays: none is renamed or taken away within /v1.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

from service.core.create_body import VmSpec
from service.core.vm import Vm, on_demand_seconds_until
from service.queries.as_of import OffContract, VmAsOf
from service.storage.actions import Action
from service.storage.orphans import Orphan
from service.storage.submissions import Submission, Tally

VM_FIELDS: Final = (
    "submission_id", "vm_no", "creation_no", "provider_id", "name", "state", "provider_status", "state_since", "ready",
    "stuck", "reason", "assignment", "flavor", "environment", "region", "gpu_model", "gpu_count", "wants_address",
    "fixed_ip", "floating_ip", "on_demand_since", "on_demand_seconds", "desired_state", "deletion_reason", "member", "replaces",
    "replaced_by", "created_at", "bound_at", "active_at", "ready_at", "ended_at", "next_refresh_at",
)  # fmt: skip
SUBMISSION_FIELDS: Final = (
    "submission_id", "name", "state", "count", "reasons", "warnings", "requested_by", "created_at", "deadline_at",
    "ended_at", "cancelled_at", "spec", "policy",
)  # fmt: skip
ACTION_FIELDS: Final = ("kind", "caller", "at")
ORPHAN_FIELDS: Final = (
    "submission_id", "creation_no", "provider_id", "name", "state", "reason", "found_at", "ended_at",
)  # fmt: skip
VM_AS_OF_FIELDS: Final = (
    "submission_id", "vm_no", "provider_id", "name", "flavor", "region", "state", "since", "contract_requested",
    "contract_outcome", "off_contract",
)  # fmt: skip
OFF_CONTRACT_FIELDS: Final = (
    "submission_id", "vm_no", "provider_id", "name", "flavor", "gpu_model", "gpu_count", "contract_requested", "since",
    "until", "seconds",
)  # fmt: skip


class Named(Protocol):
    """What has the key of a VM."""

    @property
    def submission_id(self) -> UUID: ...

    @property
    def vm_no(self) -> int: ...


def submission(kept: Submission, tally: Tally, asked: Iterable[Action]) -> dict[str, Any]:
    """A submission, how its VMs stand, and what was asked of it as a whole. `counts` are its members by state."""
    return {
        **_as_kept(kept, SUBMISSION_FIELDS),
        "spec": spec(kept.spec),
        "counts": dict(tally.by_state),
        "ready": tally.ready,
        "on_contract": tally.on_contract,
        "on_demand": tally.on_demand,
        "stuck": tally.stuck,
        "requests": [_as_kept(one, ACTION_FIELDS) for one in asked],
    }


def spec(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a submission, fit to be shown."""
    if "user_data" not in kept:
        return dict(kept)
    # Constructed and not validated: a spec that an older release took must show in a stricter one.
    secret: dict[str, Any] = {"user_data": str(kept["user_data"])}
    return {**kept, **VmSpec.model_construct(**secret).redacted()}


def vm(kept: Vm, now: datetime) -> dict[str, Any]:
    """A VM. `contract_id` is the contract it is on, as the provider shows it; `contract_requested` the one asked for."""
    return {
        **_as_kept(kept, VM_FIELDS),
        # The record is added to only when the time is over; whoever pays wants to know before that.
        "on_demand_seconds": round(on_demand_seconds_until(kept, now), 3),
        "ref": ref(kept),
        "contract_id": kept.observed_contract_id,
        "contract_requested": kept.contract_id,
    }


def ref(kept: Named) -> str:
    """The name of a VM that it has from the beginning: SUBMISSION.N."""
    return f"{kept.submission_id}.{kept.vm_no}"


def vm_as_of(kept: VmAsOf) -> dict[str, Any]:
    """A VM as it was. Its evidence is what had moved it last, or that it was asked for."""
    evidence: dict[str, object] = {"kind": "record", "id": ref(kept)}
    if kept.evidence is not None:
        evidence = {"kind": kept.evidence, "id": kept.evidence_id}
    return {**_as_kept(kept, VM_AS_OF_FIELDS), "ref": ref(kept), "evidence": evidence}


def off_contract(kept: OffContract) -> dict[str, Any]:
    return {**_as_kept(kept, OFF_CONTRACT_FIELDS), "ref": ref(kept)}


def orphan(kept: Orphan) -> dict[str, Any]:
    return _as_kept(kept, ORPHAN_FIELDS)


def _as_kept(kept: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(kept, name) for name in names}
