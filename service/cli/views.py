"""What people see of each resource: the columns of its list, and the facts of a single one. No calls, no printing."""

import re
from collections.abc import Mapping
from typing import Any, Final

from service.cli.known_by import KNOWN_BY
from service.cli.output import Column, age_of, counts, minute_of, span, time_of
from service.core.printable import escape


def _contract(one: Mapping[str, Any]) -> str:
    if one["contract_requested"] is None:
        return ""
    if one["assignment"] == "assigned":
        return str(one["contract_id"])
    return f"{one['contract_requested']} {one['assignment'].replace('_', ' ')}"


def _contract_then(one: Mapping[str, Any]) -> str:
    if one["contract_requested"] is None:
        return ""
    off = " (off contract)" if one["off_contract"] else ""
    return f"{one['contract_requested']} {(one['contract_outcome'] or 'wanted').replace('_', ' ')}{off}"


def _gpus(one: Mapping[str, Any]) -> str:
    return "not known" if one["gpu_count"] is None else f"{one['gpu_count']} x {one['gpu_model'] or 'GPU'}"


def _evidence(one: Mapping[str, Any]) -> str:
    # The end of an id tells it from the others; --json has all of it.
    found = one["evidence"]
    short = found["kind"] in {"record", "assignment"} or not found.get("id")
    return str(found["kind"]) if short else f"{found['kind']} {found['id'][-8:]}"


def _of_creation(one: Mapping[str, Any]) -> str:
    # The end of the submission's id, as in the names of its VMs.
    number = "" if one["creation_no"] is None else f"/{one['creation_no']}"
    return f"{one['submission_id'][-12:]}{number}"


def _content(one: Mapping[str, Any]) -> str:
    content = " ".join(filter(None, (one["operation"], one["status"])))
    waiting = "(waits to be applied)" if one["waiting"] else ""
    return " ".join(filter(None, (content, _dead_letter(one), waiting)))


def _dead_letter(one: Mapping[str, Any]) -> str | None:
    letter = one["dead_letter"]
    return f"{letter['kind'].replace('_', ' ')}: {letter['reason']}" if letter else None


def _about(one: Mapping[str, Any]) -> str:
    # What `rollcall vm` takes, if there is such a name; else the creation.
    if one["provider_id"] is not None:
        return str(one["provider_id"])
    return _of_creation(one) if one["submission_id"] else "fleet"


def _outcome(one: Mapping[str, Any]) -> str:
    return ": ".join(filter(None, (one["outcome"] or "no end on record", one["error"])))


def at_of(text: str) -> str:
    return text[:23].replace("T", " ").rstrip("Z")


def _short_id(text: str) -> str:
    # The first 48 bits of a UUID v7 are its time in milliseconds: enough to tell submissions apart and to be given
    # back to a command.
    return text[:13]


def short_ref(one: Mapping[str, Any]) -> str:
    return f"{_short_id(one['submission_id'])}.{one['vm_no']}"


