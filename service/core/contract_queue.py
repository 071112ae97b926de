"""Whose turn it is on a contract: those who wait longest first, and no more than it has room for. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from service.core.contract import Decision, Retrying, Room, Shortfall, Step, decide, gpus_in_all, gpus_left, room_for
from service.core.observation import Contract
from service.core.submission import ContractRetry


@dataclass(frozen=True, slots=True, kw_only=True)
class InQueue:
    """A VM in the queue of a contract."""

    ref: tuple[UUID, int]
    vm: Retrying
    gpu_model: str | None
    gpu_count: int | None
    retry: ContractRetry

    @property
    def gpus(self) -> int:
        return max(self.gpu_count or 1, 1)


@dataclass(frozen=True, slots=True)
class Turn:
    """What was decided for a VM, and the room that it found."""

    queued: InQueue
    decision: Decision
    room: Room


def share_out(
    queue: Sequence[InQueue],
    contract: Contract | None,
    *,
    promised: Mapping[str | None, int],
    replacing: Mapping[UUID, int],
    can_reassign: bool,
    now: datetime,
) -> list[Turn]:
    """Decide for each VM, first come first served.

    `promised` are the GPUs by model that others will take and that the provider does not show yet; `replacing` is how many
    VMs of each submission are being replaced. A VM that the contract is too full for keeps its turn: those behind it that
    want the same model wait too, unless the contract is too small for it in all.
    """
    shares = _Shares(contract, promised, replacing, now)
    return [
        shares.turn(one, can_reassign=can_reassign) for one in sorted(queue, key=lambda one: (one.vm.since, one.ref))
    ]


class _Shares:
    """What of a contract is taken, while turns are given."""

    def __init__(
        self,
        contract: Contract | None,
        promised: Mapping[str | None, int],
        replacing: Mapping[UUID, int],
        now: datetime,
    ) -> None:
        self._contract, self._now = contract, now
        self._promised = promised
        self._taken = Counter[str]()
        self._replacing = Counter(dict(replacing))
        self._held = set[str]()

    def turn(self, one: InQueue, *, can_reassign: bool) -> Turn:
        room = self._room(one)
        decision = decide(one.vm, room, one.retry, can_reassign=can_reassign, now=self._now)
        submission_id = one.ref[0]
        if decision.step is Step.REPLACE and self._replacing[submission_id] >= one.retry.max_replacing:
            busy = f"{self._replacing[submission_id]} VMs are being replaced, as many as the policy allows at once"
            return Turn(one, Decision(Step.WAIT, busy), room)
        if decision.step in {Step.REASSIGN, Step.REPLACE}:
            self._taken[_key(one.gpu_model)] += one.gpus
            self._replacing[submission_id] += decision.step is Step.REPLACE
        elif decision.step is Step.WAIT and room.shortfall is Shortfall.INSUFFICIENT and self._could_fit(one):
            self._held.add(_key(one.gpu_model))
        return Turn(one, decision, room)

    def _room(self, one: InQueue) -> Room:
        room = room_for(self._contract, gpu_model=one.gpu_model, gpu_count=one.gpu_count, now=self._now)
        if not room.vms or self._contract is None:
            return room
        key = _key(one.gpu_model)
        promised = sum(gpus for model, gpus in self._promised.items() if model is None or _key(model) == key)
        left = (gpus_left(self._contract, one.gpu_model) or 0) - promised - self._taken[key]
        if key in self._held or left < one.gpus:
            return Room(0, Shortfall.INSUFFICIENT)
        return replace(room, vms=left // one.gpus)

    def _could_fit(self, one: InQueue) -> bool:
        in_all = gpus_in_all(self._contract, one.gpu_model) if self._contract else None
        return in_all is None or in_all >= one.gpus


def _key(gpu_model: str | None) -> str:
    return (gpu_model or "").lower()
