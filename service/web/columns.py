"""The columns of the dashboard's tables."""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from service.web.rendering import PageColumn


def _to_submission(one: dict[str, Any]) -> str:
    return f"/submissions/{one['submission_id']}"


def _to_vm(one: dict[str, Any]) -> str:
    return f"/vms/{one['ref']}"


def _to_vm_of_event(one: dict[str, Any]) -> str | None:
    return None if one["provider_id"] is None else f"/vms/{one['provider_id']}"


def _contract(one: dict[str, Any]) -> str:
    if one["contract_requested"] is None:
        return ""
    return f"{one['contract_requested']} {str(one['assignment']).replace('_', ' ')}"


def _result(one: dict[str, Any]) -> str:
    if one["waiting"]:
        return "waiting"
    return one["dead_letter"]["kind"].replace("_", " ") if one["dead_letter"] else "applied"


def _outcome(one: dict[str, Any]) -> str:
    return one["outcome"] or "no end on record"


SUBMISSIONS: Final = (
    PageColumn(name="submission", read=lambda one: one["submission_id"][:13], link=_to_submission),
    PageColumn(name="name", read=lambda one: one["name"], link=_to_submission),
    PageColumn(name="state", read=lambda one: one["state"], kind="state"),
    PageColumn(name="ready", read=lambda one: one["ready"], kind="number"),
    PageColumn(name="of", read=lambda one: one["count"], kind="number"),
    PageColumn(name="stuck", read=lambda one: one["stuck"], kind="number"),
    PageColumn(name="on demand", read=lambda one: one["on_demand"], kind="number"),
    PageColumn(name="caller", read=lambda one: one["requested_by"]),
    PageColumn(name="created", read=lambda one: one["created_at"], kind="time"),
    PageColumn(name="reason", read=lambda one: "; ".join(one["reasons"])),
)
VMS: Final = (
    PageColumn(name="vm", read=lambda one: f"{one['submission_id'][:13]}.{one['vm_no']}", link=_to_vm),
    PageColumn(name="name", read=lambda one: one["name"], link=_to_vm),
    PageColumn(name="state", read=lambda one: one["state"], kind="state"),
    PageColumn(name="ready", read=lambda one: one["ready"]),
    PageColumn(name="stuck", read=lambda one: one["stuck"]),
    PageColumn(name="contract", read=_contract),
    PageColumn(name="flavor", read=lambda one: one["flavor"]),
    PageColumn(name="region", read=lambda one: one["region"]),
    PageColumn(name="address", read=lambda one: one["floating_ip"] or one["fixed_ip"]),
    PageColumn(name="since", read=lambda one: one["state_since"], kind="time"),
    PageColumn(name="known by", read=lambda one: one["corroboration"]),
    PageColumn(name="reason", read=lambda one: one["reason"] or one["deletion_reason"]),
)
VMS_AS_OF: Final = (
    PageColumn(name="vm", read=lambda one: f"{one['submission_id'][:13]}.{one['vm_no']}", link=_to_vm),
    PageColumn(name="name", read=lambda one: one["name"]),
    PageColumn(name="state", read=lambda one: one["state"], kind="state"),
    PageColumn(name="since", read=lambda one: one["since"], kind="time"),
    PageColumn(name="known by", read=lambda one: one["corroboration"]),
    PageColumn(name="contract", read=lambda one: one["contract_requested"]),
    PageColumn(name="off contract", read=lambda one: one["off_contract"]),
    PageColumn(name="flavor", read=lambda one: one["flavor"]),
    PageColumn(name="region", read=lambda one: one["region"]),
)
DELIVERIES: Final = (
    PageColumn(name="received", read=lambda one: one["received_at"], kind="time",
               link=lambda one: f"/events/{one['event_id']}"),
    PageColumn(name="result", read=_result, kind="state"),
    PageColumn(name="vm", read=lambda one: one["provider_id"], link=_to_vm_of_event),
    PageColumn(name="operation", read=lambda one: one["operation"]),
    PageColumn(name="status", read=lambda one: one["status"]),
    PageColumn(name="submission", read=lambda one: one["submission_id"][:13], link=_to_submission),
    PageColumn(name="from", read=lambda one: one["peer"]),
    PageColumn(name="reason", read=lambda one: one["dead_letter"]["reason"] if one["dead_letter"] else None),
)  # fmt: skip
CALLS: Final = (
    PageColumn(name="begun", read=lambda one: one["begun_at"], kind="time"),
    PageColumn(name="operation", read=lambda one: one["operation"]),
    PageColumn(name="outcome", read=_outcome, kind="state"),
    PageColumn(name="code", read=lambda one: one["status"], kind="number"),
    PageColumn(name="ms", read=lambda one: one["ms"], kind="number"),
    PageColumn(name="submission", read=lambda one: one["submission_id"] and one["submission_id"][:13],
               link=lambda one: one["submission_id"] and _to_submission(one)),
    PageColumn(name="error", read=lambda one: one["error"]),
)  # fmt: skip
MESSAGES: Final = (
    PageColumn(name="created", read=lambda one: one["created_at"], kind="time",
               link=lambda one: f"/notifications/{one['message_id']}"),
    PageColumn(name="target", read=lambda one: one["target"]),
    PageColumn(name="number", read=lambda one: one["seq"], kind="number"),
    PageColumn(name="state", read=lambda one: one["state"], kind="state"),
    PageColumn(name="attempts", read=lambda one: one["attempts"], kind="number"),
    PageColumn(name="kind", read=lambda one: one["kind"]),
    PageColumn(name="text", read=lambda one: one["text"]),
    PageColumn(name="submission", read=lambda one: one["submission_id"] and one["submission_id"][:13],
               link=lambda one: one["submission_id"] and _to_submission(one)),
    PageColumn(name="error", read=lambda one: one["error"]),
)  # fmt: skip
TARGETS: Final = (
    PageColumn(name="target", read=lambda one: one["name"]),
    PageColumn(name="to", read=lambda one: one["to"]),
    PageColumn(name="events", read=lambda one: ", ".join(one["events"])),
    PageColumn(name="labels", read=lambda one: ", ".join(one["labels"])),
    PageColumn(name="failures in a row", read=lambda one: one["failures"], kind="number"),
    PageColumn(name="error", read=lambda one: one["error"]),
    PageColumn(name="next", read=lambda one: one["due_at"], kind="time"),
)
ORPHANS: Final = (
    PageColumn(name="provider id", read=lambda one: one["provider_id"], kind="number"),
    PageColumn(name="name", read=lambda one: one["name"]),
    PageColumn(name="state", read=lambda one: one["state"], kind="state"),
    PageColumn(name="found", read=lambda one: one["found_at"], kind="time"),
    PageColumn(name="submission", read=lambda one: one["submission_id"][:13], link=_to_submission),
    PageColumn(name="reason", read=lambda one: one["reason"]),
)
OFF_CONTRACT: Final = (
    PageColumn(name="vm", read=lambda one: f"{one['submission_id'][:13]}.{one['vm_no']}", link=_to_vm),
    PageColumn(name="name", read=lambda one: one["name"]),
    PageColumn(name="contract", read=lambda one: one["contract_requested"], kind="number"),
    PageColumn(name="since", read=lambda one: one["since"], kind="time"),
    PageColumn(name="until", read=lambda one: one["until"], kind="time"),
    PageColumn(name="seconds", read=lambda one: one["seconds"], kind="number"),
)


