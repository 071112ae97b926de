"""Moves VMs through their operations: status changes, events and callbacks.

lifecycle.py defines the order of statuses; this file defines what happens at each of them.
"""

import itertools
from dataclasses import dataclass
from typing import Any

from service.simulator.callback import CallbackContent, Phase
from service.simulator.callback_sender import CallbackSender
from service.simulator.config import CloudConfig
from service.simulator.contracts import Contracts
from service.simulator.faults import Faults
from service.simulator.keypairs import Keypair
from service.simulator.lifecycle import OPERATIONS, OperationName, VmOperation
from service.simulator.prices import PriceBook
from service.simulator.rng import Range, Rng
from service.simulator.stock import StockLevels
from service.simulator.timeline import Timeline
from service.simulator.vm import NO_ADDRESS, Calendar, SimulatedVm

ADDRESS = frozenset[OperationName]({"attach_ip", "detach_ip"})


@dataclass(frozen=True, slots=True)
class OperationTask:
    """A running operation of a VM.

    `silent` sends no callbacks, `at_once` sends the first one without delay, `fails` is known to fail in the end.
    """

    vm: SimulatedVm
    name: OperationName
    epoch: int
    silent: bool = False
    at_once: bool = False
    back_to: str | None = None
    fails: bool = False

    @property
    def operation(self) -> VmOperation:
        return OPERATIONS[self.name]

    @property
    def current(self) -> bool:
        return self.epoch == (self.vm.address_epoch if self.name in ADDRESS else self.vm.epoch)


