"""Compares the record with the cloud's ground truth. Each difference is a sentence.

It reads the cloud's state and the record's tables, and trusts neither side's queries.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.core.lifecycle import EXPECTED, VmState, state_of
from service.lab.explorer.world import World
from service.storage.engine import begin
from service.storage.tables import (
    call_ends,
    calls,
    creations,
    dead_letters,
    events,
    inbox,
    orphans,
    submissions,
    transitions,
    vms,
)

Row = Mapping[str, Any]

#: How long something may be past its due time before it counts as stranded.
_LATE = timedelta(seconds=120)
#: How long the cloud's lists may lag behind creates, in seconds, and some more.
_LAG = 40.0
#: So much of a VM's name says which creation it is of, whatever the numbering behind it.
_TAGGED = 40


class Record:
    """The record's tables, read once."""

    def __init__(self, tables: Mapping[str, Sequence[Row]]) -> None:
        self.submissions = tables["submissions"]
        self.creations = tables["creations"]
        self.vms = tables["vms"]
        self.transitions = tables["transitions"]
        self.calls = tables["calls"]
        self.ends = tables["call_ends"]
        self.orphans = tables["orphans"]
        self.inbox = tables["inbox"]
        self.dead_letters = tables["dead_letters"]
        #: The creation on whose URL each event came.
        self.received_for = {one["event_id"]: (one["submission_id"], one["creation_no"]) for one in tables["events"]}

    @classmethod
    async def read(cls, engine: AsyncEngine) -> "Record":
        wanted = (submissions, creations, vms, transitions, calls, call_ends, orphans, inbox, dead_letters, events)
        async with begin(engine) as conn:
            return cls({table.name: await _all(conn, table) for table in wanted})


async def _all(conn: AsyncConnection, table: Any) -> list[Row]:
    rows = await conn.execute(select(table).order_by(*table.primary_key.columns))
    return [dict(row) for row in rows.mappings()]


def check(world: World, record: Record, *, submitted: int, crashes: int) -> list[str]:
    """Everything that is wrong with a record, given what the cloud really did."""
    truth = {vm["id"]: vm for vm in world.cloud.truth()}
    foreign = world.foreign
    ours = {id_: vm for id_, vm in truth.items() if id_ not in foreign}
    return [
        *_foreign(world, record, truth),
        *_existence(record, ours),
        *_doubles(world, record, ours),
        *_agreement(record, truth),
        *_submissions(record, submitted),
        *_completeness(record),
        *_open_ends(world, record),
        *_transitions(record),
        *_calls(world, record, crashes),
    ]