def _percentiles(name: str) -> tuple[PageColumn, ...]:
    def column(measure: str) -> PageColumn:
        return PageColumn(name=f"{name} {measure}", read=lambda one: one[name][measure], kind="number")

    return tuple(map(column, ("p50", "p90", "p99")))


EXPORTS: Final = (
    PageColumn(name="at", read=lambda one: one["at"], kind="time"),
    PageColumn(name="what", read=lambda one: one["text"]),
)
TIMES: Final = (
    PageColumn(name="of", read=lambda one: one["key"]),
    PageColumn(name="VMs", read=lambda one: one["vms"], kind="number"),
    PageColumn(name="were ready", read=lambda one: one["ready"]["count"], kind="number"),
    *_percentiles("creating"),
    *_percentiles("active"),
    *_percentiles("ready"),
)
FAILURES: Final = (
    PageColumn(name="kind", read=lambda one: one["kind"]),
    PageColumn(name="failed", read=lambda one: one["what"].replace("_", " ")),
    PageColumn(name="reason", read=lambda one: one["reason"]),
    PageColumn(name="count", read=lambda one: one["count"], kind="number"),
)
AVAILABILITY: Final = (
    PageColumn(name="fleet", read=lambda one: one["submission_id"][:13], link=_to_submission),
    PageColumn(name="name", read=lambda one: one["name"], link=_to_submission),
    PageColumn(name="VMs", read=lambda one: one["asked"], kind="number"),
    PageColumn(name="share", read=lambda one: one["share"], kind="number"),
    PageColumn(name="seconds", read=lambda one: one["seconds"], kind="number"),
    PageColumn(name="complete", read=lambda one: one["available_seconds"], kind="number"),
    PageColumn(name="starting", read=lambda one: one["starting_seconds"], kind="number"),
)


