"""Moves the VMs through their lives: what happens, when, and what a VM tells about it. It answers no calls.

Which statuses follow each other is in lifecycle.py; here is only what an arrival at one entails.
"""

from dataclasses import dataclass
from typing import Any

from service.simulator.callback import Course, News
from service.simulator.config import CloudConfig
from service.simulator.contracts import Contracts
from service.simulator.dice import Dice
from service.simulator.faults import Faults
from service.simulator.lifecycle import OPERATIONS, Operation, OperationName
from service.simulator.outbox import Outbox
from service.simulator.stock import Stock
from service.simulator.timeline import Timeline
from service.simulator.vm import NO_ADDRESS, Calendar, Vm

ADDRESS = frozenset[OperationName]({"attach_ip", "detach_ip"})


@dataclass(frozen=True, slots=True)
class Errand:
    """An operation under way on a VM. A silent one sends no callbacks; `at_once` sends its first without delay."""

    vm: Vm
    name: OperationName
    epoch: int
    silent: bool = False
    at_once: bool = False
    back_to: str | None = None

    @property
    def operation(self) -> Operation:
        return OPERATIONS[self.name]

    @property
    def current(self) -> bool:
        return self.epoch == (self.vm.address_epoch if self.name in ADDRESS else self.vm.epoch)


