"""Alternatives against the simulated cloud: out of stock, refused, phantom stock, and what each VM says it got."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage, refusal, request

from service.api.preflight import Preflight
from service.core.submission import validate_submission
from service.operations import submission

A100, H100 = "A100-80G-PCIe", "H100-80G-PCIe"
CLOUD = {
    "flavors": [
        {"name": "n3-A100x1", "gpu": A100, "gpu_count": 1, "stock": 0},
        {"name": "n3-H100x1", "gpu": H100, "gpu_count": 1, "region": "NORWAY-1", "stock": 30},
        {"name": "n3-L40x1", "gpu": "L40", "gpu_count": 1, "stock": 30},
    ],
    "environments": [{"name": "test1", "region": "CANADA-1"}, {"name": "there", "region": "NORWAY-1"}],
    "contracts": [
        {"id": 41, "discounts": [{"resource_name": A100, "resource_count": 64}]},
        {"id": 42, "discounts": [{"resource_name": H100, "resource_count": 64}]},
    ],
}
THERE = {"flavor_name": "n3-H100x1", "environment_name": "there"}
L40 = {"flavor_name": "n3-L40x1", "environment_name": "test1"}


@pytest.fixture
async def stage(engine: AsyncEngine) -> Stage:
    return Stage(engine, cloud=CLOUD)


async def submit(stage: Stage, *alternatives: dict[str, Any], **changes: Any) -> None:
    """As the API does: with what the provider's catalogue says about each choice."""
    body = request(policy={"alternatives": list(alternatives)}, **changes)
    advice = (await Preflight(stage.rt).check(validate_submission(body))).advice
    asked = submission.read(body, caller="tests", key=None)
    await submission.submit(stage.rt, asked, advice)


def creates(stage: Stage) -> int:
    return stage.between.asked.count("POST /core/virtual-machines")


async def ready(stage: Stage) -> bool:
    return (await stage.submission()).state == "ready"


async def test_a_fleet_comes_up_on_the_second_choice_and_each_vm_says_so(stage: Stage) -> None:
    await submit(stage, {**THERE, "contract_id": 42}, count=25, contract_id=41)
    await stage.until(lambda: ready(stage))
    assert {
        (vm.flavor, vm.environment, vm.alternative, vm.region, vm.contract_id, vm.assignment)
        for vm in await stage.vms()
    } == {("n3-H100x1", "there", 1, "NORWAY-1", 42, "assigned")}
    # The stock said that there was none, so nothing was refused.
    assert creates(stage) == 2


async def test_stock_that_is_not_there_costs_a_call_and_not_the_fleet(stage: Stage) -> None:
    stage.misbehave(phantom_stock=True)
    await submit(stage, THERE)
    await stage.until(lambda: ready(stage))
    assert (await stage.vm()).flavor == "n3-H100x1"
    assert creates(stage) == 2


async def test_all_choices_are_tried_in_order_and_then_again(stage: Stage) -> None:
    for flavor in ("n3-H100x1", "n3-L40x1"):
        stage.world.cloud.fleet.stock.change(flavor, 0)
    await submit(stage, THERE, L40)
    await stage.live(30)
    assert (await stage.creation()).state == "due"
    stage.world.cloud.fleet.stock.change("n3-L40x1", 1)
    await stage.until(lambda: ready(stage))
    vm = await stage.vm()
    assert (vm.flavor, vm.alternative, vm.gpu_model) == ("n3-L40x1", 2, "L40")


async def test_a_choice_that_is_refused_for_good_is_not_tried_again(stage: Stage) -> None:
    stage.world.cloud.fleet.stock.change("n3-A100x1", 9)
    stage.between.prepared["POST"] = [refusal(400, "The region does not take this", "bad_request")]
    await submit(stage, THERE)
    await stage.until(lambda: ready(stage))
    assert ((await stage.vm()).flavor, (await stage.creation()).refused_alternatives) == ("n3-H100x1", [0])