class SimulatedFleet:
    """All VMs that ever existed, by id, and the parts that change them. Other files may use the parts directly."""

    def __init__(self, config: CloudConfig, calendar: Calendar) -> None:
        self.config = config
        self.calendar = calendar
        self.faults: Faults = config.faults
        self.rng = Rng(config.seed)
        self.timeline = Timeline()
        self.callback_sender = CallbackSender(config, self.rng)
        self.contracts = Contracts(config.contracts)
        self.stock = StockLevels(config.flavors)
        self.prices = PriceBook(config.flavors)
        self.vms: dict[int, SimulatedVm] = {}
        self.imported_keypairs: list[Keypair] = []
        self._addresses = itertools.count(1)

    def add(self, vm: SimulatedVm, now: float, *, at_once: bool = False) -> None:
        """Start to create a VM, and draw its faults."""
        self.vms[vm.id] = vm
        faults = self.faults.vms
        vm.boot_error = self.rng.fires("vms/boot_error", faults.boot_error, now)
        vm.stuck = self.rng.fires("vms/stuck", faults.stuck, now)
        vm.slow_build = self.rng.fires("vms/slow_build", faults.slow_build, now)
        if self.rng.fires("vms/vanish", faults.vanish, now):
            after = self.rng.seconds("vms/vanish_after", faults.vanish_after)
            self.timeline.add(now + after, lambda at: self.end(vm, at, "vanished"))
        if self.rng.fires("vms/vanish_crowd", faults.vanish_crowd, now):
            after = self.rng.seconds("vms/vanish_after", faults.vanish_after)
            self.timeline.add(now + after, lambda at: self.end_oldest(faults.crowd_size, at))
        if self.rng.fires("vms/unknown_status", faults.unknown_status, now):
            self._schedule_unknown_status(vm, now)
        self.start(vm, "create", now, at_once=at_once)

    def _schedule_unknown_status(self, vm: SimulatedVm, now: float) -> None:
        faults = self.faults.vms
        status = self.rng.stream(f"unknown status/{vm.id}").choice(faults.unknown_statuses)
        begin = now + self.rng.seconds("vms/unknown_after", faults.unknown_after)
        end = begin + self.rng.seconds("vms/unknown_seconds", faults.unknown_seconds)
        self.timeline.add(begin, lambda _: setattr(vm, "reported_status", status))
        self.timeline.add(end, lambda _: setattr(vm, "reported_status", None))

    def start(
        self,
        vm: SimulatedVm,
        name: OperationName,
        now: float,
        *,
        silent: bool = False,
        at_once: bool = False,
        fails: bool = False,
    ) -> None:
        """Start an operation. It replaces the one that is running. The caller checks the precondition."""
        if name in ADDRESS:
            vm.address_epoch += 1
            epoch = vm.address_epoch
        else:
            vm.epoch += 1
            epoch = vm.epoch
        self.add_event(
            vm, f"{OPERATIONS[name].names['C']}Request", f"Instance {vm.name} {_title(name)} Request Sent.", now
        )
        self._run_step(OperationTask(vm, name, epoch, silent, at_once, vm.status, fails), 0, now)

    def fail(self, vm: SimulatedVm, now: float, *, silent: bool = False) -> None:
        """Put the VM into ERROR, whatever its status."""
        if vm.ended is not None:
            return
        vm.epoch += 1
        self.set_status(vm, "ERROR", now)
        self.add_event(vm, "InstanceCreationFailed", f"Instance {vm.name} is in ERROR.", now)
        if not silent:
            self._send_callback(vm, "create", "ERROR", "failed", now)

    def end(self, vm: SimulatedVm, now: float, how: str) -> None:
        """Remove the VM. Does nothing the second time; sends no callback."""
        if vm.ended is not None:
            return
        vm.epoch += 1
        vm.address_epoch += 1
        vm.ended, vm.deleted_at = how, now
        self.set_status(vm, "DELETED", now)
        self.leave_contract(vm, now)

    def end_oldest(self, count: int, now: float) -> list[int]:
        """Remove the oldest living VMs at once; returns their ids."""
        oldest = [vm for vm in self.vms.values() if vm.ended is None][:count]
        for vm in oldest:
            self.end(vm, now, "vanished")
        return [vm.id for vm in oldest]

    def set_contract(self, vm: SimulatedVm, contract_id: int | None, now: float) -> None:
        vm.contract_id = contract_id
        vm.contract_history.append((now, contract_id))

    def leave_contract(self, vm: SimulatedVm, now: float) -> None:
        if vm.contract_id is not None:
            self.contracts.release(vm.contract_id, vm.flavor, at=now)

    def set_status(self, vm: SimulatedVm, status: str, now: float) -> None:
        if status != vm.status or not vm.history:
            vm.status = status
            vm.history.append((now, status))

    def add_event(self, vm: SimulatedVm, reason: str, message: str, now: float) -> None:
        """Add an event to the VM's history: infrahub-api.md section 5.3."""
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

    def _run_step(self, task: OperationTask, index: int, now: float) -> None:
        if not task.current:
            return
        vm, step = task.vm, task.operation.steps[index]
        if self._fails(task, index, now):
            return
        self._apply_status(task, step.status, now)
        self._report_step(task, step.status, now, first=index == 0, last=step.lasts is None)
        if step.lasts is None or (vm.stuck and step.status == "BUILD"):
            return
        duration = self.rng.seconds(f"vm/{vm.id}/{step.lasts}", self._duration(vm, step.lasts))
        self.timeline.add(now + duration, lambda at: self._run_step(task, index + 1, at))

    def _duration(self, vm: SimulatedVm, step: str) -> Range:
        if step == "build" and vm.slow_build:
            return self.faults.vms.slow_build_seconds
        if step == "build" and vm.flavor.spot:
            return self.config.timing.spot_build
        duration: Range = getattr(self.config.timing, step)
        return duration

    def _fails(self, task: OperationTask, index: int, now: float) -> bool:
        """Whether the operation fails instead of reaching its last step."""
        vm, faults = task.vm, self.faults.vms
        if index < len(task.operation.steps) - 1:
            return False
        if task.name == "create" and vm.boot_error:
            self.fail(vm, now, silent=task.silent)
            return True
        if task.name == "delete" and (task.fails or self.rng.fires("vms/delete_failed", faults.delete_failed, now)):
            self._restore_status(task, now)
            return True
        if task.name == "attach_ip" and self.rng.fires("vms/address_failed", faults.address_failed, now):
            vm.floating_ip_status = NO_ADDRESS
            self._report_failure(task, NO_ADDRESS, now)
            return True
        return False

    def _restore_status(self, task: OperationTask, now: float) -> None:
        self.set_status(task.vm, task.back_to or "ERROR", now)
        self._report_failure(task, task.vm.status, now)

    def _report_failure(self, task: OperationTask, status: str, now: float) -> None:
        vm = task.vm
        self.add_event(vm, f"{task.operation.names['C']}Failed", f"Instance {vm.name} {_title(task.name)} Failed.", now)
        if not task.silent:
            self._send_callback(vm, task.name, status, "failed", now)

    def _apply_status(self, task: OperationTask, status: str, now: float) -> None:
        vm = task.vm
        if task.name in ADDRESS:
            self._apply_address_status(vm, status)
        elif status == "DELETED":
            self.end(vm, now, "deleted")
        else:
            self.set_status(vm, status, now)
        if status == "BUILD":
            vm.fixed_ip = f"10.{vm.id >> 16 & 255}.{vm.id >> 8 & 255}.{vm.id & 255}"

    def _apply_address_status(self, vm: SimulatedVm, status: str) -> None:
        vm.floating_ip_status = status
        if status == "ATTACHED":
            number = next(self._addresses)
            # 198.18.0.0/15 is reserved for network tests (RFC 2544).
            vm.floating_ip = f"198.{18 + (number >> 16 & 1)}.{number >> 8 & 255}.{number & 255}"
        elif status == "DETACHED":
            vm.floating_ip = None

    def _report_step(self, task: OperationTask, status: str, now: float, *, first: bool, last: bool) -> None:
        vm = task.vm
        phase: Phase = "success" if last else "progress"
        if last:
            reason = f"{task.operation.names['C']}Success"
            self.add_event(vm, reason, f"Instance {vm.name} {_title(task.name)} Successful: {status}.", now)
        if not task.silent:
            self._send_callback(vm, task.name, status, phase, now, at_once=first and task.at_once)
        if task.name == "create" and last:
            self._after_create(vm, now)
        if task.name == "restore" and last and self.config.restored_address == "new":
            self._replace_address(vm, now)

    def _replace_address(self, vm: SimulatedVm, now: float) -> None:
        """Hibernation without retain_ip released the address: the VM gets another one (section 10)."""
        if vm.wants_address and (vm.floating_ip is None or vm.floating_ip_status == "DETACHING"):
            self.start(vm, "attach_ip", now)

    def _after_create(self, vm: SimulatedVm, now: float) -> None:
        # ACTIVE may be reported before the public address is attached (section 2.3); here it always is.
        if vm.wants_address:
            self.start(vm, "attach_ip", now)
        if self.rng.fires("vms/error", self.faults.vms.error, now):
            after = self.rng.seconds("vms/error_after", self.faults.vms.error_after)
            self.timeline.add(now + after, lambda at: self.fail(vm, at, silent=self.faults.vms.error_silent))

    def _send_callback(
        self, vm: SimulatedVm, name: OperationName, status: str, phase: Phase, now: float, *, at_once: bool = False
    ) -> None:
        self.callback_sender.enqueue(
            vm, CallbackContent(name, status, phase), now, self.faults.callbacks, at_once=at_once
        )


def _title(name: OperationName) -> str:
    return {"create": "Creation", "delete": "Deletion"}.get(name, name.replace("_", " ").title())
