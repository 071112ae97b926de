"""What the state of a VM rests on."""

from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.queries import corroboration
from service.storage.engine import begin


async def known(stage: Stage, vm_no: int = 1) -> str:
    (vm,) = [one for one in await stage.vms() if one.vm_no == vm_no]
    async with begin(stage.engine) as conn:
        return await corroboration.of_vm(conn, vm)


async def edit(stage: Stage, statement: str, **values: Any) -> None:
    async with begin(stage.engine) as conn:
        await conn.execute(text("SET LOCAL session_replication_role = replica"))
        await conn.execute(text(statement), values)


async def test_a_state_is_known_by_callbacks_by_answers_by_both_or_against_a_claim(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    await stage.submit()
    assert await known(stage) == "decided"
    await stage.live(120)
    ((moved,),) = await stage.sql(
        "SELECT max(evidence_at) FROM transitions WHERE verdict = 'moved' AND evidence = 'event' AND to_state = 'ACTIVE'"
    )
    later = moved + timedelta(seconds=5)
    await edit(stage, "UPDATE vms SET observed_at = NULL")
    assert await known(stage) == "callback"
    await edit(stage, "UPDATE vms SET observed_at = :at", at=later)
    assert await known(stage) == "confirmed"
    unexpected = (
        "INSERT INTO transitions (submission_id, vm_no, seq, at, from_state, to_state, verdict, claimed, evidence, evidence_at)"
        " SELECT submission_id, 1, seq + 1, :at, state, state, 'unexpected', 'ERROR', 'event', :at FROM vms"
    )
    await edit(stage, unexpected, at=later + timedelta(seconds=1))
    assert await known(stage) == "contradicted"
    await edit(stage, "UPDATE vms SET observed_at = :at", at=later + timedelta(seconds=9))
    assert await known(stage) == "confirmed"
    await edit(stage, "UPDATE transitions SET evidence = 'observation' WHERE to_state = 'ACTIVE'")
    assert await known(stage) == "confirmed"
    await edit(stage, "DELETE FROM events")
    assert await known(stage) == "observed"


async def test_lists_and_past_moments_say_the_same_as_of_each_vm(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    stage.misbehave(callbacks={"lost": 0.5})
    await stage.submit(count=6)
    await stage.live(300)
    stage.console((await stage.vm(3)).provider_id, "delete", silent=False)
    await stage.live(100)
    vms = await stage.vms()
    async with begin(stage.engine) as conn:
        together = await corroboration.of_vms(conn, vms)
        assert together == {one.ref: await corroboration.of_vm(conn, one) for one in vms}
        assert len(set(together.values())) > 1
        now = stage.world.clock.now()
        assert await corroboration.of_vms(conn, vms, at=now) == together
        assert await corroboration.of_vms(conn, vms, at=now, known_at=now) == together
        early = await corroboration.of_vms(conn, vms, at=vms[0].created_at - timedelta(seconds=1))
    assert set(early.values()) == {"decided"}


async def test_what_was_recorded_later_does_not_corroborate_a_past_moment(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    await stage.submit()
    await stage.live(120)
    (vm,) = await stage.vms()
    ((moved,),) = await stage.sql("SELECT max(at) FROM transitions WHERE verdict = 'moved'")
    await edit(stage, "UPDATE vms SET observed_at = :at", at=moved + timedelta(hours=1))
    await edit(
        stage,
        "INSERT INTO transitions (submission_id, vm_no, seq, at, from_state, to_state, verdict, claimed, evidence, evidence_at)"
        " SELECT submission_id, 1, seq + 1, :at, state, state, 'unexpected', 'ERROR', 'event', :at FROM vms",
        at=moved + timedelta(hours=2),
    )
    async with begin(stage.engine) as conn:
        at = [await corroboration.of_vms(conn, [vm], at=moved + timedelta(minutes=30 + 60 * one)) for one in range(3)]
    assert [one[vm.ref] for one in at] == ["callback", "confirmed", "contradicted"]
