"""What is checked before a submission is accepted: its contract, its room, and what `dry_run` shows."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from cloud_transport import CloudTransport, connected
from operator_api import Answer, Api, body, serving
from simulated import Caller
from sqlalchemy import text

from service.core.money import ContractDiscount, ListPrice
from service.provider.wire import HttpResponse
from service.runtime.runtime import Runtime
from service.storage import prices
from service.storage.engine import begin

A100, H100 = "A100-80G-PCIe", "H100-80G-PCIe"
CONTRACTS = [
    {"id": 41, "discounts": [{"resource_name": A100, "resource_count": 24}]},
    {"id": 42, "discounts": [{"resource_name": A100, "resource_count": 9}], "end_date": "2026-01-31T00:00:00"},
    {"id": 43, "discounts": [{"resource_name": A100, "resource_count": 9}], "start_date": "2026-12-01T00:00:00"},
]


@pytest.fixture
def provider() -> CloudTransport:
    return CloudTransport(Caller(contracts=CONTRACTS))


@pytest.fixture
def with_provider(runtime: Runtime, provider: CloudTransport) -> Runtime:
    return connected(runtime, provider)


@pytest.fixture
async def api(with_provider: Runtime) -> AsyncIterator[Api]:
    async with serving(with_provider) as api:
        yield api


def asked(**changes: Any) -> dict[str, Any]:
    return body(**{"environment_name": "default-CANADA-1", "contract_id": 41, **changes})


async def refusal_of(api: Api, **changes: Any) -> dict[str, str]:
    answer = await api.request("POST", "/v1/submissions", asked(**changes))
    assert answer.status == 422, answer
    assert (await api.get("/v1/submissions"))["items"] == []
    return {one["field"]: one["message"] for one in answer.json["errors"]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"contract_id": 99}, "the provider has no contract 99"),
        ({"contract_id": 42}, f"contract 42 has ended on 2026-01-31; it covers {A100} (9 of 9 GPUs left)"),
        ({"flavor_name": "n3-H100x1"}, f"contract 41 does not cover {H100} (n3-H100x1); it covers {A100} (24 of 24"),
        ({"flavor_name": "n1-cpu-small"}, "contract 41 does not cover a flavor without GPUs (n1-cpu-small)"),
    ],
)
async def test_a_contract_that_can_never_take_the_vms_is_refused_with_what_it_covers(
    api: Api, changes: dict[str, Any], words: str
) -> None:
    assert words in (await refusal_of(api, **changes))["contract_id"]


async def test_a_wrong_contract_is_named_together_with_all_other_mistakes(api: Api) -> None:
    assert set(await refusal_of(api, contract_id=99, key_name="exmaple-key")) == {"contract_id", "key_name"}


async def test_a_contract_with_room_is_accepted_without_a_warning(api: Api) -> None:
    assert (await api.submit(**asked(count=24)))["warnings"] == []


@pytest.mark.parametrize(("flavor", "count", "words"), [
    ("n3-A100x1", 30, "24 of 30 VMs fit on contract 41 now; the others run on demand until it has room"),
    ("n3-A100x4", 7, "6 of 7 VMs fit on contract 41 now"),
])  # fmt: skip
async def test_too_little_room_is_a_forecast_in_the_answer(api: Api, flavor: str, count: int, words: str) -> None:
    (warning,) = (await api.submit(**asked(count=count, flavor_name=flavor)))["warnings"]
    assert warning.startswith(words)


async def test_what_others_asked_for_and_do_not_have_yet_is_counted_in_gpus(api: Api) -> None:
    await api.submit(**asked(count=5, flavor_name="n3-A100x4"))
    (warning,) = (await api.submit(**asked(count=10)))["warnings"]
    assert warning.startswith("4 of 10 VMs fit")


async def test_a_contract_that_has_not_begun_is_a_warning(api: Api) -> None:
    (warning,) = (await api.submit(**asked(contract_id=43)))["warnings"]
    assert "contract 43 has not begun yet" in warning


async def test_with_require_contract_too_little_room_is_refused(api: Api) -> None:
    required = {"require_contract": True}
    assert (await refusal_of(api, count=30, policy=required))["contract_id"].startswith("24 of 30 VMs fit")
    assert (await api.submit(**asked(count=24, policy=required)))["warnings"] == []


async def test_require_contract_without_a_contract_is_a_contradiction(api: Api) -> None:
    assert set(await refusal_of(api, contract_id=None, policy={"require_contract": True})) == {
        "policy.require_contract"
    }


def fail_contracts(provider: CloudTransport, how: Any) -> None:
    send = provider.send

    async def broken(method: str, url: str, *rest: Any) -> HttpResponse:
        if "/pricebook/contracts" in url:
            return await how()
        return await send(method, url, *rest)

    provider.send = broken


async def answer_500() -> HttpResponse:
    return HttpResponse(status=500, headers={}, body=b"{}")


async def hang() -> HttpResponse:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("how", [answer_500, hang])
async def test_a_contract_that_cannot_be_read_is_a_warning_and_a_refusal_only_if_it_is_required(
    api: Api, provider: CloudTransport, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    monkeypatch.setattr("service.api.reads.TIMEOUT", 0.05)
    fail_contracts(provider, how)
    (warning,) = (await api.submit(**asked()))["warnings"]
    assert "contract 41 could not be read just now" in warning
    answer = await api.request("POST", "/v1/submissions", asked(policy={"require_contract": True}))
    assert answer.status == 422


async def test_a_contract_is_read_once_for_many_submissions_and_again_when_that_is_old(
    api: Api, provider: CloudTransport, with_provider: Runtime
) -> None:
    for _ in range(3):
        await api.submit(**asked())
    assert provider.asked.count("GET /v1/pricebook/contracts/41") == 1
    with_provider.clock.advance(11)
    await api.submit(**asked())
    assert provider.asked.count("GET /v1/pricebook/contracts/41") == 2


async def dry(api: Api, **changes: Any) -> Answer:
    return await api.request("POST", "/v1/submissions?dry_run=true", asked(**changes))


async def test_a_dry_run_shows_what_would_be_done_and_keeps_nothing(api: Api, with_provider: Runtime) -> None:
    answer = await dry(api, count=45, user_data="#!secret", policy={"deadline_seconds": "2h"})
    assert answer.status == 200
    shown = answer.json
    assert [one["vm_count"] for one in shown["creations"]] == [20, 20, 5]
    assert (shown["first_body"]["count"], shown["first_body"]["flavor_name"]) == (20, "n3-A100x1")
    assert "#!secret" not in str(shown)
    assert shown["policy"]["deadline_seconds"] == 7200
    (choice,) = shown["choices"]
    assert (choice["region"], choice["gpu_model"], choice["gpu_count"]) == ("CANADA-1", A100, 1)
    assert choice["stock"] == {"gpu_model": A100, "region": "CANADA-1", "gpus": 200, "more": True}
    assert (choice["contract"]["fit"], choice["contract"]["requested"]) == (24, 45)
    assert shown["warnings"][0].startswith("24 of 45 VMs fit")
    async with begin(with_provider.engine) as conn:
        for table in ("submissions", "creations", "vms", "idempotency_keys", "actions"):
            assert (await conn.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() == 0


async def test_alternatives_are_checked_as_the_first_choice_is_with_all_mistakes_at_once(api: Api) -> None:
    found = await refusal_of(
        api,
        key_name="exmaple-key",
        policy={
            "alternatives": [
                {"flavor_name": "n3-H100x1", "environment_name": "default-CANADA-1"},
                {"flavor_name": "n3-A100x9", "environment_name": "test1", "contract_id": 99, "key_name": "example-key"},
            ]
        },
    )
    where = "policy.alternatives"
    assert set(found) == {
        "key_name", f"{where}.0.key_name", f"{where}.0.contract_id", f"{where}.1.flavor_name", f"{where}.1.contract_id"
    }  # fmt: skip
    assert f"does not cover {H100}" in found[f"{where}.0.contract_id"]


async def test_a_dry_run_shows_every_choice(api: Api) -> None:
    alternatives = [{"flavor_name": "n3-H100x1", "environment_name": "test1", "on_demand": True}]
    shown = (await dry(api, count=30, policy={"alternatives": alternatives})).json
    assert [one["flavor_name"] for one in shown["choices"]] == ["n3-A100x1", "n3-H100x1"]
    assert [one["contract"] and one["contract"]["fit"] for one in shown["choices"]] == [24, None]


async def test_a_dry_run_and_the_catalogue_show_prices_that_are_on_record(api: Api, with_provider: Runtime) -> None:
    at = with_provider.clock.now()
    price = ListPrice(resource=A100, read_at=at, value=Decimal("1.350000"), currency="USD", source="tests")
    terms = ContractDiscount(
        contract_id=41, resource=A100, read_at=at, kind="percent", value=Decimal(20), source="tests"
    )
    async with with_provider.engine.begin() as conn:
        await prices.insert_changed_prices(conn, [price])
        await prices.insert_changed_discounts(conn, [terms])
    (choice,) = (await dry(api, flavor_name="n3-A100x4")).json["choices"]
    assert (choice["price_per_hour"], choice["currency"]) == ("4.32", "USD")
    flavors = (await api.get("/v1/catalogue/flavors"))["items"]
    known = {one["name"]: one["price_per_hour"] for one in flavors}
    assert (known["n3-A100x4"], known["n3-H100x1"]) == ("5.4", None)


async def test_a_dry_run_is_refused_as_the_submission_would_be(api: Api) -> None:
    mistakes = [await dry(api, contract_id=99, key_name="exmaple-key")]
    mistakes.append(await api.request("POST", "/v1/submissions", asked(contract_id=99, key_name="exmaple-key")))
    assert [one.status for one in mistakes] == [422, 422]
    assert mistakes[0].json == mistakes[1].json


async def test_a_dry_run_does_not_use_up_an_idempotency_key(api: Api) -> None:
    tried = await api.request("POST", "/v1/submissions?dry_run=true", asked(count=2), Idempotency_Key="k-1")
    made = await api.request("POST", "/v1/submissions", asked(count=3), Idempotency_Key="k-1")
    assert (tried.status, made.status) == (200, 201)


async def test_stock_is_read_for_the_region_of_the_environment(api: Api, provider: CloudTransport) -> None:
    provider.caller.cloud.fleet.stock.change("n3-A100x1", 3)
    provider.caller.cloud.fleet.stock.change("n3-A100x4", 0)
    (choice,) = (await dry(api)).json["choices"]
    assert choice["stock"] == {"gpu_model": A100, "region": "CANADA-1", "gpus": 3, "more": False}


async def test_without_a_provider_a_dry_run_says_what_it_does_not_know(runtime: Runtime) -> None:
    async with serving(runtime) as api:
        shown = (await dry(api)).json
    (choice,) = shown["choices"]
    assert (choice["stock"], choice["contract"], choice["gpu_count"], choice["price_per_hour"]) == (None,) * 4
    assert len(shown["warnings"]) == 2
