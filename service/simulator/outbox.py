"""Callbacks from the moment a VM has something to say until they are handed out, and the record of what became of them.

Sending them is the server's business.
"""

import heapq
import itertools
from dataclasses import dataclass, field, replace

from service.simulator import callback
from service.simulator.callback import News
from service.simulator.config import CloudConfig
from service.simulator.dice import Dice
from service.simulator.faults import CallbackFaults
from service.simulator.vm import Vm

# Nothing is documented about the headers (section 1.1); these are an ordinary client's.
HEADERS = {"Content-Type": "application/json", "User-Agent": "python-requests/2.32.3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One POST to be made: `at` in simulated seconds, `faults` what was done to it."""

    delivery_id: int
    vm_id: int
    url: str
    body: bytes
    at: float
    faults: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=lambda: dict(HEADERS))


@dataclass(slots=True)
class Receipt:
    """What became of a delivery. `fate`: waiting, lost, sent, delivered (2xx), refused (another status), failed."""

    delivery: Delivery
    fate: str = "waiting"
    status: int | None = None
    answered_at: float | None = None


class Outbox:
    """Callbacks of one VM leave in the order of its news, unless a fault says otherwise."""

    def __init__(self, config: CloudConfig, dice: Dice) -> None:
        self._config = config
        self._dice = dice
        self._heap: list[tuple[float, int, int]] = []
        self._order = itertools.count()
        self._last_at: dict[int, float] = {}
        self._held: dict[int, int] = {}
        self.receipts: dict[int, Receipt] = {}

    def tell(self, vm: Vm, news: News, now: float, faults: CallbackFaults, *, at_once: bool = False) -> None:
        """Post the news to the VM's callback URL, if it has one. `at_once` skips the usual delay."""
        if vm.callback_url is None:
            return
        usual = now if at_once else now + self._dice.seconds(f"callback/{vm.id}", self._config.timing.callback)
        at = max(usual, self._last_at.get(vm.id, 0.0))
        self._last_at[vm.id] = at
        # The dice are asked about every fault, so that one does not change the luck of another.
        hits = [name for name in _HITS if self._dice.hit(f"callbacks/{name}", getattr(faults, name), now)]
        luck = self._dice.stream(f"body/{vm.id}/{len(self.receipts)}")
        if "garbage" in hits:
            text = callback.garbage(luck)
        else:
            text = callback.body(vm, news, self._config, luck, nulled="nulled" in hits)
        delivery = self._new(vm.id, vm.callback_url, text, at, tuple(hits))
        self._dispatch(delivery, faults)
        if self._dice.hit("callbacks/stranger", faults.stranger, now):
            vm_id, text = callback.stranger(luck)
            self._queue(self._new(vm_id, vm.callback_url, text, at, ("stranger",)))

    def take(self, now: float) -> list[Delivery]:
        """Hand out what is due, in order. Each is handed out once."""
        due: list[Delivery] = []
        while self._heap and self._heap[0][0] <= now:
            at, _, delivery_id = heapq.heappop(self._heap)
            receipt = self.receipts[delivery_id]
            if receipt.fate == "waiting" and receipt.delivery.at == at:
                receipt.fate = "sent"
                if self._held.get(receipt.delivery.vm_id) == delivery_id:
                    del self._held[receipt.delivery.vm_id]
                due.append(receipt.delivery)
        return due

    def next_due(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def lose(self, delivery: Delivery, fault: str) -> None:
        receipt = self.receipts[delivery.delivery_id]
        receipt.fate = "lost"
        receipt.delivery = replace(delivery, faults=(*delivery.faults, fault))

    def answered(self, delivery_id: int, status: int | None, now: float) -> None:
        """Record the answer; None is no answer at all. Nothing is sent again: no retry is documented (section 1.1)."""
        receipt = self.receipts[delivery_id]
        receipt.status, receipt.answered_at = status, now
        receipt.fate = "failed" if status is None else "delivered" if 200 <= status < 300 else "refused"

    def _new(self, vm_id: int, url: str, body: bytes, at: float, faults: tuple[str, ...]) -> Delivery:
        delivery = Delivery(delivery_id=len(self.receipts) + 1, vm_id=vm_id, url=url, body=body, at=at, faults=faults)
        self.receipts[delivery.delivery_id] = Receipt(delivery)
        return delivery

    def _dispatch(self, delivery: Delivery, faults: CallbackFaults) -> None:
        if "lost" in delivery.faults:
            self.receipts[delivery.delivery_id].fate = "lost"
            return
        at = delivery.at
        if "delayed" in delivery.faults:
            at += self._dice.seconds("callbacks/delay", faults.delay)
        held = self._held.pop(delivery.vm_id, None)
        if "reordered" in delivery.faults and held is None:
            self._held[delivery.vm_id] = delivery.delivery_id
            at += faults.reorder_wait
        self._queue(replace(delivery, at=at))
        if "repeated" in delivery.faults:
            self._repeat(delivery, at, faults)
        if held is not None and self.receipts[held].fate == "waiting":
            self._queue(replace(self.receipts[held].delivery, at=at))

    def _repeat(self, delivery: Delivery, at: float, faults: CallbackFaults) -> None:
        low, high = faults.repeats
        for _ in range(self._dice.stream(f"repeats/{delivery.delivery_id}").randint(low, high)):
            at += self._dice.seconds("callbacks/repeat", self._config.timing.callback)
            again = self._new(delivery.vm_id, delivery.url, delivery.body, at, (*delivery.faults, "repeat"))
            self._queue(again)

    def _queue(self, delivery: Delivery) -> None:
        self.receipts[delivery.delivery_id].delivery = delivery
        heapq.heappush(self._heap, (delivery.at, next(self._order), delivery.delivery_id))


_HITS = ("lost", "repeated", "delayed", "reordered", "nulled", "garbage")