SUBMISSIONS: Final = (
    Column("submission", lambda one: one["submission_id"], short=lambda one: _short_id(one["submission_id"])),
    Column("name", lambda one: one["name"], clips=True),
    Column("state", lambda one: one["state"]),
    Column("ready", lambda one: f"{one['ready']}/{one['count']}"),
    Column("on contract", lambda one: one["on_contract"], wide=True),
    Column("on demand", lambda one: one["on_demand"], wide=True),
    Column("age", lambda one: age_of(one["created_at"])),
    Column("VMs", lambda one: counts(one["counts"]), wraps=True),
)
VMS: Final = (
    Column("ref", lambda one: one["ref"], short=short_ref),
    Column("provider id", lambda one: one["provider_id"], wide=True),
    Column("name", lambda one: one["name"], clips=True),
    Column("state", lambda one: one["state"]),
    Column("since", lambda one: age_of(one["state_since"])),
    Column("ready", lambda one: one["ready"]),
    Column("contract", _contract),
    Column("address", lambda one: one["floating_ip"] or one["fixed_ip"], wide=True),
    Column("region", lambda one: one["region"], wide=True),
    Column("known by", lambda one: one["corroboration"], wide=True),
    Column("reason", lambda one: one["reason"] or one["deletion_reason"], wide=True),
)
ORPHANS: Final = (
    Column("provider id", lambda one: one["provider_id"]),
    Column("name", lambda one: one["name"], clips=True),
    Column("state", lambda one: one["state"]),
    Column("found", lambda one: time_of(one["found_at"]), short=lambda one: minute_of(one["found_at"])),
    Column("submission", lambda one: one["submission_id"], wide=True),
    Column("reason", lambda one: one["reason"], wraps=True),
)
TIMELINE: Final = (
    Column("at", lambda one: at_of(one["at"])),
    Column("what happened", lambda one: one["text"], wraps=True),
    Column("evidence", _evidence),
)
VMS_AS_OF: Final = (
    Column("ref", lambda one: one["ref"], short=short_ref),
    Column("provider id", lambda one: one["provider_id"], wide=True),
    Column("name", lambda one: one["name"], clips=True),
    Column("state", lambda one: one["state"]),
    Column("since", lambda one: time_of(one["since"]), short=lambda one: minute_of(one["since"])),
    Column("moved by", _evidence, wide=True),
    Column("known by", lambda one: one["corroboration"], wide=True),
    Column("contract", _contract_then, wraps=True),
    Column("region", lambda one: one["region"], wide=True),
)
OFF_CONTRACT: Final = (
    Column("ref", lambda one: one["ref"], short=short_ref),
    Column("provider id", lambda one: one["provider_id"], wide=True),
    Column("name", lambda one: one["name"], wide=True),
    Column("GPUs", _gpus, clips=True),
    Column("flavor", lambda one: one["flavor"], wide=True),
    Column("contract", lambda one: one["contract_requested"]),
    Column("since", lambda one: time_of(one["since"]), short=lambda one: minute_of(one["since"])),
    Column(
        "until", lambda one: time_of(one["until"]) or "goes on", short=lambda one: minute_of(one["until"]) or "goes on"
    ),
    Column("for", lambda one: span(one["seconds"])),
)
EVENTS: Final = (
    Column("received", lambda one: time_of(one["received_at"])),
    Column("event", lambda one: one["event_id"]),
    Column("creation", _of_creation, wide=True),
    Column("provider id", lambda one: one["provider_id"], wide=True),
    Column("content", _content, wraps=True),
)
MESSAGES: Final = (
    Column("created", lambda one: at_of(one["created_at"]), short=lambda one: at_of(one["created_at"])[5:19]),
    Column("message", lambda one: one["message_id"], wide=True),
    Column("target", lambda one: one["target"]),
    Column("no", lambda one: one["seq"]),
    Column("state", lambda one: one["state"]),
    Column("tries", lambda one: one["attempts"]),
    Column("kind", lambda one: one["kind"], wide=True),
    Column("text", lambda one: one["text"], wraps=True),
    Column("error", lambda one: one["error"], wraps=True),
)
TARGETS: Final = (
    Column("target", lambda one: one["name"]),
    Column("to", lambda one: one["to"]),
    Column("events", lambda one: " ".join(one["events"]), wraps=True),
    Column("labels", lambda one: " ".join(one["labels"]), wide=True),
    Column("failures", lambda one: one["failures"]),
    Column("error", lambda one: one["error"], wraps=True),
)
CALLS: Final = (
    Column("begun", lambda one: at_of(one["begun_at"]), short=lambda one: at_of(one["begun_at"])[5:19]),
    Column("call", lambda one: one["call_id"][-8:], wide=True),
    Column("operation", lambda one: one["operation"]),
    Column("about", _about),
    Column("ms", lambda one: one["ms"]),
    Column("status", lambda one: one["status"], wide=True),
    Column("outcome", _outcome, wraps=True),
)


def standing_now(found: Mapping[str, Any]) -> str:
    """The state of a submission, and what has become of it since: `ready (36 of 40 now)`."""
    current = found["current"]
    if found["state"] != "ready" or current["ready"] == found["count"]:
        return str(found["state"])
    since = "all deleted since" if not current["count"] else f"{current['ready']} of {found['count']} now"
    return f"ready ({since})"


def submission(found: Mapping[str, Any]) -> dict[str, object]:
    return {
        "state": standing_now(found),
        "ready": f"{found['ready']} of {found['count']}",
        "VMs": counts(found["counts"]),
        "on contract": found["on_contract"],
        "on demand": found["on_demand"],
        "stuck": found["stuck"],
        "submitted": f"{time_of(found['created_at'])} by {found['requested_by']}",
        "deadline": time_of(found["deadline_at"]),
        "next attempt": time_of(found["next_attempt_at"]) if found["state"] == "open" else None,
        "ended": time_of(found["ended_at"]),
        "expires": _expires(found),
        "limit": found["limit_issue"],
        "maintain": _maintain(found),
        "cancelled": "; ".join(
            f"{time_of(one['at'])} by {one['caller']}" for one in found["actions"] if one["kind"] == "cancel"
        ),
    }


