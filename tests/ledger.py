"""What a sender was told, against what the record says. Comparing only: who sends and who reads is another's business.

Each VM's callbacks are numbered and sent one after another, each until it is acknowledged, and each says of the VM what
moves it. So the record has to hold every number that was acknowledged, in this order, and to have moved by each once.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import NamedTuple
from uuid import UUID


class Serial(NamedTuple):
    """A callback: the VM that it is about, and its number among that VM's."""

    provider_id: int
    number: int


class Kept(NamedTuple):
    """An event of the record."""

    serial: Serial
    event_id: UUID


class Moved(NamedTuple):
    """A transition of the record that an event made."""

    provider_id: int
    event_id: UUID


@dataclass
class Ledger:
    """What was sent, how often, and what was acknowledged."""

    tries: Counter[Serial] = field(default_factory=Counter)
    acknowledged: set[Serial] = field(default_factory=set)

    def add(self, other: "Ledger") -> None:
        self.tries += other.tries
        self.acknowledged |= other.acknowledged


@dataclass(frozen=True)
class Record:
    """Events in the order they were heard, and the transitions that they made in the order they were made."""

    kept: Sequence[Kept]
    moved: Sequence[Moved]

    @property
    def kept_again(self) -> int:
        """How many events are in the record because somebody was not told that the same callback had been kept."""
        return len(self.kept) - len({one.serial for one in self.kept})


def complaints(ledger: Ledger, record: Record) -> list[str]:
    """What the record lacks, has too often, or has in another order than it was sent."""
    return [*_of_events(ledger, record.kept), *_of_moves(record)]


def _of_events(ledger: Ledger, kept: Sequence[Kept]) -> Iterator[str]:
    times = Counter(one.serial for one in kept)
    for serial in sorted(ledger.acknowledged - set(times)):
        yield f"lost: {serial} was acknowledged and is not in the record"
    for serial, number in sorted(times.items()):
        if number > ledger.tries[serial]:
            yield f"kept too often: {serial} was sent {ledger.tries[serial]} times and is in the record {number} times"
    for provider_id, numbers in _by_vm(kept).items():
        for before, after in pairwise(numbers):
            if after < before:
                yield f"out of order: {before} of VM {provider_id} was heard before {after}"


def _of_moves(record: Record) -> Iterator[str]:
    for event_id, number in Counter(one.event_id for one in record.moved).items():
        if number > 1:
            yield f"moved twice: event {event_id} made {number} transitions"
    serials = {one.event_id: one.serial for one in record.kept}
    moves: dict[int, list[int]] = {}
    for one in record.moved:
        if one.event_id in serials:
            moves.setdefault(one.provider_id, []).append(serials[one.event_id].number)
        else:
            yield f"moved by nothing: VM {one.provider_id} by event {one.event_id}, which is not in the record"
    for provider_id, numbers in _by_vm(record.kept).items():
        heard, moved = sorted(set(numbers)), moves.get(provider_id, [])
        if moved != heard:
            pairs = enumerate(zip_longest(heard, moved))
            at, (should, did) = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
            yield f"moved otherwise: VM {provider_id} by {did} where it should be {should}, as move {at} of {len(heard)}"


def _by_vm(kept: Sequence[Kept]) -> Mapping[int, list[int]]:
    found: dict[int, list[int]] = {}
    for one in kept:
        found.setdefault(one.serial.provider_id, []).append(one.serial.number)
    return found
