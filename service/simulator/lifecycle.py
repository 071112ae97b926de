"""The VM lifecycle as tables: the statuses of each operation and its names.

infrahub-api.md sections 1.4, 1.5, 2.1 and 2.2.
"""

from dataclasses import dataclass
from typing import Literal

Family = Literal["A", "B", "C"]
OperationName = Literal["create", "start", "stop", "reboot", "hibernate", "restore", "delete", "attach_ip", "detach_ip"]


@dataclass(frozen=True, slots=True)
class OperationStep:
    """A status and the field of `Timing` with its duration; None for the last status of an operation."""

    status: str
    lasts: str | None = None


@dataclass(frozen=True, slots=True)
class VmOperation:
    """`allowed_in`: the statuses in which a caller may request it. `names`: its name in each family (section 1.4)."""

    allowed_in: frozenset[str]
    steps: tuple[OperationStep, ...]
    names: dict[Family, str]


def _names(old: str, wire: str, new: str) -> dict[Family, str]:
    return {"A": old, "B": wire, "C": new}


BEING_CREATED = frozenset({"CREATING", "BUILD"})
RUNNING_OR_STOPPED = frozenset({"ACTIVE", "SHUTOFF"})
ACTIVE_OR_ERROR = frozenset({"ACTIVE", "ERROR"})

OPERATIONS: dict[OperationName, VmOperation] = {
    "create": VmOperation(
        frozenset(),
        (OperationStep("CREATING", "creating"), OperationStep("BUILD", "build"), OperationStep("ACTIVE")),
        _names("createVM", "createInstance", "InstanceCreation"),
    ),
    "start": VmOperation(
        frozenset({"SHUTOFF"}),
        (OperationStep("STARTING", "starting"), OperationStep("ACTIVE")),
        _names("startVM", "startInstance", "InstanceStart"),
    ),
    "stop": VmOperation(
        ACTIVE_OR_ERROR,
        (OperationStep("STOPPING", "stopping"), OperationStep("SHUTOFF")),
        _names("stopVM", "stopInstance", "InstanceStop"),
    ),
    "reboot": VmOperation(
        ACTIVE_OR_ERROR,
        (OperationStep("REBOOTING", "rebooting"), OperationStep("ACTIVE")),
        _names("hardRebootVM", "rebootInstance", "InstanceReboot"),
    ),
    "hibernate": VmOperation(
        frozenset({"ACTIVE"}),
        (OperationStep("HIBERNATING", "hibernating"), OperationStep("HIBERNATED")),
        _names("hibernateVM", "hibernateInstance", "HibernateInstance"),
    ),
    "restore": VmOperation(
        frozenset({"HIBERNATED"}),
        (OperationStep("RESTORING", "restoring"), OperationStep("ACTIVE")),
        _names("restoreVM", "restoreInstance", "RestoreHibernationInstance"),
    ),
    "delete": VmOperation(
        frozenset({"ACTIVE", "STARTING", "STOPPING", "SHUTOFF", "REBOOTING", "HIBERNATED", "RESTORING", "ERROR"}),
        (OperationStep("DELETING", "deleting"), OperationStep("DELETED")),
        _names("deleteVM", "deleteInstances", "InstanceDelete"),
    ),
    # These two change `floating_ip_status` instead of `status`.
    "attach_ip": VmOperation(
        RUNNING_OR_STOPPED,
        (OperationStep("ATTACHING", "address"), OperationStep("ATTACHED")),
        _names("attachFloatingIP", "attachFloatingIPToInstance", "AttachFloatingIPToInstance"),
    ),
    "detach_ip": VmOperation(
        RUNNING_OR_STOPPED,
        (OperationStep("DETACHING", "address"), OperationStep("DETACHED")),
        _names("detachFloatingIP", "detachFloatingIPToInstance", "DetachFloatingIPToInstance"),
    ),
}

# Seen in December 2025: plural when a delete succeeds, singular when it fails (section 1.4, family B).
FAILED_NAMES: dict[tuple[OperationName, Family], str] = {("delete", "B"): "deleteInstance"}

# `power_state` and `vm_state` of each status (section 2.2).
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