async def test_when_every_choice_is_refused_for_good_the_vms_are_refused(stage: Stage) -> None:
    stage.world.cloud.fleet.stock.change("n3-A100x1", 9)
    stage.between.prepared["POST"] = [refusal(400, "No", "bad_request"), refusal(400, "No", "bad_request")]
    await submit(stage, THERE)
    await stage.live(30)
    assert await stage.states() == ["REFUSED"]


async def test_an_unanswered_create_stays_with_its_choice_until_it_is_looked_up(stage: Stage) -> None:
    stage.world.cloud.fleet.stock.change("n3-A100x1", 9)
    stage.misbehave(create={"lost": [1]})
    await submit(stage, THERE)
    await stage.until(lambda: ready(stage))
    assert ((await stage.vm()).flavor, len(stage.world.cloud.truth())) == ("n3-A100x1", 1)


async def with_prices(stage: Stage, **prices: str) -> None:
    rows = [{"name": name.replace("_", "-").lower(), "value": value} for name, value in prices.items()]
    for row in rows:
        await stage.sql(
            "INSERT INTO prices (resource, read_at, value, currency, source) "
            "VALUES (:name, :at, CAST(:value AS numeric), 'USD', 'pricebook')",
            at=stage.world.clock.now(),
            **row,
        )


async def test_an_alternative_is_passed_over_while_it_costs_more_than_it_allows(stage: Stage) -> None:
    await with_prices(stage, n3_H100x1="2.4", n3_L40x1="0.9")
    await submit(stage, {**THERE, "max_price_per_hour": 2.5}, {**L40, "max_price_per_hour": 1})
    await stage.wait(1)
    await with_prices(stage, n3_H100x1="2.6")
    await stage.until(lambda: ready(stage))
    assert (await stage.vm()).flavor == "n3-L40x1"


async def test_if_all_that_is_left_costs_too_much_the_vms_wait_without_a_call(stage: Stage) -> None:
    await with_prices(stage, n3_H100x1="2.4")
    await submit(stage, {**THERE, "max_price_per_hour": 2.5})
    await stage.wait(1)
    await with_prices(stage, n3_H100x1="2.6")
    stage.misbehave(phantom_stock=True)
    await stage.live(300)
    # The first choice was tried again and again, after a wait each time, and the other never.
    assert (await stage.creation()).state == "due"
    assert 2 <= creates(stage) < 20
    await with_prices(stage, n3_H100x1="2.5")
    await stage.until(lambda: ready(stage))
    assert (await stage.vm()).flavor == "n3-H100x1"


async def test_an_alternative_that_is_too_dear_alone_is_not_sent(stage: Stage) -> None:
    stage.world.cloud.fleet.stock.change("n3-A100x1", 9)
    stage.between.prepared["POST"] = [refusal(400, "The region does not take this", "bad_request")]
    await with_prices(stage, n3_H100x1="2.4")
    await submit(stage, {**THERE, "max_price_per_hour": 2.5})
    await stage.wait(1)
    await with_prices(stage, n3_H100x1="2.6")
    await stage.live(100)
    assert creates(stage) == 1
    assert "max_price_per_hour" in ((await stage.creation()).reason or "")


@pytest.mark.parametrize(("prices", "why"), [({"n3_H100x1": "2.6"}, "costs 2.60 USD"), ({}, "no price is known")])
async def test_an_alternative_that_costs_too_much_already_is_refused(
    stage: Stage, prices: dict[str, str], why: str
) -> None:
    await with_prices(stage, **prices)
    body = request(policy={"alternatives": [{**THERE, "max_price_per_hour": 2.5}]})
    errors = (await Preflight(stage.rt).check(validate_submission(body))).advice.field_errors
    assert [one.field for one in errors] == ["policy.alternatives.0.max_price_per_hour"]
    assert why in errors[0].message
