"""One VM, creation or submission that a job cannot deal with costs itself, and the job goes on with all others."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.operations import binding, lookup, refusal, repair, spending
from service.worker import apply, create, refresh, rescue


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make a function fail for the arguments that `bad` picks, as a value that nobody foresaw would."""

    def make(module: Any, name: str, bad: Callable[..., bool]) -> None:
        original = getattr(module, name)

        def failing(*args: Any, **kwargs: Any) -> Any:
            if bad(*args, **kwargs):
                raise ValueError("nobody foresaw this")
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, failing)

    return make


async def test_a_vm_whose_refresh_cannot_be_stored_is_deferred_with_a_note(engine: AsyncEngine, breaks: Any):
    stage = Stage(engine)
    await stage.submit(count=5)
    await stage.live(60)
    for vm in await stage.vms():
        stage.console(vm.provider_id, "stop")
    breaks(refresh, "apply_observation", lambda vm, *_: vm.vm_no == 2)
    await stage.sql("UPDATE scheduled_jobs SET due_at = done_at WHERE job = 'resync'")
    await stage.live(20, job_runs=(refresh,))
    assert [vm.vm_no for vm in await stage.vms() if vm.state == "ACTIVE"] == [2]
    bad = await stage.vm(2)
    assert bad.reason == "its last refresh could not be stored: nobody foresaw this"
    assert bad.next_refresh_at > stage.world.clock.now()


async def test_a_creation_that_cannot_be_looked_up_is_looked_up_again_later(engine: AsyncEngine, breaks: Any):
    stage = Stage(engine, cloud={"faults": {"create": {"lost": [1, 2, 3]}}})
    await stage.submit(count=45)
    breaks(lookup, "_resolve", lambda *_, ref, **__: ref.creation_no == 2)
    await stage.live(30, job_runs=(create, refresh))
    assert [one.state for one in await stage.creations()] == ["answered", "unconfirmed", "answered"]
    assert (await stage.creation(2)).due_at > stage.world.clock.now()


async def test_an_orphan_that_cannot_be_recorded_hides_no_other(engine: AsyncEngine, breaks: Any):
    stage = Stage(engine)
    await stage.submit(count=4)
    await stage.live(60)
    bad, *others = stage.alive()
    await stage.sql("DELETE FROM vms")
    breaks(binding, "record_orphan", lambda _rt, _conn, _ref, provider_id, **_: provider_id == bad)
    await stage.sql("UPDATE scheduled_jobs SET due_at = done_at WHERE job = 'resync'")
    await refresh.run_once(stage.rt)
    assert [one.provider_id for one in await stage.orphans()] == others


async def test_a_late_creation_that_cannot_be_refused_keeps_no_other_waiting(engine: AsyncEngine, breaks: Any):
    stage = Stage(engine)
    await stage.submit(count=60, policy={"deadline_seconds": 60})
    stage.world.clock.advance(61)
    breaks(refusal, "refuse_vms", lambda _rt, _conn, creation, *_, **__: creation.creation_no == 2)
    await rescue.run_once(stage.rt)
    assert [one.state for one in await stage.creations()] == ["refused", "due", "refused"]


async def test_a_submission_whose_policy_fails_has_its_stuck_vms_flagged_all_the_same(engine: AsyncEngine, breaks: Any):
    stage = Stage(engine, cloud={"faults": {"vms": {"boot_error": [1, 2, 3]}}})
    first, *_ = [await stage.submit(name=name, policy={"on_stuck": "replace"}) for name in ("a", "b", "c")]
    await stage.live(40, job_runs=(apply, create, refresh))
    breaks(rescue, "_by_policy", lambda _rt, _conn, found, _: any(vm.submission_id == first for vm in found))
    await rescue.run_once(stage.rt)
    failed = {vm.submission_id: vm for vm in await stage.vms() if vm.state == "ERROR"}
    assert all(vm.stuck for vm in failed.values())
    assert {id_ for id_, vm in failed.items() if vm.replaced_by is None} == {first}


@pytest.mark.parametrize(("module", "name"), [(repair, "_repair"), (spending, "_check")], ids=["repair", "limits"])
async def test_a_submission_that_cannot_be_worked_on_keeps_no_other_waiting(
    engine: AsyncEngine, breaks: Any, module: Any, name: str
):
    stage = Stage(engine)
    policy = {"maintain": {"enabled": True, "grace_seconds": 0}, "max_price_per_hour": "100000"}
    for label in ("a", "b", "c"):
        await stage.submit(name=label, policy=policy)
    await stage.live(60)
    for vm in await stage.vms():
        stage.console(vm.provider_id, "error")
    tried = []

    def second(*args: Any, submission_id: Any = None, **_: Any) -> bool:
        tried.append(submission_id or args[-1].submission_id)
        return len(set(tried)) == 2 and tried[-1] == tried[1]

    breaks(module, name, second)
    await stage.sql("UPDATE submissions SET limit_due_at = created_at")
    await stage.sql("UPDATE vms SET next_refresh_at = created_at")
    await stage.live(30, job_runs=(refresh, rescue))
    assert len(set(tried)) == 3
