"""What VMs cost, recomputed slowly from raw rows and in fractions. It shares nothing with the product but the tables.

Between two moments at which anything changed, each VM is looked up by itself: its state, its contract, its price.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# infrahub-api.md section 2.3, and the states between ACTIVE and SHUTOFF.
FULL = {"ACTIVE", "SHUTOFF", "STARTING", "STOPPING", "REBOOTING"}
PARTIAL = {"HIBERNATED"}


@dataclass
class Sums:
    """What the time of one key adds up to."""

    vms: set[str] = field(default_factory=set)
    billed: Fraction = Fraction(0)
    unknown: Fraction = Fraction(0)
    money: Fraction = Fraction(0)
    off_billed: Fraction = Fraction(0)
    off_unknown: Fraction = Fraction(0)
    off_money: Fraction = Fraction(0)

    def add(self, seconds: Fraction, rate: Fraction | None, *, off: bool) -> None:
        names = ("unknown",) if rate is None else ("billed", "money")
        for name in [*names, *(f"off_{one}" for one in names if off)]:
            amount = seconds * rate / 3600 if name.endswith("money") and rate is not None else seconds
            setattr(self, name, getattr(self, name) + amount)


async def rows(conn: AsyncConnection, table: str, order: str) -> list[Mapping[str, Any]]:
    found = await conn.execute(text(f"SELECT * FROM {table} ORDER BY {order}"))
    return list(found.mappings())


@dataclass(frozen=True)
class Record:
    """Everything on record that a cost depends on."""

    vms: Sequence[Mapping[str, Any]]
    submissions: Mapping[Any, Mapping[str, Any]]
    moves: Sequence[Mapping[str, Any]]
    steps: Sequence[Mapping[str, Any]]
    prices: Sequence[Mapping[str, Any]]
    discounts: Sequence[Mapping[str, Any]]

    @classmethod
    async def read(cls, conn: AsyncConnection) -> "Record":
        return cls(
            vms=await rows(conn, "vms", "submission_id, vm_no"),
            submissions={one["submission_id"]: one for one in await rows(conn, "submissions", "submission_id")},
            moves=[one for one in await rows(conn, "transitions", "seq") if one["verdict"] == "moved"],
            steps=[
                one
                for one in await rows(conn, "assignments", "at, attempt")
                if one["outcome"] in {"assigned", "on_demand"}
            ],
            prices=await rows(conn, "prices", "read_at"),
            discounts=await rows(conn, "contract_discounts", "read_at"),
        )

    def report(self, since: datetime, until: datetime, by: str) -> dict[str, Sums]:
        """The sums of a period by a key, without keys for which no time was billed."""
        found = defaultdict[str, Sums](Sums)
        for vm in self.vms:
            for lower, upper in pairwise(self._moments(since, until)):
                state, off, contract_id = self._at(vm, lower)
                if state not in FULL | PARTIAL:
                    continue
                rate = self._rate(vm, contract_id, lower) if state in FULL else None
                for key in KEYS[by](self, vm, contract_id, lower):
                    found[key].vms.add(ref(vm))
                    found[key].add(Fraction((upper - lower) // timedelta(microseconds=1), 10**6), rate, off=off)
        return dict(found)

    def _moments(self, since: datetime, until: datetime) -> list[datetime]:
        changes = [one["at"] for one in (*self.moves, *self.steps)]
        changes += [one["read_at"] for one in (*self.prices, *self.discounts)]
        midnight = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        changes += [midnight + timedelta(days=day) for day in range((until - midnight).days + 1)]
        return sorted({since, until, *(at for at in changes if since < at < until)})

    def _at(self, vm: Mapping[str, Any], at: datetime) -> tuple[str, bool, int | None]:
        moves = [one for one in self.moves if same(one, vm) and one["at"] <= at]
        steps = [one for one in self.steps if same(one, vm) and one["at"] <= at]
        last = steps[-1] if steps else None
        assigned = last is not None and last["outcome"] == "assigned"
        state = moves[-1]["to_state"] if moves else "REQUESTED"
        return state, last is not None and not assigned, last["contract_id"] if last and assigned else None

    def _rate(self, vm: Mapping[str, Any], contract_id: int | None, at: datetime) -> Fraction | None:
        units = ((vm["flavor"], 1), (vm["gpu_model"], vm["gpu_count"]))
        found = [(price, count) for name, count in units if (price := held(self.prices, name, at)) is not None]
        if not found or found[0][0]["currency"] != "USD" or not found[0][1]:
            return None
        full = Fraction(found[0][0]["value"]) * found[0][1]
        if contract_id is None:
            return full
        mine = [one for one in self.discounts if one["contract_id"] == contract_id]
        terms = [less(full, one, count) for name, count in units if (one := held(mine, name, at)) is not None]
        return terms[0] if terms else None


def less(full: Fraction, terms: Mapping[str, Any], units: int | None) -> Fraction | None:
    if terms["kind"] == "percent" and terms["value"] <= 100:
        return full * (1 - Fraction(terms["value"]) / 100)
    if terms["kind"] == "flat" and units:
        return max(Fraction(0), full - Fraction(terms["value"]) * units)
    return None


def held(history: Iterable[Mapping[str, Any]], name: str | None, at: datetime) -> Mapping[str, Any] | None:
    found = [one for one in history if name and one["resource"].lower() == name.lower() and one["read_at"] <= at]
    return found[-1] if found else None


def same(row: Mapping[str, Any], vm: Mapping[str, Any]) -> bool:
    return (row["submission_id"], row["vm_no"]) == (vm["submission_id"], vm["vm_no"])


def ref(vm: Mapping[str, Any]) -> str:
    return f"{vm['submission_id']}.{vm['vm_no']}"


def labels(record: Record, vm: Mapping[str, Any]) -> set[str]:
    return set(record.submissions[vm["submission_id"]]["spec"].get("labels") or ["none"])


KEYS: Mapping[str, Callable[[Record, Mapping[str, Any], int | None, datetime], Iterable[str]]] = {
    "total": lambda _record, _vm, _contract, _at: ["total"],
    "vm": lambda _record, vm, _contract, _at: [ref(vm)],
    "submission": lambda _record, vm, _contract, _at: [str(vm["submission_id"])],
    "contract": lambda _record, _vm, contract, _at: [str(contract or "none")],
    "label": lambda record, vm, _contract, _at: labels(record, vm),
    "caller": lambda record, vm, _contract, _at: [record.submissions[vm["submission_id"]]["requested_by"]],
    "flavor": lambda _record, vm, _contract, _at: [vm["flavor"]],
    "region": lambda _record, vm, _contract, _at: [vm["region"] or "none"],
    "day": lambda _record, _vm, _contract, at: [f"{at.astimezone(UTC):%Y-%m-%d}"],
}
