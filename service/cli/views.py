"""What people see of each thing: the columns of the lists, and the facts of a single one. No asking, no printing."""

from typing import Any, Final

from service.cli.output import Column, age_of, counts, span, time_of


def _contract(one: dict[str, Any]) -> str:
    if one["contract_requested"] is None:
        return ""
    if one["assignment"] == "assigned":
        return str(one["contract_id"])
    return f"{one['contract_requested']} {one['assignment'].replace('_', ' ')}"


def _contract_then(one: dict[str, Any]) -> str:
    if one["contract_requested"] is None:
        return ""
    off = " (off contract)" if one["off_contract"] else ""
    return f"{one['contract_requested']} {(one['contract_outcome'] or 'wanted').replace('_', ' ')}{off}"


def _gpus(one: dict[str, Any]) -> str:
    return "not known" if one["gpu_count"] is None else f"{one['gpu_count']} x {one['gpu_model'] or 'GPU'}"


def _evidence(one: dict[str, Any]) -> str:
    # The end of an id is enough to tell it from the others; --json has all of it.
    found = one["evidence"]
    short = found["kind"] in {"record", "assignment"} or not found.get("id")
    return str(found["kind"]) if short else f"{found['kind']} {found['id'][-8:]}"


def _of_creation(one: dict[str, Any]) -> str:
    # The end of the submission's id, as in the names of its VMs.
    number = "" if one["creation_no"] is None else f"/{one['creation_no']}"
    return f"{one['submission_id'][-12:]}{number}"


def _said(one: dict[str, Any]) -> str:
    said = " ".join(filter(None, (one["operation"], one["status"])))
    waits = "(waits to be applied)" if one["waiting"] else ""
    return " ".join(filter(None, (said, _dead_letter(one), waits)))


def _dead_letter(one: dict[str, Any]) -> str | None:
    letter = one["dead_letter"]
    return f"{letter['kind'].replace('_', ' ')}: {letter['reason']}" if letter else None


def _about(one: dict[str, Any]) -> str:
    # What can be given to `rollcall vm`, where there is such a name; else whose creation it was.
    if one["provider_id"] is not None:
        return str(one["provider_id"])
    return _of_creation(one) if one["submission_id"] else "fleet"


def _came(one: dict[str, Any]) -> str:
    return ": ".join(filter(None, (one["outcome"] or "no end on record", one["error"])))


def _at(text: str) -> str:
    return text[:23].replace("T", " ").rstrip("Z")


SUBMISSIONS: Final[tuple[Column, ...]] = (
    ("submission", lambda one: one["submission_id"]),
    ("name", lambda one: one["name"]),
    ("state", lambda one: one["state"]),
    ("ready", lambda one: f"{one['ready']}/{one['count']}"),
    ("on contract", lambda one: one["on_contract"]),
    ("on demand", lambda one: one["on_demand"]),
    ("VMs", lambda one: counts(one["counts"])),
    ("age", lambda one: age_of(one["created_at"])),
)
VMS: Final[tuple[Column, ...]] = (
    ("ref", lambda one: one["ref"]),
    ("provider id", lambda one: one["provider_id"]),
    ("name", lambda one: one["name"]),
    ("state", lambda one: one["state"]),
    ("since", lambda one: age_of(one["state_since"])),
    ("ready", lambda one: one["ready"]),
    ("contract", _contract),
    ("address", lambda one: one["floating_ip"] or one["fixed_ip"]),
    ("region", lambda one: one["region"]),
    ("reason", lambda one: one["reason"] or one["deletion_reason"]),
)
ORPHANS: Final[tuple[Column, ...]] = (
    ("provider id", lambda one: one["provider_id"]),
    ("name", lambda one: one["name"]),
    ("state", lambda one: one["state"]),
    ("found", lambda one: time_of(one["found_at"])),
    ("submission", lambda one: one["submission_id"]),
    ("reason", lambda one: one["reason"]),
)
TIMELINE: Final[tuple[Column, ...]] = (
    ("at", lambda one: _at(one["at"])),
    ("what happened", lambda one: one["text"]),
    ("evidence", _evidence),
)
VMS_AS_OF: Final[tuple[Column, ...]] = (
    ("ref", lambda one: one["ref"]),
    ("provider id", lambda one: one["provider_id"]),
    ("name", lambda one: one["name"]),
    ("state", lambda one: one["state"]),
    ("since", lambda one: time_of(one["since"])),
    ("moved by", _evidence),
    ("contract", _contract_then),
    ("region", lambda one: one["region"]),
)
OFF_CONTRACT: Final[tuple[Column, ...]] = (
    ("ref", lambda one: one["ref"]),
    ("provider id", lambda one: one["provider_id"]),
    ("name", lambda one: one["name"]),
    ("GPUs", _gpus),
    ("flavor", lambda one: one["flavor"]),
    ("contract wanted", lambda one: one["contract_requested"]),
    ("since", lambda one: time_of(one["since"])),
    ("until", lambda one: time_of(one["until"]) or "goes on"),
    ("for", lambda one: span(one["seconds"])),
)
EVENTS: Final[tuple[Column, ...]] = (
    ("received", lambda one: time_of(one["received_at"])),
    ("event", lambda one: one["event_id"]),
    ("creation", _of_creation),
    ("provider id", lambda one: one["provider_id"]),
    ("what it says", _said),
)
CALLS: Final[tuple[Column, ...]] = (
    ("begun", lambda one: _at(one["begun_at"])),
    ("call", lambda one: one["call_id"][-8:]),
    ("operation", lambda one: one["operation"]),
    ("about", _about),
    ("ms", lambda one: one["ms"]),
    ("status", lambda one: one["status"]),
    ("what came of it", _came),
)


