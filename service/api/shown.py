"""What the API shows of the record, field by field. Secrets are not shown: user_data as its size, no callback URL.

Each key here is part of the surface that stays: none is renamed or taken away within /v1.
"""

from collections.abc import Mapping
from typing import Any, Final

from service.core.create_body import VmSpec
from service.core.vm import Vm
from service.storage.orphans import Orphan
from service.storage.submissions import Submission, Tally

_AS_KEPT: Final = (
    "provider_id", "name", "state", "provider_status", "state_since", "ready", "stuck", "reason", "assignment",
    "flavor", "environment", "region", "gpu_model", "gpu_count", "wants_address", "fixed_ip", "floating_ip",
    "on_demand_since", "on_demand_seconds", "wish", "wish_reason", "member", "replaces", "replaced_by",
    "created_at", "bound_at", "active_at", "ready_at", "ended_at", "next_reading_at",
)  # fmt: skip


def submission(kept: Submission, tally: Tally) -> dict[str, Any]:
    """A submission, and how its VMs stand. `counts` are its members by state."""
    return {
        "submission_id": kept.submission_id,
        "name": kept.name,
        "state": kept.state,
        "count": kept.count,
        "counts": dict(tally.by_state),
        "ready": tally.ready,
        "on_contract": tally.on_contract,
        "on_demand": tally.on_demand,
        "stuck": tally.stuck,
        "reasons": kept.reasons,
        "warnings": kept.warnings,
        "requested_by": kept.requested_by,
        "created_at": kept.created_at,
        "deadline_at": kept.deadline_at,
        "ended_at": kept.ended_at,
        "spec": spec(kept.spec),
        "policy": kept.policy,
    }


def spec(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a submission, fit to be shown."""
    if "user_data" not in kept:
        return dict(kept)
    # Constructed and not validated: a spec that an older release took must show in a stricter one.
    secret: dict[str, Any] = {"user_data": str(kept["user_data"])}
    return {**kept, **VmSpec.model_construct(**secret).redacted()}


def vm(kept: Vm) -> dict[str, Any]:
    """A VM. `contract_id` is the contract it is on, as the provider shows it; `contract_wanted` the one asked for."""
    return {
        "submission_id": kept.submission_id,
        "vm_no": kept.vm_no,
        "ref": ref(kept),
        "creation_no": kept.creation_no,
        "contract_id": kept.contract_seen,
        "contract_wanted": kept.contract_id,
        **{name: getattr(kept, name) for name in _AS_KEPT},
    }


def ref(kept: Vm) -> str:
    """The name of a VM that it has from the beginning: SUBMISSION.N."""
    return f"{kept.submission_id}.{kept.vm_no}"


def orphan(kept: Orphan) -> dict[str, Any]:
    return {
        "submission_id": kept.submission_id,
        "creation_no": kept.creation_no,
        "provider_id": kept.provider_id,
        "name": kept.name,
        "state": kept.state,
        "reason": kept.reason,
        "found_at": kept.found_at,
        "ended_at": kept.ended_at,
    }
