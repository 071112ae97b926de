"""What an API token may hold: refused before buying, counted by living VMs, and never passed by submits at once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
import tokens
from cloud_transport import CloudTransport, connected
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from operator_api import Answer, Api, body, serving
from simulated import Caller
from sqlalchemy import text

from service.core.api_token import Role
from service.core.catalogue import Advice
from service.core.hardware import Hardware
from service.core.money import ListPrice
from service.errors import Invalid
from service.operations import submission
from service.operations import tokens as operations
from service.operations.tokens import TokenChange
from service.runtime.runtime import Runtime
from service.storage import prices
from service.storage.engine import begin, create_engine

A100, REGION = "A100-80G-PCIe", "CANADA-1"
ENVIRONMENT = f"default-{REGION}"
#: GPUs of a flavor. Each costs 2 an hour.
GPUS = {"n3-A100x1": 1, "n3-A100x2": 2, "n3-A100x4": 4}
FLAVORS = list(GPUS)


@pytest.fixture
def with_provider(runtime: Runtime) -> Runtime:
    return connected(runtime, CloudTransport(Caller()))


@pytest.fixture
async def api(with_provider: Runtime) -> AsyncIterator[Api]:
    async with serving(with_provider) as api:
        yield api


async def priced(rt: Runtime) -> None:
    async with begin(rt.engine) as conn:
        await prices.insert_changed_prices(conn, [ListPrice(A100, rt.clock.now(), Decimal(2), "USD", "test")])


async def submitted(api: Api, token: str, path: str = "/v1/submissions", **changes: Any) -> Answer:
    return await api.request("POST", path, body(environment_name=ENVIRONMENT, **changes), token=token)


def errors_of(answer: Answer) -> dict[str, str]:
    assert answer.status == 422, answer
    return {one["field"]: one["message"] for one in answer.json["errors"]}


async def end(rt: Runtime, name: str, vms: int) -> None:
    """Let VMs of a token that are not made yet end."""
    async with begin(rt.engine) as conn:
        await conn.execute(
            text("""UPDATE vms SET state = 'CANCELLED', ended_at = now() WHERE (submission_id, vm_no) IN (
                SELECT submission_id, vm_no FROM vms JOIN submissions USING (submission_id)
                WHERE requested_by = :name AND vms.ended_at IS NULL AND provider_id IS NULL LIMIT :vms)"""),
            {"name": name, "vms": vms},
        )


async def test_what_passes_limits_is_refused_with_all_other_mistakes_and_nothing_is_kept(
    api: Api, with_provider: Runtime
) -> None:
    await priced(with_provider)
    token = await tokens.created(
        with_provider, "nightly", Role.SUBMIT, max_vms=4, max_gpus=8, max_price_per_hour=Decimal(12)
    )
    assert (await submitted(api, token, flavor_name="n3-A100x1", count=3)).status == 201
    wrong = {"flavor_name": "n3-A100x4", "count": 2, "key_name": "exmaple-key"}
    expected = {
        "token.max_vms": "of nightly is 4 VMs: it has 3, and this asks for 2 more",
        "token.max_gpus": "of nightly is 8 GPUs: it has 3, and this asks for 8 more",
        "token.max_price_per_hour": "of nightly is 12.00 USD an hour: it has 6.00, and this asks for 16.00 more",
    }
    for path in ("/v1/submissions", "/v1/submissions?dry_run=true"):
        found = errors_of(await submitted(api, token, path, **wrong))
        assert found.pop("key_name")
        assert found == expected
    assert len((await api.get("/v1/submissions"))["items"]) == 1
    (shown,) = [one for one in (await api.get("/v1/tokens"))["items"] if one["name"] == "nightly"]
    assert (shown["max_vms"], shown["max_gpus"], shown["max_price_per_hour"]) == (4, 8, "12")
    assert shown["holds"] == {
        "vms": 3, "gpus": 3, "price_per_hour": "6", "currency": "USD", "unpriced_vms": 0, "uncounted_vms": 0,
    }  # fmt: skip


async def test_vms_that_have_ended_make_room_and_a_repeated_request_is_no_second_one(
    api: Api, with_provider: Runtime
) -> None:
    token = await tokens.created(with_provider, "ci", Role.SUBMIT, max_vms=3)
    asked = body(environment_name=ENVIRONMENT, count=3)
    key = {"Idempotency-Key": "one"}
    first = await api.request("POST", "/v1/submissions", asked, token=token, **key)
    again = await api.request("POST", "/v1/submissions", asked, token=token, **key)
    assert (first.status, again.status) == (201, 200)
    assert errors_of(await submitted(api, token, count=1))
    rotated = (await api.request("POST", "/v1/tokens/ci/rotate", {})).json["token"]  # has the limits of the old one
    assert errors_of(await submitted(api, rotated, count=1))
    await end(with_provider, "ci", 2)
    assert errors_of(await submitted(api, rotated, count=3))
    assert (await submitted(api, token, count=2)).status == 201


async def test_limits_are_changed_while_the_token_is_in_use(api: Api, with_provider: Runtime) -> None:
    token = await tokens.created(with_provider, "ci", Role.SUBMIT, max_vms=1, requests_per_minute=60)
    assert errors_of(await submitted(api, token, count=2))
    changed = await api.request("PATCH", "/v1/tokens/ci", {"max_vms": 2, "max_price_per_hour": "1e2"})
    (one,) = changed.json["items"]
    assert (one["max_vms"], one["max_price_per_hour"], one["requests_per_minute"]) == (2, "100", 60)
    assert list(errors_of(await submitted(api, token, count=2))) == ["token.max_price_per_hour"]  # no price is known
    await api.request("PATCH", "/v1/tokens/ci", {"max_price_per_hour": None})
    assert (await submitted(api, token, count=2)).status == 201
    async with begin(with_provider.engine) as conn:
        noted = (await conn.execute(text("SELECT detail FROM actions WHERE kind = 'token' ORDER BY at"))).scalars()
    assert list(noted) == [
        "created ci with the role submit, max_vms 1, requests_per_minute 60",
        "changed ci: max_vms 2, max_price_per_hour 100",
        "changed ci: max_price_per_hour no limit",
    ]
    assert errors_of(await api.request("PATCH", "/v1/tokens/ci", {})) == {
        "body": "must hold one of max_vms, max_gpus, max_price_per_hour, requests_per_minute"
    }
    assert list(errors_of(await api.request("PATCH", "/v1/tokens/ci", {"max_vms": 0, "max_gpus": "x"}))) == [
        "max_vms",
        "max_gpus",
    ]
    assert (await api.request("PATCH", "/v1/tokens/nobody", {"max_vms": 1})).status == 404


async def test_tokens_without_limits_and_those_of_others_are_not_counted(api: Api, with_provider: Runtime) -> None:
    limited = await tokens.created(with_provider, "limited", Role.SUBMIT, max_vms=2)
    free = await tokens.created(with_provider, "free", Role.SUBMIT)
    assert (await submitted(api, free, count=50)).status == 201
    assert (await submitted(api, limited, count=2)).status == 201


class Daemons:
    """Two daemons on one database, a token, and what each of its submissions may become."""

    def __init__(self, one: Runtime, other: Runtime) -> None:
        self.both = (one, other)
        self.name = f"t-{uuid4()}"
        self.token_id = UUID(int=0)
        self.choices: dict[UUID, list[str]] = {}

    async def begin(self) -> None:
        await tokens.created(self.both[0], self.name, Role.SUBMIT, max_vms=1)
        async with begin(self.both[0].engine) as conn:
            found = await conn.execute(text("SELECT token_id FROM api_tokens WHERE name = :n"), {"n": self.name})
            self.token_id = found.scalar_one()

    async def submit(self, number: int, count: int, flavors: list[str]) -> bool:
        """Ask one of the daemons for VMs of the first flavor, with the others as alternatives."""
        others = [{"flavor_name": one, "environment_name": ENVIRONMENT} for one in flavors[1:]]
        asked = body(environment_name=ENVIRONMENT, flavor_name=flavors[0], count=count, policy={"alternatives": others})
        new = submission.read(asked, caller=self.name, key=None, token_id=self.token_id)
        hardware = [Hardware(REGION, A100, GPUS[one]) for one in flavors]
        try:
            made, _ = await submission.submit(self.both[number % 2], new, Advice(hardware=hardware))
        except Invalid:
            return False
        self.choices[made] = flavors
        return True

    async def make(self, vms: int) -> None:
        """Let the provider make VMs, each from the last choice of its submission."""
        async with begin(self.both[0].engine) as conn:
            rows = list(await conn.execute(text(_LIVING), {"name": self.name}))
            for row in [one for one in rows if one.provider_id is None][:vms]:
                chosen = self.choices[row.submission_id][-1]
                values = {"s": row.submission_id, "v": row.vm_no, "f": chosen, "g": GPUS[chosen]}
                await conn.execute(
                    text("""UPDATE vms SET provider_id = vm_no, state = 'CREATING', next_refresh_at = now(), flavor = :f,
                        gpu_count = :g WHERE submission_id = :s AND vm_no = :v"""),
                    values,
                )

    async def held(self) -> tuple[int, int]:
        """VMs and GPUs of the living VMs; of one that is not made, as many as it may get."""
        async with begin(self.both[0].engine) as conn:
            rows = list(await conn.execute(text(_LIVING), {"name": self.name}))
        sizes = [
            row.gpu_count if row.provider_id else max(GPUS[one] for one in self.choices[row.submission_id])
            for row in rows
        ]
        return len(sizes), sum(sizes)


_LIVING = """SELECT submission_id, vm_no, provider_id, gpu_count FROM vms JOIN submissions USING (submission_id)
    WHERE requested_by = :name AND vms.ended_at IS NULL"""

asked = st.tuples(st.integers(1, 5), st.lists(st.sampled_from(FLAVORS), min_size=1, max_size=3, unique=True))
steps = st.one_of(
    st.tuples(st.just("submit"), st.lists(asked, min_size=2, max_size=6)),
    st.tuples(st.just("end"), st.integers(1, 8)),
    st.tuples(st.just("make"), st.integers(1, 8)),
    st.tuples(st.just("change"), st.tuples(*[st.none() | st.integers(1, 20)] * 3)),
)


@pytest.fixture
async def two(runtime: Runtime, database_url: str) -> AsyncIterator[tuple[Runtime, Runtime]]:
    await priced(runtime)
    other = create_engine(database_url)
    yield runtime, replace(runtime, engine=other)
    await other.dispose()


@trying(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(drawn=st.lists(steps, min_size=3, max_size=8))
async def test_submits_at_once_on_two_daemons_never_pass_a_limit_and_none_is_refused_without_need(
    two: tuple[Runtime, Runtime], drawn: list[Any]
) -> None:
    daemons = Daemons(*two)
    await daemons.begin()
    limits: tuple[int | None, ...] = (1, None, None)
    for kind, value in drawn:
        if kind == "end":
            await end(two[0], daemons.name, value)
        elif kind == "make":
            await daemons.make(value)
        elif kind == "change":
            limits = value
            wanted = TokenChange(max_vms=value[0], max_gpus=value[1], max_price_per_hour=value[2])
            await operations.change(two[1], daemons.name, wanted, caller="tests")
        else:
            accepted = await asyncio.gather(*(daemons.submit(number, *one) for number, one in enumerate(value)))
            vms, gpus = await daemons.held()
            bounds = (limits[0] or 10**9, limits[1] or 10**9, limits[2] or 10**9)
            passed = vms > bounds[0] or gpus > bounds[1] or gpus * 2 > bounds[2]
            assert not (passed and any(accepted))
            for (count, flavors), taken in zip(value, accepted, strict=True):
                more = count * max(GPUS[one] for one in flavors)
                too_much = vms + count > bounds[0] or gpus + more > bounds[1] or (gpus + more) * 2 > bounds[2]
                assert taken or too_much
