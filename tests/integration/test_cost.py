"""The cost of a fleet against a real Postgres and the simulator's price book, compared with a slow recomputation."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from slow_cost import Record, Sums
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from stage import START, Stage, refusal

from service.core import money
from service.core.lifecycle import EvidenceKind, VerdictKind, VmState
from service.core.money import ContractDiscount, ListPrice
from service.core.vm import AssignmentStep, Transition, Vm
from service.queries import cost as cost_queries
from service.queries.cost import CostRow, Period
from service.storage import tables
from service.storage.engine import begin
from service.storage.rows import insert_many
from service.worker import prices

A100 = "A100-80G-PCIe"
RETRY = {"first_wait_seconds": 10, "max_wait_seconds": 40, "attempts": 50, "deadline_seconds": 5000}
MISFORTUNE = {"callbacks": {"lost": 0.2, "repeated": 0.3, "reordered": 0.3}, "vms": {"boot_error": 0.1}}
BYS = ("vm", "submission", "contract", "label", "caller", "flavor", "region", "day")


def with_room(gpus: int, **changes: Any) -> dict[str, Any]:
    line = {"resource_name": A100, "resource_count": gpus, "discount_percent": 20}
    return {"contracts": [{"id": 41, "discounts": [line]}], **changes}


def period_of(since: datetime, until: datetime, submission_id: Any = None) -> Period:
    return Period(since=since, until=until, submission_id=submission_id, currency="USD")


async def report(stage: Stage, period: Period, by: Any, *, limit: int = 1000) -> list[CostRow]:
    found: list[CostRow] = []
    async with begin(stage.engine) as conn:
        while True:
            after = found[-1].key if found else None
            part = await cost_queries.page(conn, period, by=by, after=after, limit=limit)
            assert len(part) <= limit
            found += part
            if len(part) < limit:
                return found


async def total(stage: Stage, period: Period) -> CostRow:
    async with begin(stage.engine) as conn:
        return await cost_queries.total(conn, period)


def differs(found: list[CostRow], expected: dict[str, Sums]) -> list[tuple[str, str]]:
    """Where a report differs from the slow recomputation, exactly. Rows without billed time may be there or not."""
    rows = {row.key: row for row in found}
    wrong = [(key, "missing") for key in expected if key not in rows]
    for key, row in rows.items():
        sums = expected.get(key, Sums())
        pairs = {
            "billed": (row.billed_seconds, sums.billed),
            "unknown": (row.unknown_seconds, sums.unknown),
            "estimate": (row.estimate, rounded(sums.money)),
            "off billed": (row.off_contract_seconds, sums.off_billed),
            "off unknown": (row.off_contract_unknown_seconds, sums.off_unknown),
            "off estimate": (row.off_contract_estimate, rounded(sums.off_money)),
        }
        wrong += [(key, f"{name}: {one} and not {other}") for name, (one, other) in pairs.items() if one != other]
        wrong += [(key, "VMs")] if row.vms < len(sums.vms) else []
    return wrong


def rounded(amount: Fraction) -> Fraction:
    return Fraction(round(amount * 10**money.PLACES), 10**money.PLACES)


async def lived(engine: AsyncEngine, seed: int) -> Stage:
    """A fleet with contracts, losses, drift, deletions, and prices that are learned late and change."""
    stage = Stage(engine, cloud=with_room(3, seed=seed, partial_assignment=True), resync_seconds=60)
    stage.misbehave(**MISFORTUNE)
    await stage.submit(count=7, contract_id=41, labels=["team-a", "gpu"], policy={"retry": RETRY})
    await stage.submit(count=2, flavor_name="n1-cpu-small", labels=["team-a"])
    await stage.live(60)
    await prices.run_once(stage.rt)
    await stage.live(60)
    stage.change_contract(resource_count=5)
    for deed, provider_id in zip(("vanish", "stop", "delete"), stage.alive(), strict=False):
        stage.console(provider_id, deed)
    await stage.live(100)
    await stage.sql(
        "INSERT INTO prices (resource, read_at, value, currency, source) VALUES (:name, :at, 2.5, 'USD', 'pricebook')",
        name=A100.lower(),
        at=stage.world.clock.now(),
    )
    await stage.live(50)
    return stage


async def test_every_report_of_a_fleet_equals_the_slow_recomputation(engine: AsyncEngine) -> None:
    stage = await lived(engine, 1)
    now = stage.world.clock.now()
    async with begin(engine) as conn:
        record = await Record.read(conn)
    for since, until in (
        (START - timedelta(days=1), now),
        (START + timedelta(seconds=45), START + timedelta(seconds=145)),
    ):
        period = period_of(since, until)
        whole = record.report(since, until, "total")
        assert whole["total"].money > whole["total"].off_money > 0, "the play was too tame"
        assert differs([await total(stage, period)], whole) == []
        for by in BYS:
            assert differs(await report(stage, period, by), record.report(since, until, by)) == []


#: Just before midnight, so that days are divided.
EVE = datetime(2026, 8, 17, 23, 59, 40, tzinfo=UTC)
SPAN = 40
seconds = st.integers(-5, SPAN + 5)
#: What comes early holds for long.
early = st.integers(-5, SPAN // 2)
#: Mostly states that cost something.
STATES = (
    ["ACTIVE"] * 5
    + ["SHUTOFF", "HIBERNATED"] * 3
    + sorted({state.value for state in VmState} - {"DELETED", "REFUSED", "CANCELLED"})
)
FLAVORS = ("n3-A100x8", "n1-cpu-small")
histories = st.lists(st.tuples(early, st.sampled_from(STATES)), max_size=7)
lives = st.fixed_dictionaries({
    "moves": histories,
    "ended": st.none() | seconds,
    "steps": st.lists(st.tuples(early, st.sampled_from([None, 41, 41, 42])), max_size=4),
    "flavor": st.sampled_from(FLAVORS),
    "gpus": st.sampled_from([(A100, 8)] * 3 + [(A100, 1), (A100, None), (None, None)]),
    "region": st.sampled_from([None, "CANADA-1", "NORWAY-1"]),
})  # fmt: skip
amounts = st.decimals(0, 10**6, places=9, allow_nan=False, allow_infinity=False)
listed = st.lists(
    st.tuples(early, st.sampled_from([A100, A100.lower(), *FLAVORS]), amounts, st.sampled_from(["USD"] * 4 + ["EUR"])),
    max_size=6,
    unique_by=lambda one: (one[0], one[1].lower()),
)
terms = st.sampled_from(
    [("percent", "20"), ("percent", "12.345"), ("flat", "0.1"), (None, None), ("percent", "150"), ("percent", "101")]
)
discounts = st.lists(
    st.tuples(early, st.sampled_from([41, 41, 42]), st.sampled_from([A100, A100, FLAVORS[1]]), terms),
    max_size=5,
    unique_by=lambda one: one[:3],
)


def at(second: int) -> datetime:
    return EVE + timedelta(seconds=second)


async def write(conn: AsyncConnection, vms: list[Vm], drawn: list[dict[str, Any]], prices: Any, terms: Any) -> None:
    """Make the drawn histories those of the VMs."""
    moved, steps = [], []
    for vm, life in zip(vms, drawn, strict=True):
        ended = life["ended"]
        moves = {second: state for second, state in sorted(life["moves"]) if ended is None or second < ended}
        moves |= {} if ended is None else {ended: "DELETED"}
        moved += [
            Transition(
                vm.submission_id, vm.vm_no, seq, at(second), VmState("REFUSED"), VmState(state),
                VerdictKind.MOVED, None, EvidenceKind.OBSERVATION, None, at(second),
            )
            for seq, (second, state) in enumerate(moves.items(), 1)
        ]  # fmt: skip
        steps += [
            AssignmentStep(
                vm.submission_id,
                vm.vm_no,
                attempt,
                at(second),
                "answer",
                "assigned" if on else "on_demand",
                on or 43,
                "",
            )
            for attempt, (second, on) in enumerate(sorted(dict(life["steps"]).items()))
        ]
        await conn.execute(
            text(
                "UPDATE vms SET created_at = :made, ended_at = :ended, state = :state, flavor = :flavor, region = :region,"
                " gpu_model = :model, gpu_count = :count, next_refresh_at = :refresh WHERE submission_id = :id AND vm_no = :no"
            ),
            {
                "id": vm.submission_id, "no": vm.vm_no, "made": at(-9), "ended": None if ended is None else at(ended),
                "state": "ACTIVE" if ended is None else "DELETED", "refresh": at(99) if ended is None else None,
                "flavor": life["flavor"], "region": life["region"], "model": life["gpus"][0], "count": life["gpus"][1],
            },
        )  # fmt: skip
    await insert_many(conn, tables.transitions, moved)
    await insert_many(conn, tables.assignments, steps)
    known = [ListPrice(name, at(second), value, currency, "test") for second, name, value, currency in prices]
    await insert_many(conn, tables.prices, known)
    rows = [
        ContractDiscount(contract_id, name, at(second), kind, value and Decimal(value), "test")
        for second, contract_id, name, (kind, value) in terms
    ]
    await insert_many(conn, tables.contract_discounts, rows)


@pytest.fixture
async def four_vms(engine: AsyncEngine) -> tuple[AsyncEngine, list[Vm]]:
    stage = Stage(engine)
    for labels in (["team-a", "gpu"], []):
        await stage.submit(count=2, labels=labels)
    return engine, await stage.vms()


@trying(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    drawn=st.lists(lives, min_size=4, max_size=4),
    prices=listed,
    terms=discounts,
    window=st.tuples(early, st.integers(1, 45)).map(lambda two: (two[0], two[0] + two[1])),
)
async def test_every_report_of_a_random_history_equals_the_slow_recomputation(
    four_vms: tuple[AsyncEngine, list[Vm]], drawn: Any, prices: Any, terms: Any, window: tuple[int, int]
) -> None:
    engine, vms = four_vms
    since, until = map(at, window)
    async with engine.connect() as conn:
        await write(conn, vms, drawn, prices, terms)
        record = await Record.read(conn)
        period = period_of(since, until)
        assert differs([await cost_queries.total(conn, period)], record.report(since, until, "total")) == []
        for by in BYS:
            found = await cost_queries.page(conn, period, by=by, after=None, limit=100)
            assert differs(found, record.report(since, until, by)) == []
        await conn.rollback()


async def test_pages_hold_no_more_than_asked_and_together_everything(engine: AsyncEngine) -> None:
    stage = await lived(engine, 7)
    period = period_of(START - timedelta(days=1), stage.world.clock.now())
    for by in BYS:
        assert await report(stage, period, by, limit=1) == await report(stage, period, by)


async def test_a_vm_on_its_contract_costs_less_and_one_off_it_is_shown(engine: AsyncEngine) -> None:
    stage = Stage(engine, cloud=with_room(1, partial_assignment=True))
    await prices.run_once(stage.rt)
    await stage.submit(count=2, contract_id=41, policy={"on_contract_error": "keep"})
    await stage.live(60)
    active = max(vm.active_at for vm in await stage.vms())
    stage.world.clock.advance(36_000)
    by_contract = {
        row.key: row for row in await report(stage, period_of(active, active + timedelta(hours=1)), "contract")
    }
    assert by_contract["41"].estimate == Decimal("1.08")  # 1.35 less 20 percent
    assert by_contract["41"].off_contract_estimate == 0
    assert by_contract["none"].estimate == by_contract["none"].off_contract_estimate == Decimal("1.35")
    async with begin(engine) as conn:
        now = await cost_queries.per_hour(conn, now=stage.world.clock.now())
    assert (now.on_contract, now.on_demand, now.unknown_vms) == (Decimal("1.08"), Decimal("1.35"), 0)
    assert (now.off_contract, now.off_contract_unknown_vms) == (Decimal("1.35"), 0)


async def test_without_a_price_seconds_are_unknown_and_cost_is_not_called_zero(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    await stage.submit()
    await stage.live(60)
    (vm,) = await stage.vms()
    assert vm.active_at is not None
    found = await total(stage, period_of(vm.active_at, vm.active_at + timedelta(seconds=10)))
    assert (found.billed_seconds, found.unknown_seconds, found.estimate) == (0, 10, 0)
    async with begin(engine) as conn:
        now = await cost_queries.per_hour(conn, now=stage.world.clock.now())
    assert (now.on_demand, now.unknown_vms) == (0, 1)
    assert (now.off_contract, now.off_contract_unknown_vms) == (0, 0)  # it requested no contract


async def test_days_are_divided_at_midnight_utc(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    await prices.run_once(stage.rt)
    await stage.submit()
    await stage.live(60)
    midnight = datetime(2026, 8, 18, tzinfo=START.tzinfo)
    since, until = midnight - timedelta(hours=2), midnight + timedelta(hours=25)
    stage.world.clock.advance((until - stage.world.clock.now()).total_seconds())
    days = await report(stage, period_of(since, until), "day")
    assert [(row.key, row.billed_seconds) for row in days] == [
        ("2026-08-17", 7200),
        ("2026-08-18", 86_400),
        ("2026-08-19", 3600),
    ]


@pytest.mark.parametrize("written", ["decimal", "scientific", "number"])
async def test_a_price_is_stored_when_it_changes_and_only_then(engine: AsyncEngine, written: str) -> None:
    stage = Stage(engine, cloud=with_room(4, price_format=written))
    assert await prices.run_once(stage.rt) > 0
    before = await stage.rows(ListPrice, tables.prices)
    assert {one.resource: one.value for one in before}[A100] == Decimal("1.35")
    assert await prices.run_once(stage.rt) == 0  # not due
    assert len(stage.calls("GET", "/pricebook")) == 2
    stage.world.clock.advance(3601)
    assert await prices.run_once(stage.rt) == 0  # due, and nothing changed
    assert len(stage.calls("GET", "/pricebook")) == 4
    assert await stage.rows(ListPrice, tables.prices) == before
    (terms,) = await stage.rows(ContractDiscount, tables.contract_discounts)
    assert (terms.contract_id, terms.kind, terms.value) == (41, "percent", 20)


async def test_a_price_book_that_cannot_be_read_changes_nothing_and_is_read_again_soon(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    await prices.run_once(stage.rt)
    before = await stage.rows(ListPrice, tables.prices)
    stage.world.clock.advance(3601)
    stage.between.prepared["GET"] = [refusal(500, "no"), refusal(500, "no")]
    assert await prices.run_once(stage.rt) == 0
    stage.world.clock.advance(61)
    calls = len(stage.calls("GET", "/pricebook"))
    await prices.run_once(stage.rt)
    assert len(stage.calls("GET", "/pricebook")) == calls + 2
    assert await stage.rows(ListPrice, tables.prices) == before


@pytest.mark.parametrize("on", [41, None])
@pytest.mark.parametrize("changed", [1, 25, 39])
async def test_a_discount_that_changes_holds_from_then_on_and_only_on_the_contract(four_vms, on, changed) -> None:
    engine, vms = four_vms
    life = {
        "moves": [(0, "ACTIVE")],
        "ended": None,
        "steps": [(0, on)],
        "flavor": FLAVORS[0],
        "gpus": (A100, 8),
        "region": None,
    }
    terms = [(-5, 41, A100, ("percent", "20")), (changed, 41, A100, ("flat", "1.5"))]
    async with engine.connect() as conn:
        await write(conn, vms, [life] * 4, [(-5, A100, Decimal(2), "USD")], terms)
        period, record = period_of(at(0), at(40)), await Record.read(conn)
        found = await cost_queries.total(conn, period)
        assert differs([found], record.report(at(0), at(40), "total")) == []
        hour_seconds = Decimal("12.8") * changed + 4 * (40 - changed) if on else Decimal(16) * 40
        assert abs(found.estimate - 4 * hour_seconds / 3600) < Decimal("0.000001")
        await conn.rollback()
