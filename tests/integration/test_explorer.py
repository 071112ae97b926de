"""The explorer finds nothing wrong with the daemon, and finds what is wrong with daemons that were broken on purpose."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import cache, partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import structlog
from msgspec import structs
from postgres import Databases
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.audit.archive import Archive, Manifest
from service.core.money import ListPrice
from service.core.observation import Observation, VmPage
from service.core.token import CreationRef
from service.errors import ProviderError, Refused, StorageUnavailable, TryLater, Unconfirmed, VmNotFound
from service.lab.explorer import run
from service.lab.explorer.faults import CALM, KINDS, Drawn, Interference
from service.lab.explorer.jobs import JOBS, JobMonitor
from service.lab.explorer.play import Outcome
from service.lab.explorer.run import explore
from service.lab.explorer.scenario import Scenario, scenario
from service.lab.explorer.world import CloudTransport, World
from service.provider.client import Client
from service.runtime.health import Health
from service.runtime.runtime import Runtime
from service.simulator.config import StockChange
from service.simulator.faults import Range, Trigger
from service.simulator.routes import LoggedCall
from service.storage import contract_queue, creations, partitions, tables, vms
from service.storage.engine import transact
from service.storage.partitions import Month
from service.storage.seals import DroppedMonth
from service.worker import apply, create, prices, retention

#: Seeds in which something happens that each broken daemon cannot cope with.
RESENDING = (16,)
IGNORING = (2, 9)
UNFENCED = (11,)
CONFLICTING = range(1, 7)
TAKEN = (1,)
DELETING = range(1, 7)
NAMELESS = (3,)
VANISHING = (4,)
REPLACING = (31,)
CANCELLING = (4,)
RETIRING = (3,)
DYING = (4,)
PRICED = (38,)

WITHSTOOD = tuple(KINDS)

engines_on = cache(run._engines)


@pytest.fixture(autouse=True)
def silent_logs() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def one_server(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    """All seeds are played on the server of the tests, by the same engines: new ones take longer than most seeds."""
    monkeypatch.setattr(run, "server", lambda: nullcontext(databases.server_url))
    monkeypatch.setattr(run, "_engines", engines_on)


async def outcomes(seeds: Sequence[int], **how: Any) -> list[Outcome]:
    async with aclosing(explore(seeds, **how)) as played:
        return [outcome async for outcome in played]


async def wrongs(seeds: Sequence[int], **how: Any) -> list[str]:
    """What is wrong in the first of the seeds in which anything is."""
    async with aclosing(explore(seeds, **how)) as played:
        async for outcome in played:
            if outcome.wrong:
                return outcome.wrong
    return []


def only(*kinds: str) -> Callable[[int], Scenario]:
    """Scenarios with these kinds of faults, always, besides the everyday ones."""
    return partial(scenario, probabilities=dict.fromkeys(kinds, 1.0))


async def test_nothing_is_doubled_forgotten_or_stranded() -> None:
    played = await outcomes(range(1, 5), scenario_of=only())
    assert {one.seed: one.wrong for one in played if one.wrong} == {}
    assert sum(one.crashes for one in played) > 0


async def test_each_kind_of_fault_is_withstood() -> None:
    # Many kinds at once in each seed: one seed for each kind takes six times as long.
    groups = [WITHSTOOD[first::4] for first in range(4)]
    played = await outcomes(range(4), scenario_of=lambda seed: only(*groups[seed])(seed))
    assert {one.seed: (one.kinds, one.wrong) for one in played if one.wrong} == {}
    assert sorted(kind for one in played for kind in one.kinds) == sorted(WITHSTOOD)


async def test_a_seed_plays_the_same_again() -> None:
    several = only("bad answers", "bad callbacks", "outage", "unknown status")
    assert await outcomes([2], scenario_of=several) == await outcomes([2], scenario_of=several)


def test_a_seed_draws_a_kind_of_fault_or_not_whatever_other_kinds_there_are() -> None:
    for seed in range(1, 50):
        alone, together = scenario(seed, {"outage": 0.5}), scenario(seed, dict.fromkeys(KINDS, 0.5))
        assert ("outage" in alone.kinds) == ("outage" in together.kinds)
        assert (asked(alone), alone.crash_every) == (asked(together), together.crash_every)


def asked(one: Scenario) -> list[tuple[Any, Any]]:
    """What a scenario's requests are besides what kinds add to them."""
    return [(request["name"], request["count"]) for request in one.requests]