def _maintain(found: Mapping[str, Any]) -> str | None:
    """Whether VMs that fail after they were ready are replaced."""
    if found["maintain_stopped_at"]:
        return f"stopped {time_of(found['maintain_stopped_at'])}, because replacements kept failing"
    return "on" if (found["policy"].get("maintain") or {}).get("enabled") else None


def _expires(found: Mapping[str, Any]) -> str | None:
    """When the VMs are deleted by themselves."""
    if found["cancelled_at"]:
        return None
    if found["expires_at"]:
        return f"{time_of(found['expires_at'])}, when its VMs are deleted"
    lifetime = found["policy"].get("lifetime")
    return None if lifetime is None else f"{span(lifetime)} after it is ready"


def vm(found: Mapping[str, Any]) -> dict[str, object]:
    return {
        "provider id": found["provider_id"],
        "name": found["name"],
        "state": found["state"],
        "known by": KNOWN_BY.get(found.get("corroboration", "")),
        "ready": found["ready"],
        "stuck": found["stuck"] or None,
        "why": found["reason"],
        "contract": _contract(found),
        "on demand for": span(found["on_demand_seconds"]) if found["on_demand_seconds"] else None,
        "flavor": found["flavor"],
        "region": found["region"],
        "addresses": " ".join(filter(None, (found["floating_ip"], found["fixed_ip"]))),
        "desired state": f"deleted: {found['deletion_reason'] or 'no reason on record'}"
        if found["desired_state"] == "deleted"
        else None,
        "replaces": found["replaces"],
        "replaced by": found["replaced_by"],
        "submitted": time_of(found["created_at"]),
        "next refresh": time_of(found["next_refresh_at"]),
        "ready at": time_of(found["ready_at"]),
        "ended": time_of(found["ended_at"]),
    }


def message(found: Mapping[str, Any]) -> dict[str, object]:
    names = (
        "target", "seq", "kind", "text", "submission_id", "state", "attempts", "status", "error", "created_at", "due_at", "give_up_at", "ended_at"
    )  # fmt: skip
    return {name.replace("_", " "): found[name] for name in names}


def event(found: Mapping[str, Any]) -> dict[str, object]:
    return {
        "submission": found["submission_id"],
        "creation": found["creation_no"],
        "received": found["received_at"].replace("T", " "),
        "source": found["source"],
        "peer": found["peer"],
        "provider id": found["provider_id"],
        "operation": found["operation"],
        "status": found["status"],
        "dead letter": _dead_letter(found),
        "waiting": found["waiting"] or None,
        "SHA-256": found["digest"],
        "note": None if found["digest"] else "the event was dropped with its month; only the dead letter is left",
    }


def body_facts(found: Mapping[str, Any]) -> dict[str, object]:
    redacted = "callback tokens are redacted, so the SHA-256 is not that of this text"
    return {
        "encoding": "text" if found["encoding"] == "utf-8" else "base64, because it is not UTF-8",
        "redacted": redacted if found["redacted"] else None,
    }


def body(found: Mapping[str, Any]) -> str:
    """A body for a terminal: line breaks and tabs are kept, other control characters escaped."""
    return re.sub(r"[^\n\t]+", lambda part: escape(part.group()), found["content"])


def fleet(fleet: Mapping[str, Any]) -> dict[str, object]:
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


def fleet_as_of(fleet: Mapping[str, Any]) -> dict[str, object]:
    return {
        "alive": fleet["alive"],
        "ever ready": fleet["ever_ready"],
        "off contract": fleet["off_contract"],
        "by state": counts(fleet["by_state"]),
        "by region": counts(fleet["by_region"]),
        "by flavor": counts(fleet["by_flavor"]),
    }


def off_contract(period: Mapping[str, Any]) -> dict[str, object]:
    total = period["total"]
    return {
        "since": time_of(period["since"]) or "the beginning",
        "until": time_of(period["until"]),
        "VMs": total["vms"],
        "seconds": f"{total['seconds']:.0f} ({span(total['seconds'])})",
        "GPU seconds": f"{total['gpu_seconds']:.0f} ({span(total['gpu_seconds'])})",
        "unknown GPUs": span(total["seconds_of_unknown_gpus"]) if total["seconds_of_unknown_gpus"] else None,
    }


def evidence_counts(evidence_counts: Mapping[str, Any]) -> dict[str, object]:
    by_source = {f"events by {source}": counts(numbers) for source, numbers in evidence_counts["events"].items()}
    called = {f"{operation} calls": counts(outcomes) for operation, outcomes in evidence_counts["calls"].items()}
    return {**by_source, "moves by": counts(evidence_counts["moves"]), **called}
