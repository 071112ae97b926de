"""Limits of money: refused before buying, acted on by policy when passed later, and never in the way of anything else."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from clock import NOON
from operator_api import body, serving
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage
from structlog.testing import capture_logs

from service.core.money import ListPrice
from service.runtime.runtime import Runtime
from service.storage import prices, submissions
from service.storage.engine import begin
from service.storage.submissions import Submission
from service.worker import health

A100 = "A100-80G-PCIe"
FLAVOR = "n1-cpu-small"


async def priced(stage: Stage, value: str) -> None:
    async with begin(stage.engine) as conn:
        at = stage.world.clock.now()
        await prices.insert_changed_prices(conn, [ListPrice(A100, at, Decimal(value), "USD", "test")])


async def shown(stage: Stage, submission_id: UUID) -> Submission:
    async with begin(stage.engine) as conn:
        found = await submissions.get(conn, submission_id)
    assert found is not None
    return found


async def limit_actions(stage: Stage) -> list[Any]:
    return list(await stage.sql("SELECT detail FROM actions WHERE kind = 'limit' AND caller = 'rollcall'"))


@pytest.mark.parametrize("on_limit", ["report", "stop_replacing", "delete"])
async def test_a_cost_that_is_passed_is_acted_on_once_and_by_policy(engine: AsyncEngine, on_limit: str) -> None:
    stage = Stage(engine)
    await priced(stage, "3600")  # 1 a second for each VM
    policy = {
        "max_cost": 100, "on_limit": on_limit, "on_stuck": "replace", "maintain": {"enabled": True, "grace_seconds": 0},
    }  # fmt: skip
    limited = await stage.submit(count=2, policy=policy)
    await stage.submit(count=1)  # has no limit, and is left alone
    await stage.live(40)
    assert (await shown(stage, limited)).limit_issue is None
    await stage.live(240)
    found = await shown(stage, limited)
    assert found.limit_reached_at is not None
    assert len(await limit_actions(stage)) == 1
    assert any(reason.startswith("limit passed: max_cost is 100.00 USD, and ") for reason in found.reasons)
    await health.run_once(stage.rt)
    assert ("money limit" in stage.rt.health.issues) == (on_limit != "delete")  # deleted, there is nothing left to say
    assert stage.rt.health.ready
    states = [vm.state.value for vm in await stage.vms()]
    assert states == ["DELETED" if on_limit == "delete" else "ACTIVE"] * 2 + ["ACTIVE"]
    stage.console(stage.alive()[0], "error" if on_limit != "delete" else "stop", silent=False)
    await stage.live(200)
    members = [vm for vm in await stage.vms() if vm.submission_id == limited and vm.replaces is not None]
    assert len(members) == (1 if on_limit == "report" else 0)


async def test_a_price_that_rises_above_the_limit_is_reported_until_it_falls(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    await priced(stage, "1.35")
    keep = {"enabled": True, "grace_seconds": 0}
    policy = {"max_price_per_hour": 3, "on_limit": "stop_replacing", "maintain": keep}
    limited = await stage.submit(count=2, policy=policy)
    await stage.live(120)
    assert (await shown(stage, limited)).limit_issue is None
    await priced(stage, "1.6")
    await stage.live(200)  # long enough to be compared more than once
    found = await shown(stage, limited)
    assert found.limit_issue == "max_price_per_hour is 3.00 USD an hour, and 3.20 USD an hour is more than that"
    assert found.limit_reached_at is not None
    stage.console(stage.alive()[0], "error", silent=False)
    await stage.live(20)
    assert len(await stage.vms()) == 2  # nothing is replaced while the limit is passed
    await priced(stage, "1.2")
    await stage.live(80)
    assert len(await stage.vms()) == 3
    found = await shown(stage, limited)
    assert (found.limit_issue, found.limit_reached_at) == (None, None)
    assert len(await limit_actions(stage)) == 1


async def test_a_limit_that_cannot_be_compared_says_so_and_deletes_nothing(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    limited = await stage.submit(policy={"max_cost": 1, "max_price_per_hour": 1, "on_limit": "delete"})
    await stage.live(200)
    found = await shown(stage, limited)
    assert found.limit_issue is not None
    assert "max_price_per_hour cannot be checked: no price is known for 1 VMs" in found.limit_issue
    assert "max_cost cannot be checked: no price is known for" in found.limit_issue
    assert await stage.states() == ["ACTIVE"]
    assert await limit_actions(stage) == []


async def test_limits_are_compared_no_longer_when_nothing_costs_anything(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    await priced(stage, "1")
    limited = await stage.submit(policy={"max_cost": 100})
    await stage.live(120)
    for provider_id in stage.alive():
        stage.console(provider_id, "delete", silent=False)
    await stage.live(700)
    assert await stage.states() == ["DELETED"]
    assert (await shown(stage, limited)).limit_due_at is None


async def test_a_request_is_refused_with_every_mistake_and_only_if_it_has_a_limit(runtime: Runtime) -> None:
    async with begin(runtime.engine) as conn:
        await prices.insert_changed_prices(conn, [ListPrice(FLAVOR, NOON, Decimal("2.5"), "USD", "test")])
    with capture_logs():
        async with serving(runtime) as api:
            alternative = {"flavor_name": "of no known price", "environment_name": "test1"}
            policy = {
                "max_price_per_hour": 4, "max_cost": "9.99", "lifetime": "2h", "alternatives": [alternative],
            }  # fmt: skip
            refused = await api.request("POST", "/v1/submissions", body(count=2, flavor_name=FLAVOR, policy=policy))
            assert refused.status == 422
            unread = "cannot be checked: no price is known for 2 VMs"
            assert [(one["field"], one["message"]) for one in refused.json["errors"]] == [
                ("policy.max_price_per_hour", "is 4.00 USD an hour, and 5.00 USD an hour is more than that"),
                ("policy.max_cost", "is 9.99 USD, and 10.00 USD is more than that"),
                ("policy.alternatives.0.flavor_name", f"max_price_per_hour {unread}"),
                ("policy.alternatives.0.flavor_name", f"max_cost {unread}"),
            ]
            allowed = await api.submit(
                count=2, flavor_name=FLAVOR, policy={"max_price_per_hour": 5, "max_cost": 10, "on_limit": "delete"}
            )
            assert "at 5.00 USD an hour, max_cost of 10.00 USD is reached in 2h; then: delete" in allowed["warnings"]
            assert allowed["policy"]["max_cost"] == "10"
            await api.submit(count=2, flavor_name="of no known price")


async def test_that_most_of_a_cost_is_spent_is_told_once_and_then_that_all_is(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    await stage.sql("INSERT INTO notify_wanted VALUES ('money.limit_near'), ('money.limit_reached')")
    await priced(stage, "3600")  # 1 a second
    await stage.submit(count=1, policy={"max_cost": 1000})
    await stage.live(700, step=70)
    assert await stage.sql("SELECT kind FROM notices") == []
    await stage.live(600, step=30)
    assert await stage.sql("SELECT kind, detail FROM notices ORDER BY notice_no LIMIT 1") == [
        ("money.limit_near", "four fifths of max_cost 1000 are spent")
    ]
    assert [kind for (kind,) in await stage.sql("SELECT kind FROM notices ORDER BY notice_no")] == [
        "money.limit_near",
        "money.limit_reached",
    ]


async def test_a_rate_that_is_just_below_its_limit_is_as_was_asked_for(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    await stage.sql("INSERT INTO notify_wanted VALUES ('money.limit_near')")
    await priced(stage, "1.49")
    await stage.submit(count=2, policy={"max_price_per_hour": 3})
    await stage.live(200, step=50)
    assert await stage.sql("SELECT kind FROM notices") == []