def submission(found: dict[str, Any]) -> dict[str, object]:
    return {
        "state": found["state"],
        "ready": f"{found['ready']} of {found['count']}",
        "VMs": counts(found["counts"]),
        "on contract": found["on_contract"],
        "on demand": found["on_demand"],
        "stuck": found["stuck"],
        "asked for": f"{time_of(found['created_at'])} by {found['requested_by']}",
        "deadline": time_of(found["deadline_at"]),
        "ended": time_of(found["ended_at"]),
        "cancelled": "; ".join(
            f"{time_of(one['at'])} by {one['caller']}" for one in found["requests"] if one["kind"] == "cancel"
        ),
    }


def vm(found: dict[str, Any]) -> dict[str, object]:
    return {
        "provider id": found["provider_id"],
        "name": found["name"],
        "state": found["state"],
        "ready": found["ready"],
        "stuck": found["stuck"] or None,
        "why": found["reason"],
        "contract": _contract(found),
        "on demand for": span(found["on_demand_seconds"]) if found["on_demand_seconds"] else None,
        "flavor": found["flavor"],
        "region": found["region"],
        "addresses": " ".join(filter(None, (found["floating_ip"], found["fixed_ip"]))),
        "desired_state": f"gone: {found['deletion_reason']}" if found["desired_state"] == "deleted" else None,
        "replaces": found["replaces"],
        "replaced by": found["replaced_by"],
        "asked for": time_of(found["created_at"]),
        "ready at": time_of(found["ready_at"]),
        "ended": time_of(found["ended_at"]),
    }


def event(found: dict[str, Any]) -> dict[str, object]:
    return {
        "submission": found["submission_id"],
        "creation": found["creation_no"],
        "received": found["received_at"].replace("T", " "),
        "source": found["source"],
        "peer": found["peer"],
        "provider id": found["provider_id"],
        "operation": found["operation"],
        "says": found["status"],
        "dead letters": _dead_letter(found),
        "waiting": found["waiting"] or None,
        "SHA-256": found["digest"],
        "note": None if found["digest"] else "the event has left the database with its month",
    }


def body_facts(found: dict[str, Any]) -> dict[str, object]:
    struck = "callback tokens struck out, so that the SHA-256 is not that of what is shown"
    return {
        "shown as": "text" if found["encoding"] == "utf-8" else "base64, since it is not UTF-8",
        "altered": struck if found["redacted"] else None,
    }


def body(found: dict[str, Any]) -> str:
    """A body for a terminal, which must not take any of it for a command."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else f"\\x{ord(sign):02x}" for sign in found["content"])


def fleet(fleet: dict[str, Any]) -> dict[str, object]:
    ready_in = {name: seconds for name, seconds in fleet["seconds_to_ready"].items() if seconds is not None}
    return {
        "alive": fleet["alive"],
        "ready": fleet["ready"],
        "stuck": fleet["stuck"],
        "by state": counts(fleet["by_state"]),
        "by assignment": counts(fleet["by_assignment"]),
        "by region": counts(fleet["by_region"]),
        "by flavor": counts(fleet["by_flavor"]),
        "by contract": counts(fleet["by_contract"]),
        "off contract": fleet["off_contract"],
        "on demand for": span(fleet["on_demand_seconds"]),
        "time to ready": ", ".join(f"{name} {span(seconds)}" for name, seconds in ready_in.items()),
        "submissions": counts(fleet["submissions"]),
        "orphans": counts(fleet["orphans"]),
        "dead letters": counts(fleet["dead_letters"]),
        "callbacks waiting": fleet["events_waiting"],
    }


def fleet_as_of(fleet: dict[str, Any]) -> dict[str, object]:
    return {
        "alive": fleet["alive"],
        "been ready": fleet["ever_ready"],
        "off contract": fleet["off_contract"],
        "by state": counts(fleet["by_state"]),
        "by region": counts(fleet["by_region"]),
        "by flavor": counts(fleet["by_flavor"]),
    }


def off_contract(period: dict[str, Any]) -> dict[str, object]:
    total = period["total"]
    return {
        "since": time_of(period["since"]) or "the beginning",
        "until": time_of(period["until"]),
        "VMs": total["vms"],
        "seconds": f"{total['seconds']:.0f} ({span(total['seconds'])})",
        "GPU seconds": f"{total['gpu_seconds']:.0f} ({span(total['gpu_seconds'])})",
        "GPUs not known": span(total["seconds_of_unknown_gpus"]) if total["seconds_of_unknown_gpus"] else None,
    }


def evidence_counts(evidence_counts: dict[str, Any]) -> dict[str, object]:
    told = {f"events by {source}": counts(numbers) for source, numbers in evidence_counts["events"].items()}
    called = {f"{operation} calls": counts(outcomes) for operation, outcomes in evidence_counts["calls"].items()}
    return {**told, "moves by": counts(evidence_counts["moves"]), **called}
