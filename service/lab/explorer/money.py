"""Whether the cost on record is right: it is exactly what the record adds up to, and differs from the ground truth only
between a change and the moment at which the record learned of it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final

from service.lab.explorer.record import Record, Row
from service.lab.explorer.spans import Charge, History, Recorded, Sums, TimedValue, Truth, Value, VmHistory, sums
from service.lab.explorer.world import World
from service.queries.cost import CostRow

#: With these, answers and callbacks say what is not true, and what the record has of it is not the daemon's mistake.
_UNTRUE: Final = frozenset({"bad answers", "bad callbacks"})
_PLACES: Final = 10**6
Window = tuple[int, int]


def check_money(
    world: World, record: Record, truth: Mapping[int, Mapping[str, Any]], kinds: Iterable[str]
) -> Iterator[str]:
    """Every way in which costs are wrong. Nothing is compared by its times if the clock was set back."""
    if world.clock.set_back_by:
        return
    recorded, until = Recorded(record, world.clock.start), round(world.clock.elapsed * 1e6)
    real = Truth(world.cloud.fleet.prices.history, _percents(world))
    untrue = not _UNTRUE.isdisjoint(kinds)
    for vm in record.vms:
        mine = recorded.of(vm)
        added_up = sums(mine, until)
        yield from recomputed(vm, added_up, record.costs.get(f"{vm['submission_id']}.{vm['vm_no']}"))
        if untrue or vm["provider_id"] in world.forged:
            continue
        if (found := truth.get(vm["provider_id"])) is not None:
            end = until if vm["state"] != "RELEASED" else min(until, recorded.micros(vm["ended_at"]))
            yield from (
                f"VM {vm['provider_id']} ({vm['vm_no']}) {text}" for text in compared(real.of(found), mine, end)
            )
        elif added_up.known or added_up.unknown:
            yield f"VM {vm['vm_no']} costs something, and the cloud never made it"


def compared(real: VmHistory, mine: VmHistory, until: int) -> Iterator[str]:
    """Where a VM's charges on record differ from the true ones, although the record had learned of every change."""
    charged, why = learned(real.charged, mine.charged, until, "is charged", mine.by_callback)
    off, why_off = learned(real.off, mine.off, until, "is off its contract")
    yield from (*why, *why_off)
    if why or why_off:
        return
    windows = [*charged, *off]
    late = [*windows, *_late_prices(real, mine, until)]
    moments = {0, until, *(at for at in real.moments | mine.moments if 0 < at < until)}
    for lower, upper in pairwise(sorted(moments)):
        one, other = real.at(lower), mine.at(lower)
        if one[:2] != other[:2] and not _within(lower, windows):
            yield f"is {_text(other)} on record from {_s(lower)} to {_s(upper)}, and really {_text(one)}"
        elif other.rate is not None and one.rate != other.rate and not _within(lower, late):
            yield f"costs {other.rate} an hour on record from {_s(lower)} to {_s(upper)}, and really {one.rate}"
    yield from _sums_differ(sums(real, until), sums(mine, until), Fraction(_length(charged), _PLACES), _length(windows))


def learned(
    real: History[Value], mine: History[Value], until: int, what: str, may_be_old: Collection[int] = ()
) -> tuple[list[Window], list[str]]:
    """The times between each true change and when the record learned of it; and changes on record that never were.

    A recorded change tells of the latest true one to the same value, and of all before it. At the moments `may_be_old` it
    may tell of one that is past: the record is wrong again from that one on, until its next change.
    """
    changes, known, windows, wrong = real.turns, 0, list[Window](), list[str]()
    for turn in (one for one in mine.turns if one.at < until):
        tells = [
            number
            for number, one in enumerate(changes, 1)
            if (number >= known or turn.at in may_be_old) and one.at <= turn.at and one.value == turn.value
        ]
        if not tells and not (known == 0 and turn.value == real.first):
            text = what if turn.value else what.replace("is", "is not", 1)
            wrong.append(f"{text} on record at {_s(turn.at)}, which never was so")
            continue
        windows += [(one.at, turn.at) for one in changes[known : max(tells, default=known)]]
        known = max(tells, default=known)
    return [*windows, *((one.at, until) for one in changes[known:])], wrong


def _late_prices(real: VmHistory, mine: VmHistory, until: int) -> list[Window]:
    """The times between each change of a price and the next reading of one that is on record."""
    readings = sorted(one.at for one in mine.price.changes)
    changes: list[TimedValue[Fraction | None]] = real.price.turns
    return [(one.at, next((at for at in readings if at >= one.at), until)) for one in changes]


def _sums_differ(one: Sums, other: Sums, late: Fraction, late_at_all: int) -> Iterator[str]:
    apart = abs(one.known + one.unknown - other.known - other.unknown)
    off = abs(one.off_known + one.off_unknown - other.off_known - other.off_unknown)
    if apart > late:
        yield f"is charged for {float(apart)} s more or less than really, and its changes were learned {float(late)} s late"
    if off > Fraction(late_at_all, _PLACES):
        yield f"is off contract for {float(off)} s more or less than really"


def recomputed(vm: Row, expected: Sums, found: CostRow | None) -> Iterator[str]:
    """The report of the product is what the record adds up to, exactly."""
    if found is None:
        if any(expected):
            yield f"VM {vm['vm_no']} costs something and is in no report"
        return
    pairs = {
        "seconds": (found.billed_seconds, expected.known),
        "seconds at no known price": (found.unknown_seconds, expected.unknown),
        "money": (found.estimate, _rounded(expected.money)),
        "seconds off contract": (found.off_contract_seconds, expected.off_known),
        "seconds off contract at no known price": (found.off_contract_unknown_seconds, expected.off_unknown),
        "money off contract": (found.off_contract_estimate, _rounded(expected.off_money)),
    }
    for name, (reported, added_up) in pairs.items():
        if reported != added_up:
            yield f"VM {vm['vm_no']}: the report says {reported} {name}, and the record adds up to {float(added_up)}"


def _rounded(amount: Fraction) -> Fraction:
    return Fraction(round(amount * _PLACES), _PLACES)


def _percents(world: World) -> dict[int, float]:
    return {
        contract.id: contract.lines[0].discount_percent
        for contract in world.cloud.fleet.contracts.by_id.values()
        if contract.lines
    }


def _within(moment: int, windows: Iterable[Window]) -> bool:
    return any(lower <= moment < upper for lower, upper in windows)


def _length(windows: Iterable[Window]) -> int:
    """How long the windows last together, each moment counted once."""
    total, covered = 0, 0
    for lower, upper in sorted(windows):
        total += max(0, upper - max(lower, covered))
        covered = max(covered, upper)
    return total


def _text(one: Charge) -> str:
    return f"{'charged' if one.charged else 'free'}{' off its contract' if one.off else ''}"


def _s(micros: int) -> str:
    return f"{micros / _PLACES:.1f} s"