class Fleet:
    """All VMs that ever were, by id; and the machinery that moves them, which other files may use directly."""

    def __init__(self, config: CloudConfig, calendar: Calendar) -> None:
        self.config = config
        self.calendar = calendar
        self.faults: Faults = config.faults
        self.dice = Dice(config.seed)
        self.timeline = Timeline()
        self.outbox = Outbox(config, self.dice)
        self.contracts = Contracts(config.contracts)
        self.stock = Stock(config.flavors)
        self.vms: dict[int, Vm] = {}

    def born(self, vm: Vm, now: float, *, at_once: bool = False) -> None:
        """Begin the life of a VM, and draw what will go wrong in it."""
        self.vms[vm.id] = vm
        faults = self.faults.vms
        vm.boot_error = self.dice.hit("vms/boot_error", faults.boot_error, now)
        vm.stuck = self.dice.hit("vms/stuck", faults.stuck, now)
        if self.dice.hit("vms/vanish", faults.vanish, now):
            after = self.dice.seconds("vms/vanish_after", faults.vanish_after)
            self.timeline.add(now + after, lambda at: self.end(vm, at, "vanished"))
        self.begin(vm, "create", now, at_once=at_once)

    def begin(self, vm: Vm, name: OperationName, now: float, *, silent: bool = False, at_once: bool = False) -> None:
        """Start an operation; one that is under way on the VM is overtaken. Its precondition is the caller's."""
        if name in ADDRESS:
            vm.address_epoch += 1
            epoch = vm.address_epoch
        else:
            vm.epoch += 1
            epoch = vm.epoch
        self.note(vm, f"{OPERATIONS[name].names['C']}Request", f"Instance {vm.name} {_title(name)} Request Sent.", now)
        self._enter(Errand(vm, name, epoch, silent, at_once, vm.status), 0, now)

    def fail(self, vm: Vm, now: float, *, silent: bool = False) -> None:
        """The VM falls into ERROR, whatever it was doing."""
        if vm.ended is not None:
            return
        vm.epoch += 1
        self.moved(vm, "ERROR", now)
        self.note(vm, "InstanceCreationFailed", f"Instance {vm.name} is in ERROR.", now)
        if not silent:
            self._tell(vm, "create", "ERROR", "failed", now)

    def end(self, vm: Vm, now: float, how: str) -> None:
        """The VM is no more. Happens once; nothing is told here."""
        if vm.ended is not None:
            return
        vm.epoch += 1
        vm.address_epoch += 1
        vm.ended, vm.deleted_at = how, now
        self.moved(vm, "DELETED", now)
        self.leave_contract(vm, now)

    def leave_contract(self, vm: Vm, now: float) -> None:
        if vm.contract_id is not None:
            self.contracts.release(vm.contract_id, vm.flavor, at=now)

    def moved(self, vm: Vm, status: str, now: float) -> None:
        if status != vm.status or not vm.history:
            vm.status = status
            vm.history.append((now, status))

    def note(self, vm: Vm, reason: str, message: str, now: float) -> None:
        """Write an event into the VM's history: infrahub-api.md section 5.3."""
        event: dict[str, Any] = {
            "instance_id": vm.id,
            "user_id": self.config.user_id,
            "org_id": self.config.org_id,
            "time": self.calendar.text(now),
            "type": "normal",
            "reason": reason,
            "object": vm.name,
            "message": message,
        }
        vm.events.append(event)

    def _enter(self, errand: Errand, index: int, now: float) -> None:
        if not errand.current:
            return
        vm, step = errand.vm, errand.operation.steps[index]
        if self._goes_wrong(errand, index, now):
            return
        self._arrive(errand, step.status, now)
        self._announce(errand, step.status, now, first=index == 0, last=step.lasts is None)
        if step.lasts is None or (vm.stuck and step.status == "BUILD"):
            return
        lasts = self.dice.seconds(f"vm/{vm.id}/{step.lasts}", getattr(self.config.timing, step.lasts))
        self.timeline.add(now + lasts, lambda at: self._enter(errand, index + 1, at))

    def _goes_wrong(self, errand: Errand, index: int, now: float) -> bool:
        """Whether the operation fails instead of arriving at its last step."""
        vm, faults = errand.vm, self.faults.vms
        if index < len(errand.operation.steps) - 1:
            return False
        if errand.name == "create" and vm.boot_error:
            self.fail(vm, now, silent=errand.silent)
            return True
        if errand.name == "delete" and self.dice.hit("vms/delete_failed", faults.delete_failed, now):
            self._fall_back(errand, now)
            return True
        if errand.name == "attach_ip" and self.dice.hit("vms/address_failed", faults.address_failed, now):
            vm.floating_ip_status = NO_ADDRESS
            self._announce_failure(errand, NO_ADDRESS, now)
            return True
        return False

    def _fall_back(self, errand: Errand, now: float) -> None:
        self.moved(errand.vm, errand.back_to or "ERROR", now)
        self._announce_failure(errand, errand.vm.status, now)

    def _announce_failure(self, errand: Errand, status: str, now: float) -> None:
        vm = errand.vm
        self.note(vm, f"{errand.operation.names['C']}Failed", f"Instance {vm.name} {_title(errand.name)} Failed.", now)
        if not errand.silent:
            self._tell(vm, errand.name, status, "failed", now)

    def _arrive(self, errand: Errand, status: str, now: float) -> None:
        vm = errand.vm
        if errand.name in ADDRESS:
            _address(vm, status)
        elif status == "DELETED":
            self.end(vm, now, "deleted")
        else:
            self.moved(vm, status, now)
        if status == "BUILD":
            vm.fixed_ip = f"10.{vm.id >> 16 & 255}.{vm.id >> 8 & 255}.{vm.id & 255}"

    def _announce(self, errand: Errand, status: str, now: float, *, first: bool, last: bool) -> None:
        vm = errand.vm
        course: Course = "success" if last else "progress"
        if last:
            reason = f"{errand.operation.names['C']}Success"
            self.note(vm, reason, f"Instance {vm.name} {_title(errand.name)} Successful: {status}.", now)
        if not errand.silent:
            self._tell(vm, errand.name, status, course, now, at_once=first and errand.at_once)
        if errand.name == "create" and last:
            self._made(vm, now)

    def _made(self, vm: Vm, now: float) -> None:
        # ACTIVE may come before the public address (section 2.3); here it always does.
        if vm.wants_address:
            self.begin(vm, "attach_ip", now)
        if self.dice.hit("vms/error", self.faults.vms.error, now):
            after = self.dice.seconds("vms/error_after", self.faults.vms.error_after)
            self.timeline.add(now + after, lambda at: self.fail(vm, at, silent=self.faults.vms.error_silent))

    def _tell(
        self, vm: Vm, name: OperationName, status: str, course: Course, now: float, *, at_once: bool = False
    ) -> None:
        self.outbox.tell(vm, News(name, status, course), now, self.faults.callbacks, at_once=at_once)


def _address(vm: Vm, status: str) -> None:
    vm.floating_ip_status = status
    if status == "ATTACHED":
        # 198.18.0.0/15 is set aside for tests of networks (RFC 2544), so these lead nowhere.
        vm.floating_ip = f"198.{18 + (vm.id >> 16 & 1)}.{vm.id >> 8 & 255}.{vm.id & 255}"
    elif status == "DETACHED":
        vm.floating_ip = None


def _title(name: OperationName) -> str:
    return {"create": "Creation", "delete": "Deletion"}.get(name, name.replace("_", " ").title())
