"""What each VM was charged for over time, by the cloud's ground truth and by the record; in microseconds since the start.

Shares nothing with the product's own reports but the tables: it looks up each moment by itself, in fractions.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final, Generic, NamedTuple, TypeVar

from service.lab.explorer.record import Record, Row

Value = TypeVar("Value")

#: What the provider charges in full (infrahub-api.md section 2.3), and the states between ACTIVE and SHUTOFF.
CHARGED: Final = frozenset({"ACTIVE", "SHUTOFF", "STARTING", "STOPPING", "REBOOTING"})
_MICRO: Final = timedelta(microseconds=1)


class TimedValue(NamedTuple, Generic[Value]):
    """A value that holds from a moment on."""

    at: int
    value: Value


class Charge(NamedTuple):
    """What a VM is charged for at a moment: whether at all, off its contract, and its price per hour if known."""

    charged: bool
    off: bool
    rate: Fraction | None


class History(Generic[Value]):
    """A value over time; `first` until the first change."""

    def __init__(self, first: Value, changes: Iterable[TimedValue[Value]]) -> None:
        self.first, self.changes = first, list(changes)
        self._times = [one.at for one in self.changes]

    def at(self, moment: int) -> Value:
        found = bisect_right(self._times, moment)
        return self.changes[found - 1].value if found else self.first

    @property
    def turns(self) -> list[TimedValue[Value]]:
        """The changes to another value than the one before."""
        values = [self.first, *(one.value for one in self.changes)]
        return [one for before, one in zip(values, self.changes, strict=False) if before != one.value]


class VmHistory(NamedTuple):
    """All that the cost of a VM depends on, by one side."""

    charged: History[bool]
    off: History[bool | None]  #: None as long as nobody has said, and if no contract was requested
    contract_id: History[int | None]
    price: History[Fraction | None]
    units: int | None
    discount: Mapping[int, History[Fraction | None]]  #: in percent, by contract
    by_callback: frozenset[int] = frozenset()  #: when changes of `charged` were told by callbacks, which may be late

    def at(self, moment: int) -> Charge:
        if not self.charged.at(moment):
            return Charge(False, False, None)
        price, contract_id, off = self.price.at(moment), self.contract_id.at(moment), self.off.at(moment) is True
        if price is None or self.units is None:
            return Charge(True, off, None)
        full = price * self.units
        if contract_id is None:
            return Charge(True, off, full)
        terms = self.discount.get(contract_id)
        percent = terms.at(moment) if terms else None
        return Charge(True, off, None if percent is None else full * (1 - percent / 100))

    @property
    def moments(self) -> set[int]:
        histories: Sequence[History[Any]] = (
            self.charged, self.off, self.contract_id, self.price, *self.discount.values()
        )  # fmt: skip
        return {change.at for one in histories for change in one.changes}


class Sums(NamedTuple):
    """Seconds at a known and an unknown price, and the money of the known ones; in all, and of it off contract."""

    known: Fraction
    unknown: Fraction
    money: Fraction
    off_known: Fraction
    off_unknown: Fraction
    off_money: Fraction


def sums(vm: VmHistory, until: int) -> Sums:
    """What a VM comes to from the start until a moment."""
    found = [Fraction(0)] * 6
    for lower, upper in pairwise(sorted({0, until, *(one for one in vm.moments if 0 < one < until)})):
        charge, seconds = vm.at(lower), Fraction(upper - lower, 10**6)
        if charge.charged:
            part = [seconds, 0, seconds * charge.rate / 3600] if charge.rate is not None else [0, seconds, 0]
            found = [one + more for one, more in zip(found, [*part, *(part if charge.off else [0] * 3)], strict=True)]
    return Sums(*found)


class Truth:
    """The cloud's side."""

    def __init__(self, prices: Mapping[str, Sequence[tuple[float, float]]], percents: Mapping[int, float]) -> None:
        self._prices = prices
        self._discount: dict[int, History[Fraction | None]] = {
            contract_id: History(Fraction(str(percent)), ()) for contract_id, percent in percents.items()
        }

    def of(self, vm: Mapping[str, Any]) -> VmHistory:
        wanted = vm["contract_requested"]
        on = [TimedValue(_micros(one["at"]), one["contract_id"]) for one in vm["contract_history"]]
        prices = self._prices[vm["priced_as"]]
        return VmHistory(
            charged=History(False, (TimedValue(_micros(one["at"]), one["status"] in CHARGED) for one in vm["history"])),
            off=History(None, (TimedValue(at, now != wanted) for at, now in on if wanted is not None)),
            contract_id=History(None, on),
            price=History(None, (TimedValue(_micros(at), Fraction(str(price))) for at, price in prices)),
            units=vm["price_units"],
            discount=self._discount,
        )


class Recorded:
    """The record's side."""

    def __init__(self, record: Record, start: datetime) -> None:
        self._start = start
        self._moves, self._steps = _by_vm(record.transitions), _by_vm(record.assignments)
        self._prices = record.prices
        self._discount = {
            one["contract_id"]: self._dated(
                row if row["kind"] == "percent" and 0 <= row["value"] <= 100 else {**row, "value": None}
                for row in record.discounts
                if row["contract_id"] == one["contract_id"]
            )
            for one in record.discounts
        }

    def of(self, vm: Row) -> VmHistory:
        moves = [one for one in self._moves.get(_key(vm), ()) if one["verdict"] == "moved"]
        steps = [one for one in self._steps.get(_key(vm), ()) if one["outcome"] in {"assigned", "on_demand"}]
        steps.sort(key=lambda one: (one["at"], one["attempt"]))
        named = (vm["flavor"], vm["gpu_model"])
        prices = [row for row in self._prices if row["resource"].lower() in {name.lower() for name in named if name}]
        return VmHistory(
            charged=History(False, (TimedValue(self.micros(one["at"]), one["to_state"] in CHARGED) for one in moves)),
            off=History(None, (TimedValue(self.micros(one["at"]), one["outcome"] == "on_demand") for one in steps)),
            contract_id=History(
                None,
                (
                    TimedValue(self.micros(one["at"]), one["contract_id"] if one["outcome"] == "assigned" else None)
                    for one in steps
                ),
            ),
            price=self._dated(prices),
            units=vm["gpu_count"] if vm["gpu_model"] else 1,
            discount=self._discount,
            by_callback=frozenset(self.micros(one["at"]) for one in moves if one["evidence"] == "event"),
        )

    def micros(self, at: datetime) -> int:
        return (at - self._start) // _MICRO

    def _dated(self, rows: Iterable[Row]) -> History[Fraction | None]:
        """The values by when they were read. One that could not be understood is None."""
        values = [
            TimedValue(self.micros(one["read_at"]), None if one["value"] is None else Fraction(one["value"]))
            for one in sorted(rows, key=lambda one: one["read_at"])
        ]
        return History(None, values)


def _by_vm(rows: Iterable[Row]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(_key(row), []).append(row)
    return found


def _key(row: Row) -> Any:
    return row["submission_id"], row["vm_no"]


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)
