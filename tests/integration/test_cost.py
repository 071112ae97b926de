"""The cost of a fleet against a real Postgres and the simulator's price book, compared with the definition in core."""

from collections import defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import START, Stage, refusal

from service.core import money
from service.core.lifecycle import VmState
from service.core.money import ContractDiscount, Cost, ListPrice, Resource
from service.core.vm import Vm
from service.queries import cost as cost_queries
from service.queries.cost import CostRow, Period
from service.storage import tables
from service.storage.engine import begin
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


async def defined(stage: Stage, period: Period) -> dict[str, Cost]:
    """The cost of each VM by `money.cost_of`, from rows that are read one by one."""
    listed = await stage.rows(ListPrice, tables.prices)
    terms = await stage.rows(ContractDiscount, tables.contract_discounts)
    states, placed = defaultdict(list), defaultdict(list)
    for ref, at, state in await stage.sql(
        "SELECT submission_id || '.' || vm_no, at, to_state FROM transitions WHERE verdict = 'moved' ORDER BY seq"
    ):
        states[ref].append((at, VmState(state)))
    for ref, at, outcome, contract_id in await stage.sql(
        "SELECT submission_id || '.' || vm_no, at, outcome, contract_id FROM assignments"
        " WHERE outcome IN ('assigned', 'on_demand') ORDER BY at, attempt"
    ):
        placed[ref].append((at, contract_id if outcome == "assigned" else None))
    return {
        name(vm): money.cost_of(
            Resource(flavor=vm.flavor, gpu_model=vm.gpu_model, gpu_count=vm.gpu_count),
            states[name(vm)],
            placed[name(vm)],
            listed,
            terms,
            since=period.since,
            until=period.until,
            currency="USD",
        )
        for vm in await stage.vms()
    }


def name(vm: Vm) -> str:
    return f"{vm.submission_id}.{vm.vm_no}"


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


@pytest.mark.parametrize("seed", range(3))
async def test_every_report_is_what_the_definition_gives_vm_by_vm(engine: AsyncEngine, seed: int) -> None:
    stage = await lived(engine, seed)
    now = stage.world.clock.now()
    for since, until in (
        (START - timedelta(days=1), now),
        (START + timedelta(seconds=45), START + timedelta(seconds=145)),
    ):
        period = period_of(since, until)
        expected = await defined(stage, period)
        rows = {row.key: row for row in await report(stage, period, "vm")}
        assert set(rows) <= set(expected)
        for key, cost in expected.items():
            if key not in rows:
                assert cost == Cost()
                continue
            found = rows[key]
            assert (found.billed_seconds, found.unknown_seconds) == (cost.billed_seconds, cost.unknown_seconds)
            assert found.estimate == cost.estimate
        whole = sum(expected.values(), Cost())
        assert (await total(stage, period)).estimate == whole.estimate
        assert whole.hour_seconds > 0
        for by in BYS:
            if by != "label":
                found_rows = await report(stage, period, by)
                assert sum(row.billed_seconds for row in found_rows) == whole.billed_seconds
                assert sum(row.unknown_seconds for row in found_rows) == whole.unknown_seconds
                assert abs(sum(row.estimate for row in found_rows) - whole.estimate) < Decimal("0.0001")


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


async def test_a_price_is_stored_when_it_changes_and_only_then(engine: AsyncEngine) -> None:
    stage = Stage(engine, cloud=with_room(4, prices_as_text=True))
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
