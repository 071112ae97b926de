"""When to refresh a VM, and what a lookup adopts. The calls are made in `worker/`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from service.core.contract import Assignment
from service.core.lifecycle import ENDED, NEWBORN, TRANSIENT, VmState

#: Seconds within which a LOST VM is read again.
_LOST_AT_LEAST_EVERY: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPolicy:
    """When to refresh, in seconds. `overdue` is how long a transient state may last before a refresh."""

    overdue: float = 120.0
    #: The same for newborn VMs, by flavor and region, learned from how long other VMs took.
    learned: Mapping[tuple[str, str | None], float] = field(default_factory=dict)
    again: float = 10.0  #: between refreshes that changed nothing; doubles up to `overdue`
    resync: float = 600.0  #: every VM is read at least this often
    history: float = 60.0  #: how long to wait for late callbacks before the events history is read

    def patience(self, vm: "RefreshInputs") -> float:
        """How long a VM may stay in its state before a refresh: learned from others of its flavor, if it is newborn."""
        if vm.state not in NEWBORN:
            return self.overdue
        return self.learned.get((vm.flavor, vm.region), self.overdue)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshInputs:
    """What the next refresh of a VM depends on. `tries` counts refreshes that changed nothing."""

    state: VmState
    ready: bool
    assignment: Assignment
    tries: int = 0
    flavor: str = ""
    region: str | None = None


def is_ready(state: VmState, *, wants_address: bool, address: str | None, assignment: Assignment) -> bool:
    """Whether a VM is ready: ACTIVE, with its public address if it wants one, and its contract decided by policy.

    ACTIVE may be reported before the public address is attached (infrahub-api.md section 2.3).
    """
    decided = assignment in {Assignment.NONE, Assignment.ASSIGNED, Assignment.ON_DEMAND, Assignment.GIVEN_UP}
    return state is VmState.ACTIVE and decided and (address is not None or not wants_address)


def next_refresh(
    vm: RefreshInputs, *, now: datetime, refresh_policy: RefreshPolicy, refresh_now: bool
) -> datetime | None:
    """When to refresh a VM next; None only if it has ended or was not sent yet, so no lost callback is lost for good."""
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


@lru_cache(maxsize=1024)  # few different values, for millions of callbacks
def _span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def learned_overdue(p95: float, refresh_policy: RefreshPolicy) -> float:
    """Seconds after which a newborn VM is overdue, if 95 of 100 others took `p95` seconds to become ACTIVE.

    Half as long again, but at least `again`, and at most the longer of `resync` and `overdue`.
    """
    return min(max(1.5 * p95, refresh_policy.again), max(refresh_policy.resync, refresh_policy.overdue))


def worth_a_list(due: int, fleet: int, *, page_size: int) -> bool:
    """Whether reading the whole list costs fewer calls than reading each due VM."""
    return due > max(1, -(-fleet // page_size))


@dataclass(frozen=True, slots=True)
class Adoption:
    """What a lookup found: VMs to bind, VMs too many, and whether the creation is complete with that."""

    bind: Mapping[int, int]  # vm_no -> provider id
    extra: tuple[int, ...]
    complete: bool


def adopt(open_vms: Sequence[int], found: Iterable[int], *, window_over: bool) -> Adoption:
    """Match the provider's VMs that carry a creation's ownership tags with those of its VMs that are not bound yet.

    Fewer than requested complete it only when the lookup window is over: a list may lag behind creates by seconds
    (field-notes.md section 1).
    """
    ids = sorted(set(found))
    bind = dict(zip(sorted(open_vms), ids, strict=False))
    return Adoption(bind, tuple(ids[len(bind) :]), complete=window_over or len(bind) == len(open_vms))