def _foreign(world: World, record: Record, truth: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """What others made is neither bound nor touched."""
    bound = {vm["provider_id"] for vm in record.vms}
    for id_ in sorted(world.foreign):
        if id_ in bound:
            yield f"VM {id_}, which others made, is in the record as ours"
        touched = [one for one in world.cloud.log if one.call.request.path.endswith(f"/{id_}")]
        if any(one.call.request.method != "GET" for one in touched):
            yield f"VM {id_}, which others made, was touched ({truth[id_]['ended']})"


def _alive(vm: Mapping[str, Any]) -> bool:
    return vm["ended"] is None


def _existence(record: Record, truth: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """Every VM that the cloud made is in exactly one place of the record."""
    bound = Counter(vm["provider_id"] for vm in record.vms if vm["provider_id"] is not None)
    living = {vm["provider_id"] for vm in record.vms if vm["ended_at"] is None}
    noted = {orphan["provider_id"]: orphan for orphan in record.orphans}
    for id_, times in bound.items():
        if times > 1:
            yield f"VM {id_} is bound to {times} records"
        if id_ not in truth:
            yield f"the record has VM {id_}, which the cloud never made"
    for id_, vm in truth.items():
        if _alive(vm) and id_ not in living and noted.get(id_, {}).get("state") != "found":
            yield f"forgotten: VM {id_} ({vm['name']}, {vm['status']}) is alive and in no record"


def _doubles(world: World, record: Record, truth: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """A VM without a record to bind to was fulfilled late, after we had stopped looking; any other was created twice.

    And what a VM said of itself before it was bound was not thrown away.
    """
    called_at = {logged.call.number: logged.call.now for logged in world.cloud.log}
    looked_for = world.settings.lookup_window_seconds - _LAG
    late = {vm["name"][:_TAGGED] for vm in truth.values() if vm["created_at"] > called_at[vm["create_call"]] + 1}
    unheard = {
        logged.call.number
        for logged in world.cloud.log
        if logged.reply.fate != "normal"
        or logged.reply.status != 200
        or not logged.reply.body.startswith(b'{"status": true')
    }
    bound = {vm["provider_id"]: vm for vm in record.vms}
    for id_, vm in truth.items():
        # One that vanished before anybody could bind it is gone, and another was rightly created in its place.
        if id_ in bound or vm["ended"] == "vanished":
            continue
        if vm["create_call"] not in unheard:
            yield f"doubled: VM {id_} ({vm['name']}) was made by an answered call, and no record wanted it"
        elif vm["name"][:_TAGGED] not in late and vm["created_at"] < called_at[vm["create_call"]] + looked_for:
            yield f"doubled: VM {id_} ({vm['name']}) was there to be found, and another was created instead"
    completed_at = {(one["submission_id"], one["creation_no"]): one["completed_at"] for one in record.creations}
    for event in record.dead_letters:
        mine, received_for = bound.get(event["provider_id"]), record.received_for[event["event_id"]]
        # One that came on the URL of another creation was no word of this VM's.
        stable = (
            completed_at[received_for]
            if mine and received_for == (mine["submission_id"], mine["creation_no"])
            else None
        )
        if event["kind"] == "unknown_vm" and stable is not None and event["at"] < stable:
            yield f"an early callback of VM {event['provider_id']} was thrown away"


def _agreement(record: Record, truth: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """What the record says of a VM is what the cloud has."""
    for vm in record.vms:
        real = truth.get(vm["provider_id"])
        if real is None:
            continue
        name = f"VM {vm['provider_id']} ({vm['vm_no']})"
        gone = vm["state"] in {VmState.DELETED, VmState.LOST}
        if gone == _alive(real):
            yield f"{name} is {vm['state']} in the record and {real['status']} at the cloud ({real['ended']})"
        elif not gone and state_of(real["status"]) != vm["state"]:
            yield f"{name} is {vm['state']} in the record and {real['status']} at the cloud"
        if not gone and real["contract_id"] != vm["observed_contract_id"]:
            yield f"{name} is on contract {real['contract_id']}, not {vm['observed_contract_id']}"
        if not gone and vm["ready"] and vm["wants_address"] and vm["floating_ip"] != real["floating_ip"]:
            yield f"{name} has address {real['floating_ip']}, not {vm['floating_ip']}"
        if vm["desired_state"] == "deleted" and _alive(real):
            yield f"{name} should be deleted and is still {real['status']}"


def _submissions(record: Record, submitted: int) -> Iterator[str]:
    if len(record.submissions) != submitted:
        yield f"doubled: {submitted} submissions were made, and {len(record.submissions)} are in the record"


def _completeness(record: Record) -> Iterator[str]:
    """Each VM of a submission is there, or its absence has a reason; and none is there twice."""
    members: dict[Any, list[Row]] = defaultdict(list)
    for vm in record.vms:
        if vm["member"]:
            members[vm["submission_id"]].append(vm)
    for submission in record.submissions:
        mine = members[submission["submission_id"]]
        deleted = [
            vm for vm in record.vms if not vm["member"] and (vm["deletion_reason"] or "").startswith("deletion asked")
        ]
        of_users = sum(vm["submission_id"] == submission["submission_id"] for vm in deleted)
        if len(mine) + of_users != submission["count"]:
            yield f"{len(mine)} VMs count towards a submission of {submission['count']}"
        if submission["state"] == "open":
            yield f"a submission of {submission['count']} is still open"
        for vm in mine:
            accounted = (
                vm["ready"] or vm["ended_at"] or vm["reason"] or vm["desired_state"] == "deleted" or vm["ready_at"]
            )
            if not accounted:
                yield f"VM {vm['vm_no']} is {vm['state']}, not ready, and nothing says why"


def _open_ends(world: World, record: Record) -> Iterator[str]:
    """Nothing waits that nobody will look at."""
    late = world.clock.now() - _LATE
    yield from [f"{len(record.inbox)} events were never applied"] * bool(record.inbox)
    for creation in record.creations:
        if creation["due_at"] is not None:
            yield f"creation {creation['creation_no']} is still {creation['state']}: {creation['reason']}"
    for vm, due in itertools.product(
        record.vms, ("next_refresh_at", "delete_due_at", "contract_due_at", "history_due_at")
    ):
        if vm[due] is not None and vm[due] < late:
            yield f"VM {vm['vm_no']} ({vm['state']}) is stranded: {due} was {vm[due]}"
    for orphan in record.orphans:
        if orphan["due_at"] is not None and orphan["due_at"] < late:
            yield f"orphan {orphan['provider_id']} is stranded in {orphan['state']}"


def _transitions(record: Record) -> Iterator[str]:
    """Transitions are gapless, chain up to the VM's state, and callbacks moved only where they may."""
    of_vm: dict[Any, list[Row]] = defaultdict(list)
    for row in record.transitions:
        of_vm[row["submission_id"], row["vm_no"]].append(row)
    for vm in record.vms:
        state = VmState.REQUESTED
        for number, row in enumerate(of_vm[vm["submission_id"], vm["vm_no"]], 1):
            if row["seq"] != number or row["from_state"] != state:
                yield f"transition {row['seq']} of VM {vm['vm_no']} does not follow from {state}"
            if row["evidence"] == "event" and row["verdict"] == "moved" and row["to_state"] not in EXPECTED[state]:
                yield f"a callback moved VM {vm['vm_no']} from {state} to {row['to_state']}"
            state = VmState(row["to_state"])
        if state != vm["state"]:
            yield f"the transitions of VM {vm['vm_no']} end in {state}, not in {vm['state']}"


def _calls(world: World, record: Record, crashes: int) -> Iterator[str]:
    """Every call that the cloud got is on record, and the rate limit was respected."""
    got, on_record = len(world.cloud.log) - world.foreign_calls, len(record.calls)
    if got > on_record:
        yield f"the cloud got {got} calls, and {on_record} are on record"
    unsent = sum((end["error"] or "").startswith("not sent") for end in record.ends)
    if on_record - got - unsent > 32 * crashes:
        yield f"{on_record} calls are on record, and the cloud got {got}"
    if world.cloud.limit.refused:
        yield f"{world.cloud.limit.refused} calls were over the provider's limit"


_DUES = """
SELECT (SELECT min(due_at) FROM inbox) AS apply,
       (SELECT min(due_at) FROM creations WHERE state = 'due') AS submit,
       (SELECT min(delete_due_at) FROM vms) AS delete,
       (SELECT min(contract_due_at) FROM vms WHERE desired_state = 'present') AS contract,
       (SELECT min(due_at) FROM orphans) AS orphan,
       (SELECT min(history_due_at) FROM vms) AS history,
       least((SELECT min(next_refresh_at) FROM vms), (SELECT min(due_at) FROM creations WHERE state = 'unconfirmed'),
             (SELECT min(due_at) FROM scheduled_jobs WHERE job = 'resync')) AS reconcile,
       least((SELECT min(lease_until) FROM creations), (SELECT min(deadline_at) FROM submissions WHERE state = 'open'))
           AS rescue
"""


async def dues(engine: AsyncEngine) -> dict[str, datetime | None]:
    """When each job has something to do next, by its name; None if it has nothing."""
    async with engine.connect() as conn:
        # Called before every run: one round trip on the driver's own connection.
        connection = (await conn.get_raw_connection()).driver_connection
        row = await connection.fetchrow(_DUES) if isinstance(connection, asyncpg.Connection) else None
    return dict(row or {})
