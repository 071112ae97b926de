"""When to ask the provider, and what its answers mean for whom: readings as an answer to a need, not a habit.

Choosing is here; the asking is in `worker/`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from service.core.contract import Assignment
from service.core.lifecycle import ENDED, NEWBORN, TRANSIENT, VmState

#: In seconds: how often at least a VM is read that the provider did not know when it was last read.
_LOST_AT_LEAST_EVERY: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPolicy:
    """How patient we are, in seconds. `overdue` is how long a passing state may last before we ask."""

    overdue: float = 120.0
    #: The same for newborn VMs, by flavor and region, learned from how long others took.
    learned: Mapping[tuple[str, str | None], float] = field(default_factory=dict)
    again: float = 10.0  #: between readings that answered a need and did not settle it; doubles up to `overdue`
    resync: float = 600.0  #: every VM is read at least this often
    history: float = 60.0  #: how long late callbacks may still come before their lack is looked into

    def patience(self, vm: "RefreshInputs") -> float:
        """How long a VM may stay as it is before we ask: what its like took to become ACTIVE, where that is known."""
        if vm.state not in NEWBORN:
            return self.overdue
        return self.learned.get((vm.flavor, vm.region), self.overdue)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshInputs:
    """Where a VM stands, as far as the next reading depends on it. `tries` counts readings that settled nothing."""

    state: VmState
    ready: bool
    assignment: Assignment
    tries: int = 0
    flavor: str = ""
    region: str | None = None


def is_ready(state: VmState, *, wants_address: bool, address: str | None, assignment: Assignment) -> bool:
    """Whether a VM is what its user waits for: ACTIVE, reachable as asked, its contract settled by policy.

    ACTIVE may be reported before the public address is attached (infrahub-api.md section 2.3).
    """
    settled = assignment in {Assignment.NONE, Assignment.ASSIGNED, Assignment.ON_DEMAND, Assignment.GIVEN_UP}
    return state is VmState.ACTIVE and settled and (address is not None or not wants_address)


def next_refresh(
    vm: RefreshInputs, *, now: datetime, refresh_policy: RefreshPolicy, refresh_now: bool
) -> datetime | None:
    """When to read a VM next; None only where it has ended, or has not been sent yet.

    A VM always has a next reading otherwise, so that nothing that was lost on the way is lost for good.
    """
    if vm.state in ENDED or vm.state is VmState.REQUESTED:
        return None
    if refresh_now and vm.tries == 0:
        return now
    patience = min(refresh_policy.again * 2 ** min(vm.tries, 32), max(refresh_policy.overdue, refresh_policy.again))
    if refresh_now:
        return now + _span(patience)
    if vm.state in TRANSIENT:
        return now + _span(patience if vm.tries else refresh_policy.patience(vm))
    if vm.state is VmState.ACTIVE and not vm.ready and vm.assignment is not Assignment.RETRYING:
        return now + _span(patience)
    if vm.state is VmState.LOST:
        rarely = refresh_policy.resync * 2 ** min(vm.tries, 32)
        return now + _span(max(refresh_policy.resync, min(rarely, _LOST_AT_LEAST_EVERY)))
    return now + _span(refresh_policy.resync)


@lru_cache(maxsize=1024)  # few different ones for millions of callbacks, each of which would make its own
def _span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def learned_overdue(p95: float, refresh_policy: RefreshPolicy) -> float:
    """When a newborn VM is overdue, where 95 of 100 of its like took `p95` seconds to become ACTIVE.

    Half as long again, and never so short that ordinary variety looks like trouble, nor longer than a sweep.
    """
    return min(max(1.5 * p95, refresh_policy.again), max(refresh_policy.resync, refresh_policy.overdue))


def worth_a_list(due: int, fleet: int, *, page_size: int) -> bool:
    """Whether list pages cost fewer calls than reading each due VM alone."""
    return due > max(1, -(-fleet // page_size))


@dataclass(frozen=True, slots=True)
class Adoption:
    """What was found for an unconfirmed creation: VMs to bind, VMs too many, and whether that settles it."""

    bind: Mapping[int, int]  # vm_no -> provider id
    extra: tuple[int, ...]
    settled: bool


def adopt(open_vms: Sequence[int], found: Iterable[int], *, window_over: bool) -> Adoption:
    """Bind the provider's VMs that carry a creation's ownership tags to the VMs of it that have none yet.

    Fewer than asked for settles it only when the quiet time is over: a list may lag behind creates by seconds
    (field-notes.md section 1), and binding is no reason to stop looking.
    """
    ids = sorted(set(found))
    bind = dict(zip(sorted(open_vms), ids, strict=False))
    return Adoption(bind, tuple(ids[len(bind) :]), settled=window_over or len(bind) == len(open_vms))
