"""Carries out interferences: by users, in the provider's console, by attackers, and to the database."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.core.importing import ImportRequest
from service.core.token import CreationRef
from service.core.vm import Vm
from service.errors import Invalid, NotAllowed
from service.lab.explorer.faults import Interference
from service.lab.explorer.world import World
from service.operations import deletion, importing, releasing
from service.runtime.runtime import Runtime
from service.simulator import private
from service.simulator.http import HttpRequest
from service.storage import scheduled_jobs, submissions, vms
from service.storage.engine import transact

#: The provider's staff find VMs that hang in BUILD for good, and fail them. Until then nobody can delete them.
FAIL_STUCK = Interference(at=1000.0, what="fail stuck VMs")


@dataclass
class Requested:
    """What users asked for: submissions, which of them to cancel, and which VMs to delete."""

    submissions: list[UUID] = field(default_factory=list)
    cancelled: set[UUID] = field(default_factory=set)
    deleted: set[tuple[UUID, int]] = field(default_factory=set)


class Play(Protocol):
    """What an interference acts on."""

    world: World
    api: Runtime
    requested: Requested

    def idle_engines(self) -> Sequence[AsyncEngine]:
        """The engines of daemons that have no connection in use."""


async def interfere(play: Play, one: Interference, *, in_call: bool) -> None:
    """Carry out an interference. Raises `StorageUnavailable` or `TryLater` if a user gets an error and would try again."""
    world = play.world
    world.note(f"interference: {one.what}" + f" {one.amount:.0f}" * bool(one.amount) + ", in a call" * in_call)
    match one.what:
        case "fail stuck VMs":
            _fail_stuck(world)
        case "cancel" | "delete" | "delete all" | "import" | "release":
            await _by_a_user(play, one)
        case "forge" | "forged flood":
            await _forge(play, int(one.amount))
        case "vanish crowd":
            _console(world, "/_sim/vanish", f'{{"count": {one.amount:.0f}}}')
        case "clock back":
            world.clock.set_back(one.amount)
        case "retention" | "read prices":
            await _bring_forward(world, "prices" if one.what == "read prices" else "retention")
        case "read-only" | "writable":
            await _set_read_only(play, read_only=one.what == "read-only")
        case _:
            await _act_on_a_vm(play, one)


async def _by_a_user(play: Play, one: Interference) -> None:
    match one.what:
        case "cancel":
            await _cancel(play)
        case "import":
            await _import(play, replace_callbacks=bool(one.amount))
        case "release":
            await _release(play)
        case _:
            await _delete(play, every=one.what == "delete all")


async def _cancel(play: Play) -> None:
    submission_id = play.world.rng.choice(play.requested.submissions)
    await deletion.cancel(play.api, submission_id, caller="explorer")
    play.requested.cancelled.add(submission_id)


async def _delete(play: Play, *, every: bool) -> None:
    """Delete a VM, or each of a submission's first creation, one by one."""
    if every:
        submission_id = play.world.rng.choice(play.requested.submissions)
        async with play.world.engine.connect() as conn:
            found = await vms.of_creation(conn, submission_id, 1)
    else:
        found = await _one_alive(play)
    for vm in found:
        await deletion.delete(play.api, vm, caller="explorer")
        play.requested.deleted.add((vm.submission_id, vm.vm_no))


async def _import(play: Play, *, replace_callbacks: bool) -> None:
    """Import what others made, unless it is on record already, or not listed yet."""
    alive = tuple(vm["id"] for vm in play.world.cloud.truth() if vm["id"] in play.world.foreign and vm["ended"] is None)
    if alive:
        with suppress(Invalid):
            request = ImportRequest(ids=alive, replace_callbacks=replace_callbacks)
            await importing.import_vms(play.api, request, caller="explorer")


async def _release(play: Play) -> None:
    async with play.world.engine.connect() as conn:
        found = await submissions.page(conn, limit=100)
    for one in found:
        if one.origin == "imported":
            with suppress(NotAllowed):  # one of its VMs is being deleted
                await releasing.release(play.api, one.submission_id, caller="explorer")


async def _act_on_a_vm(play: Play, one: Interference) -> None:
    for vm in await _one_alive(play):
        action = {"gone": "delete"}.get(one.what, one.what)
        body = '{"silent": true}' if one.silent else "{}"
        _console(play.world, f"/_sim/vms/{vm.provider_id}/{action}", body)


async def _one_alive(play: Play) -> list[Vm]:
    """Any VM of the record that is alive, or none."""
    async with play.world.engine.connect() as conn:
        alive = [vm for vm in await vms.bound_alive(conn) if vm.provider_id is not None]
    return [play.world.rng.choice(alive)] if alive else []


async def _forge(play: Play, count: int) -> None:
    """Callbacks on the URL of one submission name a VM of another or of nobody; a flood names VMs that do not exist."""
    world = play.world
    alive = [vm["id"] for vm in world.cloud.truth() if vm["ended"] is None]
    ref = CreationRef(world.rng.choice(play.requested.submissions), 1)
    if count:
        await world.forge(ref, [10**9 + number for number in range(count)])
    elif alive:
        await world.forge(ref, [world.rng.choice(alive)])


async def _bring_forward(world: World, job: str) -> None:
    """Make a job due that waits for an hour. Whoever has its lease keeps it."""
    await transact(world.engine, partial(scheduled_jobs.bring_forward, job=job, now=world.clock.now()))


async def _set_read_only(play: Play, *, read_only: bool) -> None:
    """New connections are read-only or not; a change to it ends connections, so that daemons open new ones."""
    change = "SET default_transaction_read_only = on" if read_only else "RESET default_transaction_read_only"
    async with play.world.engine.connect() as conn:
        await conn.execute(text("SET SESSION default_transaction_read_only = off"))
        name = (await conn.execute(text("SELECT current_database()"))).scalar_one()
        await conn.execute(text(f"ALTER DATABASE {name} {change}"))
        await conn.commit()
    for engine in play.idle_engines() if read_only else ():
        await engine.dispose()


def _fail_stuck(world: World) -> None:
    for vm in world.cloud.truth():
        if vm["stuck"] and vm["ended"] is None and vm["status"] in {"CREATING", "BUILD"}:
            _console(world, f"/_sim/vms/{vm['id']}/error", "{}")


def _console(world: World, path: str, body: str) -> None:
    private.handle(world.cloud, HttpRequest(method="POST", path=path, body=body.encode()), world.clock.elapsed)
