"""The life of a VM as tables: which statuses an operation walks through, and what each is called. No behaviour.

infrahub-api.md sections 1.4, 1.5, 2.1 and 2.2.
"""

from dataclasses import dataclass
from typing import Literal

Family = Literal["A", "B", "C"]
OperationName = Literal["create", "start", "stop", "reboot", "hibernate", "restore", "delete", "attach_ip", "detach_ip"]


@dataclass(frozen=True, slots=True)
class Step:
    """A status and the field of `Timing` that says how long it lasts; the last of an operation lasts."""

    status: str
    lasts: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """`asked_in` are the statuses in which it may be asked for; `names` its name in each family (section 1.4)."""

    asked_in: frozenset[str]
    steps: tuple[Step, ...]
    names: dict[Family, str]


def _names(old: str, wire: str, new: str) -> dict[Family, str]:
    return {"A": old, "B": wire, "C": new}


BEING_MADE = frozenset({"CREATING", "BUILD"})
SETTLED = frozenset({"ACTIVE", "SHUTOFF"})
RUNS_OR_BROKEN = frozenset({"ACTIVE", "ERROR"})

OPERATIONS: dict[OperationName, Operation] = {
    "create": Operation(
        frozenset(),
        (Step("CREATING", "creating"), Step("BUILD", "build"), Step("ACTIVE")),
        _names("createVM", "createInstance", "InstanceCreation"),
    ),
    "start": Operation(
        frozenset({"SHUTOFF"}),
        (Step("STARTING", "starting"), Step("ACTIVE")),
        _names("startVM", "startInstance", "InstanceStart"),
    ),
    "stop": Operation(
        RUNS_OR_BROKEN,
        (Step("STOPPING", "stopping"), Step("SHUTOFF")),
        _names("stopVM", "stopInstance", "InstanceStop"),
    ),
    "reboot": Operation(
        RUNS_OR_BROKEN,
        (Step("REBOOTING", "rebooting"), Step("ACTIVE")),
        _names("hardRebootVM", "rebootInstance", "InstanceReboot"),
    ),
    "hibernate": Operation(
        frozenset({"ACTIVE"}),
        (Step("HIBERNATING", "hibernating"), Step("HIBERNATED")),
        _names("hibernateVM", "hibernateInstance", "HibernateInstance"),
    ),
    "restore": Operation(
        frozenset({"HIBERNATED"}),
        (Step("RESTORING", "restoring"), Step("ACTIVE")),
        _names("restoreVM", "restoreInstance", "RestoreHibernationInstance"),
    ),
    "delete": Operation(
        frozenset({"ACTIVE", "STARTING", "STOPPING", "SHUTOFF", "REBOOTING", "HIBERNATED", "RESTORING", "ERROR"}),
        (Step("DELETING", "deleting"), Step("DELETED")),
        _names("deleteVM", "deleteInstances", "InstanceDelete"),
    ),
    # These two walk through `floating_ip_status` and leave `status` alone.
    "attach_ip": Operation(
        SETTLED,
        (Step("ATTACHING", "address"), Step("ATTACHED")),
        _names("attachFloatingIP", "attachFloatingIPToInstance", "AttachFloatingIPToInstance"),
    ),
    "detach_ip": Operation(
        SETTLED,
        (Step("DETACHING", "address"), Step("DETACHED")),
        _names("detachFloatingIP", "detachFloatingIPToInstance", "DetachFloatingIPToInstance"),
    ),
}

# The wire of December 2025 deletes in the plural and fails in the singular (section 1.4, family B).
FAILED_NAMES: dict[tuple[OperationName, Family], str] = {("delete", "B"): "deleteInstance"}

# `power_state` and `vm_state` that go with a status (section 2.2).
MACHINE: dict[str, tuple[str | None, str | None]] = {
    "CREATING": (None, None),
    "BUILD": ("NOSTATE", "building"),
    "ACTIVE": ("RUNNING", "active"),
    "STARTING": ("SHUTDOWN", "stopped"),
    "STOPPING": ("RUNNING", "active"),
    "SHUTOFF": ("SHUTDOWN", "stopped"),
    "REBOOTING": ("RUNNING", "active"),
    "HIBERNATING": ("RUNNING", "active"),
    "HIBERNATED": ("SHUTDOWN", "shelved_offloaded"),
    "RESTORING": ("SHUTDOWN", "shelved_offloaded"),
    "DELETING": ("RUNNING", "active"),
    "DELETED": (None, None),
    "ERROR": ("NOSTATE", "error"),
}