def _limit(kind: str) -> PageColumn:
    """What a token has of a limit: `12 of 40`."""

    def read(one: dict[str, Any]) -> str | None:
        limit, held = one[f"max_{kind}"], one["holds"]
        return limit if limit is None or held is None else f"{held[kind]} of {limit}"

    return PageColumn(name={"vms": "VMs", "gpus": "GPUs"}.get(kind, "per hour"), read=read, kind="number")


TOKENS: Final = (
    PageColumn(name="name", read=lambda one: one["name"]),
    PageColumn(name="role", read=lambda one: one["role"]),
    PageColumn(name="state", read=lambda one: one["state"], kind="state"),
    PageColumn(name="source", read=lambda one: one["source"]),
    PageColumn(name="last used", read=lambda one: one["last_used_at"], kind="time"),
    PageColumn(name="expires", read=lambda one: one["expires_at"], kind="time"),
    *map(_limit, ("vms", "gpus", "price_per_hour")),
    PageColumn(name="a minute", read=lambda one: one["requests_per_minute"], kind="number"),
    PageColumn(name="created", read=lambda one: one["created_at"], kind="time"),
    PageColumn(name="by", read=lambda one: one["created_by"]),
)


def _can_be_revoked(one: dict[str, Any]) -> bool:
    return bool(one["source"] == "database" and one["state"] == "valid")


def with_revoke(columns: Sequence[PageColumn]) -> tuple[PageColumn, ...]:
    """The columns of tokens, and one that leads to revoking a token."""
    revoke = PageColumn(
        name="",
        read=lambda one: "Revoke …" if _can_be_revoked(one) else None,
        link=lambda one: f"/tokens/{quote(one['name'])}/revoke" if _can_be_revoked(one) else None,
    )
    return (*columns, revoke)


def cost_columns(by: str) -> tuple[PageColumn, ...]:
    """The columns of a cost report by a key."""
    of_key = PageColumn(
        name=by,
        read=lambda one: one["key"],
        link=lambda one: f"/submissions/{one['key']}" if by == "submission" else None,
    )
    return (
        of_key,
        PageColumn(name="VMs", read=lambda one: one["vms"], kind="number"),
        PageColumn(name="estimate", read=lambda one: one["estimate"], kind="money"),
        PageColumn(name="off contract", read=lambda one: one["off_contract_estimate"], kind="money"),
        PageColumn(name="VM time", read=lambda one: one["billed_seconds"], kind="span"),
        PageColumn(name="at an unknown price", read=lambda one: one["unknown_seconds"], kind="span"),
    )
