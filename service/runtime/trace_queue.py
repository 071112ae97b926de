"""VMs whose traces are to be made, and spans that are to be sent. Absent if traces are off, so that off costs nothing."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from service.core.journey import TraceSpan
from service.core.vm import Vm

Ref = tuple[UUID, int]

#: VMs that wait, and spans that wait. What comes beyond is dropped, and counted.
MOST_VMS: Final = 10_000
MOST_SPANS: Final = 2_000
#: A VM that became ready longer ago is not new.
_NEW: Final = timedelta(seconds=60)
#: How long a VM waits, so that the transaction that noted it is committed.
SETTLED: Final = timedelta(seconds=1)


@dataclass
class TraceQueue:
    """What is noted by jobs and requests of this process. Bounded: a collector that is away never holds memory or work."""

    dropped: int = 0
    spans: deque[TraceSpan] = field(default_factory=lambda: deque(maxlen=MOST_SPANS))
    _vms: dict[Ref, datetime] = field(default_factory=dict)
    _done: dict[Ref, None] = field(default_factory=dict)

    def note(self, vms: Iterable[Vm], now: datetime) -> None:
        """Note the VMs that have just become ready for the first time, or ended without."""
        for vm in vms:
            end = vm.ready_at or vm.ended_at
            if end is not None and end > now - _NEW and vm.ref not in self._done and vm.ref not in self._vms:
                self._insert(vm.ref, now)

    def add(self, span: TraceSpan) -> None:
        self.dropped += len(self.spans) == MOST_SPANS
        self.spans.append(span)

    def take(self, now: datetime, limit: int) -> list[Ref]:
        """VMs that were noted a moment ago, oldest first."""
        taken = [ref for ref, noted in self._vms.items() if noted <= now - SETTLED][:limit]
        for ref in taken:
            del self._vms[ref]
            self._done[ref] = None
            if len(self._done) > MOST_VMS:
                del self._done[next(iter(self._done))]
        return taken

    def _insert(self, ref: Ref, now: datetime) -> None:
        if len(self._vms) >= MOST_VMS:
            self.dropped += 1
        else:
            self._vms[ref] = now