def test_every_kind_of_fault_is_drawn_by_some_seed() -> None:
    assert {kind for seed in range(1, 100) for kind in scenario(seed).kinds} == set(KINDS)


async def test_a_daemon_that_sends_again_after_a_timeout_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = create._after_error

    def resend(rt: Any, leased: Any, choices: int, result: Any) -> dict[str, Any]:
        if isinstance(result.error, Unconfirmed):
            return creations.due(rt.clock.now() + timedelta(seconds=1), "sent again")
        return sound(rt, leased, choices, result)

    monkeypatch.setattr(create, "_after_error", resend)
    assert any("doubled" in one or "forgotten" in one for one in await wrongs(RESENDING, scenario_of=only()))


async def test_a_daemon_that_drops_early_callbacks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "_INCOMPLETE", frozenset())
    assert await wrongs(IGNORING, scenario_of=only()) != []


def freezing(seed: int) -> Scenario:
    """A seed in which daemons freeze most of the time, and the first create calls find no stock."""
    one, flavor = scenario(seed, {}), "n3-A100x1"
    stock = (StockChange(at=0, flavor=flavor, stock=0), StockChange(at=60, flavor=flavor, stock=None))
    return replace(one, freeze=0.9, crash_every=0, cloud=replace(one.cloud, stock_changes=stock))


async def test_a_daemon_that_completes_without_its_lease_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # It froze in a call that was refused; meanwhile it was taken for dead, and another made the VMs.
    assert await wrongs(UNFENCED, scenario_of=freezing) == []

    async def complete(conn: AsyncConnection, ref: CreationRef, token: UUID, **values: Any) -> None:
        del token
        await conn.execute(
            update(tables.creations)
            .where(tables.creations.c.submission_id == ref.submission_id)
            .where(tables.creations.c.creation_no == ref.creation_no)
            .values(lease_token=None, lease_until=None, **values)
        )

    monkeypatch.setattr(creations, "complete_if_leased", complete)
    assert any("doubled" in one for one in await wrongs(UNFENCED, scenario_of=freezing))


async def test_a_daemon_that_drops_a_deletion_on_409_is_caught() -> None:
    async def delete_job(rt: Runtime) -> int:
        done = await JOBS["delete"](rt)
        refused = [one.call.args["id"] for one in world_of(rt).cloud.log if refuses_delete(one)]
        values = {"desired_state": "present", "delete_due_at": None}
        drop = update(tables.vms).where(tables.vms.c.provider_id.in_([int(id_) for id_ in refused])).values(**values)
        await transact(rt.engine, lambda conn: conn.execute(drop.where(tables.vms.c.ended_at.is_(None))))
        return done

    jobs = {**JOBS, "delete": delete_job}
    found = await wrongs(CONFLICTING, jobs=jobs, scenario_of=only("delete conflict"))
    assert any("was deleted by a user and is still" in one for one in found)


def refuses_delete(logged: LoggedCall) -> bool:
    return logged.call.request.method == "DELETE" and logged.reply.status == 409


def world_of(rt: Runtime) -> World:
    assert isinstance(rt.transport, CloudTransport)
    return rt.transport.world


def hidden(seed: int) -> Scenario:
    """A seed in which creates go through unnoticed: lists hide their VMs for long, and no callback comes."""
    one = only("taken names")(seed)
    lost = replace(one.cloud.faults.callbacks, lost=Trigger(probability=1.0, until=CALM))
    unheard = replace(one.cloud.faults.create, lost=Trigger(probability=1.0, until=60.0))
    faults = replace(one.cloud.faults, callbacks=lost, create=unheard, list_lag=Range(600, 600))
    request = {**one.requests[0], "count": 2}
    return replace(one, crash_every=0, requests=(request,), interferences=(), cloud=replace(one.cloud, faults=faults))


