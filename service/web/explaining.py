"""Why a VM is not up, in words: what it waits for, until when, and what to do. Pure: it reads what the API shows."""

from dataclasses import dataclass
from typing import Any, Final

#: What the provider does in these states, and for us to wait for.
_UNDER_WAY: Final = {
    "CREATING": "The provider has accepted it and has not begun to build it.",
    "BUILD": "The provider is building it.",
    "STARTING": "The provider is starting it.",
    "REBOOTING": "The provider is rebooting it.",
    "RESTORING": "The provider is restoring it from hibernation.",
    "DELETING": "The provider is deleting it.",
    "STOPPING": "Somebody stopped it; it is shutting down.",
    "HIBERNATING": "Somebody hibernated it; it is being saved.",
}
_ENDS: Final = {
    "DELETED": "It is deleted: the provider no longer knows it.",
    "REFUSED": "It was never made: the provider refused it.",
    "CANCELLED": "It was never made: its submission was cancelled before it was sent.",
}


_STOPPED: Final = "It is billed while it is SHUTOFF. Start it in the provider's console, or delete it."
_BROKEN: Final = {
    "LOST": (
        "The provider no longer shows it, and nobody we know of deleted it.",
        "Look for it in the provider's console. If it is gone, delete it here to close its record.",
    ),
    "ERROR": ("It failed at the provider.", "Delete it, or have it replaced: set the policy on_stuck to replace."),
    "SHUTOFF": ("Somebody else stopped it.", _STOPPED),
    "HIBERNATED": ("Somebody else hibernated it.", "Restore it in the provider's console, or delete it."),
}
_STANDING: Final = "The request stands until the provider no longer knows the VM."
_OVERDUE: Final = "It takes longer than VMs of its flavor usually do. Delete it, or ask the provider."


@dataclass(frozen=True, slots=True)
class Explanation:
    """The state of a VM for people: how it is (`good`, `waiting`, `bad` or `over`), why, and what to do."""

    mood: str
    headline: str
    why: str
    advice: str = ""


def explain(vm: dict[str, Any], submission: dict[str, Any]) -> Explanation:
    """Why this VM is, or is not, where it should be. `vm` and `submission` are as the API returns them."""
    state, reason = vm["state"], vm["reason"] or ""
    if state in _ENDS:
        return Explanation("over", _ENDS[state], reason or vm["deletion_reason"] or "")
    if vm["desired_state"] == "deleted":
        return Explanation("waiting", "It is to be deleted.", vm["deletion_reason"] or reason, _STANDING)
    if vm["ready"]:
        return Explanation("good", "It is ready.", reason)
    if state == "REQUESTED":
        return Explanation("waiting", "It is not created yet.", reason or _reasons(submission), _next(submission))
    if state == "ACTIVE":
        return Explanation("waiting", _running(vm), reason)
    if state in _BROKEN:
        headline, advice = _BROKEN[state]
        return Explanation("bad", headline, reason, advice)
    return Explanation("bad" if vm["stuck"] else "waiting", _UNDER_WAY[state], reason, _OVERDUE if vm["stuck"] else "")


def _running(vm: dict[str, Any]) -> str:
    if vm["wants_address"] and not vm["floating_ip"]:
        return "It runs, and has no public address yet."
    if vm["contract_requested"] is not None and vm["assignment"] != "assigned":
        return f"It runs on demand, not on contract {vm['contract_requested']}."
    return "It runs; it becomes ready when the provider is read next."


def _reasons(submission: dict[str, Any]) -> str:
    return "; ".join(submission["reasons"])


def _next(submission: dict[str, Any]) -> str:
    due = submission["next_attempt_at"]
    return f"The next create call or lookup is due at {due[:19].replace('T', ' ')} UTC." if due else ""
