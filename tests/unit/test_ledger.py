import pytest
from clock import NOON
from ledger import Kept, Ledger, Moved, Record, Serial, complaints

from service.core.ids import uuid7

EVENTS = [uuid7(NOON, number.to_bytes(8, "big")) for number in range(9)]
FIRST, SECOND, THIRD = (Serial(7, number) for number in (1, 2, 3))


def ledger(*acknowledged, tries=()):
    made = Ledger(acknowledged=set(acknowledged))
    made.tries.update([*acknowledged, *tries])
    return made


def record(*serials, moved=None):
    """Events of these callbacks, in this order; those with the given places moved their VM, or else the first of each."""
    kept = [Kept(serial, event_id) for serial, event_id in zip(serials, EVENTS, strict=False)]
    first = [place for place, serial in enumerate(serials) if serial not in serials[:place]]
    places = first if moved is None else moved
    return Record(kept, [Moved(7, EVENTS[place]) for place in places])


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (ledger(), record()),
        (ledger(FIRST, SECOND), record(FIRST, SECOND)),
        (ledger(FIRST, tries=[SECOND]), record(FIRST, SECOND)),  # kept, and nobody was told
        (ledger(FIRST, tries=[SECOND]), record(FIRST)),  # not kept, and nobody was told
        (ledger(FIRST, SECOND, tries=[FIRST]), record(FIRST, FIRST, SECOND)),  # sent again, since nobody was told
        (ledger(FIRST, Serial(8, 1)), Record([Kept(Serial(8, 1), EVENTS[1]), Kept(FIRST, EVENTS[0])],
                                             [Moved(8, EVENTS[1]), Moved(7, EVENTS[0])])),  # VMs have no order among them
    ],
)  # fmt: skip
def test_a_record_that_holds_what_was_acknowledged_is_not_complained_of(told, found):
    assert complaints(told, found) == []


@pytest.mark.parametrize(
    ("told", "found", "complaint"),
    [
        (ledger(FIRST, SECOND), record(FIRST), "lost"),
        (ledger(FIRST, SECOND, tries=[SECOND, SECOND]), record(FIRST), "lost"),
        (ledger(FIRST), record(FIRST, FIRST), "kept too often"),
        (ledger(FIRST), record(FIRST, SECOND), "kept too often"),  # and never sent at all
        (ledger(FIRST, SECOND), record(SECOND, FIRST), "out of order"),
        (ledger(FIRST, SECOND, tries=[FIRST]), record(FIRST, SECOND, FIRST), "out of order"),
        (ledger(FIRST), record(FIRST, moved=[0, 0]), "moved twice"),
        (ledger(FIRST), record(FIRST, moved=[]), "moved otherwise"),
        (ledger(FIRST, tries=[FIRST]), record(FIRST, FIRST, moved=[0, 1]), "moved otherwise"),
        (ledger(FIRST, SECOND), record(FIRST, SECOND, moved=[1, 0]), "moved otherwise"),
        (ledger(FIRST), record(FIRST, moved=[0, 5]), "moved by nothing"),
    ],
)
def test_whatever_is_lost_repeated_or_disordered_is_complained_of(told, found, complaint):
    assert any(one.startswith(complaint) for one in complaints(told, found))


def test_ledgers_add_up():
    whole = ledger(FIRST)
    whole.add(ledger(SECOND, tries=[SECOND, THIRD]))
    assert whole.acknowledged == {FIRST, SECOND}
    assert whole.tries == {FIRST: 1, SECOND: 2, THIRD: 1}