async def test_a_daemon_that_takes_a_taken_name_for_a_refusal_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    send = Client.create

    async def create_once(client: Client, body: Any) -> Any:
        try:
            return await send(client, body)
        except ProviderError as error:
            taken = error.status in {400, 409} and ("not available" in str(error) or "exist" in str(error))
            raise (Refused("Invalid request.", status=400, reason="bad_request") if taken else error) from None

    assert await wrongs(TAKEN, scenario_of=hidden) == []
    monkeypatch.setattr(Client, "create", create_once)
    found = await wrongs(TAKEN, scenario_of=hidden)
    assert any("is refused in the record since its name was taken" in one for one in found)


async def test_a_daemon_whose_job_fails_silently_is_caught() -> None:
    async def refresh_job(_rt: Runtime) -> int:
        return 0  # as one that catches its own errors and says nothing

    def short(seed: int) -> Scenario:
        return replace(only()(seed), horizon=2500.0)

    assert await wrongs([2], jobs={**JOBS, "refresh": refresh_job}, scenario_of=short) != []


def test_work_that_waits_for_long_without_a_health_issue_is_caught_but_not_of_a_daemon_that_was_just_started() -> None:
    well, ill = (SimpleNamespace(health=SimpleNamespace(issues=issues)) for issues in ({}, {"provider": "away"}))

    def after(seconds: int, *daemons: Any, started_at: int | None = None) -> list[str]:
        monitor = JobMonitor()
        for late in range(0, seconds, 50):
            if late == started_at:
                monitor.started(0)
            monitor.waiting({"refresh": float(late)}, daemons)
            monitor.ran(0, well, "refresh", None)
        return list(monitor.wrong.values())

    assert after(1000, well, well) == ["the work of refresh has been due for 900 s, and there is no health issue"]
    assert after(850, well, well) == after(1000, well, ill) == after(1000, well, well, started_at=800) == []
    assert after(1500, well, well, started_at=800) != []


async def test_a_daemon_whose_job_cannot_write_and_raises_no_health_issue_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def delete_job(_rt: Runtime) -> int:
        raise StorageUnavailable("25006 cannot execute UPDATE in a read-only transaction")

    monkeypatch.setattr(Health, "report", lambda *_args, **_kwargs: None)
    found = await wrongs(DELETING, jobs={**JOBS, "delete": delete_job}, scenario_of=only())
    assert any(one.startswith("delete failed 5 times in a row, and there is no health issue") for one in found)


async def test_a_daemon_whose_job_fails_twice_for_the_same_reason_is_caught() -> None:
    async def delete_job(_rt: Runtime) -> int:
        raise ValueError("a VM has no name")

    found = await wrongs(DELETING, jobs={**JOBS, "delete": delete_job}, scenario_of=only())
    assert found == ["delete failed twice for the same reason: ValueError: a VM has no name"]


async def test_a_daemon_that_fails_the_whole_list_for_one_bad_vm_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # A VM of somebody else has no name. It was no trouble to the sound daemon.
    def nameless(seed: int) -> Scenario:
        one = scenario(seed, {})
        # The sound daemon is done by then, and the other would fail for hours.
        return replace(one, horizon=2000.0, foreign=1, drawn={"bad neighbour": Drawn(foreign_name="null")})

    assert await wrongs(NAMELESS, scenario_of=nameless) == []
    list_vms = Client.list_vms

    async def list_strictly(client: Client, **how: Any) -> VmPage:
        page = await list_vms(client, **how)
        if any(vm.name is None for vm in page.vms):
            raise TryLater("the list cannot be read")
        return page

    monkeypatch.setattr(Client, "list_vms", list_strictly)
    assert await wrongs(NAMELESS, scenario_of=nameless) != []


