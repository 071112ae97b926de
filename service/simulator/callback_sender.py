"""Queues callbacks, injects their faults, hands out those that are due, and records their results. It posts nothing."""

import heapq
import itertools
from dataclasses import dataclass, field, replace

from service.simulator import callback
from service.simulator.callback import CallbackContent
from service.simulator.config import CloudConfig
from service.simulator.faults import CallbackFaults
from service.simulator.rng import Rng
from service.simulator.vm import SimulatedVm

# The provider's headers are not documented (section 1.1); these are typical of an HTTP client.
HEADERS = {"Content-Type": "application/json", "User-Agent": "python-requests/2.32.3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackDelivery:
    """One POST to make. `at` is in simulated seconds; `faults` names the injected faults."""

    delivery_id: int
    vm_id: int
    url: str
    body: bytes
    at: float
    faults: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=lambda: dict(HEADERS))


@dataclass(slots=True)
class DeliveryRecord:
    """The result of a delivery. `fate`: waiting, lost, sent, delivered (2xx), refused (another status), failed."""

    delivery: CallbackDelivery
    fate: str = "waiting"
    status: int | None = None
    answered_at: float | None = None


class CallbackSender:
    """Sends the callbacks of a VM in the order they were queued, unless a fault changes it."""

    def __init__(self, config: CloudConfig, rng: Rng) -> None:
        self._config = config
        self._rng = rng
        self._heap: list[tuple[float, int, int]] = []
        self._order = itertools.count()
        self._last_at: dict[int, float] = {}
        self._held: dict[int, int] = {}
        self.records: dict[int, DeliveryRecord] = {}

    def enqueue(
        self,
        vm: SimulatedVm,
        content: CallbackContent,
        now: float,
        faults: CallbackFaults,
        *,
        at_once: bool = False,
    ) -> None:
        """Queue a callback to the VM's URL, if it has one. `at_once` skips the usual delay."""
        if vm.callback_url is None:
            return
        usual = now if at_once else now + self._rng.seconds(f"callback/{vm.id}", self._config.timing.callback)
        at = max(usual, self._last_at.get(vm.id, 0.0))
        self._last_at[vm.id] = at
        # Every fault is drawn every time, so that one fault does not change when another occurs.
        hits = [name for name in _FAULTS if self._rng.fires(f"callbacks/{name}", getattr(faults, name), now)]
        rng = self._rng.stream(f"body/{vm.id}/{len(self.records)}")
        if "garbage" in hits:
            body = callback.garbage(rng)
        else:
            body = callback.body(vm, content, self._config, rng, nulled="nulled" in hits)
        delivery = self._new(vm.id, vm.callback_url, body, at, tuple(hits))
        self._dispatch(delivery, faults)
        if self._rng.fires("callbacks/unmatched", faults.unmatched, now):
            vm_id, body = callback.unmatched(rng)
            self._queue(self._new(vm_id, vm.callback_url, body, at, ("unmatched",)))

    def take_due(self, now: float) -> list[CallbackDelivery]:
        """The deliveries that are due, in order. Each is returned once."""
        due: list[CallbackDelivery] = []
        while self._heap and self._heap[0][0] <= now:
            at, _, delivery_id = heapq.heappop(self._heap)
            record = self.records[delivery_id]
            if record.fate == "waiting" and record.delivery.at == at:
                record.fate = "sent"
                if self._held.get(record.delivery.vm_id) == delivery_id:
                    del self._held[record.delivery.vm_id]
                due.append(record.delivery)
        return due

    def next_due(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def drop(self, delivery: CallbackDelivery, fault: str) -> None:
        record = self.records[delivery.delivery_id]
        record.fate = "lost"
        record.delivery = replace(delivery, faults=(*delivery.faults, fault))

    def record_answer(self, delivery_id: int, status: int | None, now: float) -> None:
        """Record the receiver's status; None means no answer. There are no retries: none are documented (section 1.1)."""
        record = self.records[delivery_id]
        record.status, record.answered_at = status, now
        record.fate = "failed" if status is None else "delivered" if 200 <= status < 300 else "refused"

    def _new(self, vm_id: int, url: str, body: bytes, at: float, faults: tuple[str, ...]) -> CallbackDelivery:
        delivery = CallbackDelivery(
            delivery_id=len(self.records) + 1, vm_id=vm_id, url=url, body=body, at=at, faults=faults
        )
        self.records[delivery.delivery_id] = DeliveryRecord(delivery)
        return delivery

    def _dispatch(self, delivery: CallbackDelivery, faults: CallbackFaults) -> None:
        if "lost" in delivery.faults:
            self.records[delivery.delivery_id].fate = "lost"
            return
        at = delivery.at
        if "delayed" in delivery.faults:
            at += self._rng.seconds("callbacks/delay", faults.delay)
        held = self._held.pop(delivery.vm_id, None)
        if "reordered" in delivery.faults and held is None:
            self._held[delivery.vm_id] = delivery.delivery_id
            at += faults.reorder_wait
        self._queue(replace(delivery, at=at))
        if "repeated" in delivery.faults:
            self._repeat(delivery, at, faults)
        if held is not None and self.records[held].fate == "waiting":
            self._queue(replace(self.records[held].delivery, at=at))

    def _repeat(self, delivery: CallbackDelivery, at: float, faults: CallbackFaults) -> None:
        low, high = faults.repeats
        for _ in range(self._rng.stream(f"repeats/{delivery.delivery_id}").randint(low, high)):
            at += self._rng.seconds("callbacks/repeat", self._config.timing.callback)
            again = self._new(delivery.vm_id, delivery.url, delivery.body, at, (*delivery.faults, "repeat"))
            self._queue(again)

    def _queue(self, delivery: CallbackDelivery) -> None:
        self.records[delivery.delivery_id].delivery = delivery
        heapq.heappush(self._heap, (delivery.at, next(self._order), delivery.delivery_id))


_FAULTS = ("lost", "repeated", "delayed", "reordered", "nulled", "garbage")