async def test_a_daemon_that_replaces_more_vms_at_once_than_the_policy_says_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await wrongs(REPLACING, scenario_of=only("replacing")) == []

    async def none(_conn: AsyncConnection, _submission_ids: Any) -> dict[UUID, int]:
        return {}  # as one that forgets which replacements it has begun

    monkeypatch.setattr(contract_queue, "count_replacing", none)
    found = await wrongs(REPLACING, scenario_of=only("replacing"))
    assert any("VMs were replaced at once" in one for one in found)


async def test_a_daemon_that_withdraws_only_vms_whose_create_call_was_answered_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = vms.wanted

    async def wanted_and_known(conn: AsyncConnection, submission_id: UUID, *, limit: int) -> list[vms.Ref]:
        found = await vms.read(conn, await wanted(conn, submission_id, limit=limit))
        return [vm.ref for vm in found if vm.provider_id is not None]

    monkeypatch.setattr(vms, "wanted", wanted_and_known)
    assert await wrongs(CANCELLING, scenario_of=only("cancels in calls")) != []


def retiring(seed: int) -> Scenario:
    """A seed in which daemons die in the middle of exports."""
    return replace(only("retention")(seed), crash_every=2)


async def test_a_daemon_that_takes_an_interrupted_export_for_a_whole_one_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "_AT_ONCE", 2)
    export_of, drop = retention._export_of, partitions.drop

    async def finished(*args: Any) -> Manifest | Archive:
        found = await export_of(*args)
        return found.finish() if isinstance(found, Archive) and found.after is not None else found

    async def drop_anyway(conn: AsyncConnection, month: Month, *, dropped: DroppedMonth, **_holding: Any) -> bool:
        return await drop(conn, month, holding=None, dropped=dropped)

    monkeypatch.setattr(retention, "_export_of", finished)
    monkeypatch.setattr(partitions, "drop", drop_anyway)
    found = await wrongs(RETIRING, scenario_of=retiring)
    assert any("are neither in the record nor in an archive" in one for one in found)


async def test_a_daemon_that_leaves_its_calls_to_who_made_them_is_caught_when_all_die(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def rescue_none(*_args: Any, **_values: Any) -> list[Any]:
        return []  # whoever froze comes back

    monkeypatch.setattr(creations, "rescue_expired", rescue_none)
    assert await wrongs(DYING, scenario_of=freezing) == []
    assert any("is still calling" in one for one in await wrongs(DYING, scenario_of=dying))


def dying(seed: int) -> Scenario:
    return replace(freezing(seed), die_together=True)


def vanishing(seed: int) -> Scenario:
    """A seed in which nothing happens to the fleet but that two of its VMs vanish."""
    one = scenario(seed, {})
    crowd = Interference(at=500.0, what="vanish crowd", amount=2)
    return replace(one, horizon=1800.0, interferences=(crowd,), foreign=0, requests=({**one.requests[0], "count": 3},))


async def test_a_daemon_that_never_takes_a_missing_vm_for_lost_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await wrongs(VANISHING, scenario_of=vanishing) == []
    get_vm, list_vms = Client.get_vm, Client.list_vms
    known: dict[int, Observation] = {}

    async def get_stubbornly(client: Client, vm_id: int) -> Observation:
        try:
            return await get_vm(client, vm_id)
        except VmNotFound:
            raise TryLater("perhaps it comes back") from None

    async def list_stubbornly(client: Client, **how: Any) -> VmPage:
        page = await list_vms(client, **how)
        known.update({vm.provider_id: vm for vm in page.vms})
        return dataclasses.replace(page, vms=tuple(known.values()), count=len(known))

    monkeypatch.setattr(Client, "get_vm", get_stubbornly)
    monkeypatch.setattr(Client, "list_vms", list_stubbornly)
    found = await wrongs(VANISHING, scenario_of=vanishing)
    assert any("in the record and" in one and "(vanished)" in one for one in found)


async def test_a_daemon_that_takes_a_price_for_another_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = prices.list_prices

    def doubled(book: Any, at: Any) -> list[ListPrice]:
        return [structs.replace(one, value=one.value * 2) for one in sound(book, at)]

    monkeypatch.setattr(prices, "list_prices", doubled)
    assert any(" an hour on record from " in text for text in await wrongs(PRICED, scenario_of=only("prices")))
