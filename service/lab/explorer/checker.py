"""Compares what the cloud really did with what the record says. Each discrepancy is a sentence; none is hidden.

The checker trusts neither side's code: it reads the cloud's ground truth and the record's tables.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterator, Mapping
from datetime import timedelta
from typing import Any

import orjson

from service.core.lifecycle import EXPECTED, VmState, state_of
from service.lab.explorer.interfering import Requested
from service.lab.explorer.money import check_money
from service.lab.explorer.promises import check_policies
from service.lab.explorer.record import Record, Row
from service.lab.explorer.world import World
from service.simulator.routes import LoggedCall
from service.storage.vms import Ref

#: How long something may be past its due time before it counts as stranded.
_LATE = timedelta(seconds=120)
#: No work is put off for longer than this with the settings of the explorer.
_FAR = timedelta(seconds=1500)
#: A LOST VM is refreshed ever more rarely, and at least this often.
_LOST_FAR = timedelta(days=1)
#: A VM that lists show this long before a lookup window is over, in seconds, could be found.
_LOOKUP_MARGIN = 20.0
#: The first characters of a VM's name tell which creation it belongs to, whatever the numbering after it.
_BASE_NAME = 40
#: The same unexpected status may be recorded so often in a row, from answers of the provider.
_REPEATS = 3
_DUE = ("next_refresh_at", "delete_due_at", "contract_due_at", "history_due_at")


def check(world: World, record: Record, requested: Requested, *, crashes: int, kinds: Collection[str]) -> list[str]:
    """Everything that is wrong with a record, given what the cloud really did and what users requested."""
    truth = {vm["id"]: vm for vm in world.cloud.truth()}
    foreign = world.foreign
    ours = {id_: vm for id_, vm in truth.items() if id_ not in foreign}
    return [
        *_foreign(world, record, requested, truth),
        *_events(world, record),
        *_existence(record, ours, foreign),
        *_doubles(world, record, ours, garbled="bad answers" in kinds),
        *_refusals(world, record, ours),
        *_agreement(record, truth),
        *_submissions(record, requested),
        *_deletions(record, requested, truth),
        *_completeness(record),
        *_without_due_time(record),
        *_stranded(world, record),
        *_transitions(record),
        *_repeated(record),
        *_calls(world, record, crashes),
        *check_policies(world, record, truth, kinds),
        *check_money(world, record, truth, kinds),
    ]


def _foreign(
    world: World, record: Record, requested: Requested, truth: Mapping[int, Mapping[str, Any]]
) -> Iterator[str]:
    """VMs of others are neither bound nor touched, unless they were imported. Those are deleted by their names only."""
    origins = {one["submission_id"]: one["origin"] for one in record.submissions}
    records = {vm["provider_id"]: vm for vm in record.vms}
    for id_ in sorted(world.foreign):
        vm = records.get(id_)
        if vm is not None and (vm["submission_id"], vm["vm_no"]) in requested.deleted:
            continue
        if vm is not None and origins[vm["submission_id"]] != "imported":
            yield f"VM {id_}, created by others, is in the record as ours"
        touched = [one for one in world.cloud.log if one.call.request.path.endswith(f"/{id_}")]
        if any(one.call.request.method != "GET" for one in touched):
            yield f"VM {id_}, created by others, was touched ({truth[id_]['ended']})"


def _events(world: World, record: Record) -> Iterator[str]:
    """Every event that was stored is in the record or in a finished archive, once."""
    if lost := world.stored - record.received_by.keys():
        yield f"{len(lost)} events are neither in the record nor in an archive"
    for name in record.archived_twice:
        yield f"{name} has an event twice"


def _alive(vm: Mapping[str, Any]) -> bool:
    return vm["ended"] is None


def _existence(record: Record, truth: Mapping[int, Mapping[str, Any]], foreign: Container[int]) -> Iterator[str]:
    """Every VM that the cloud made is in exactly one place of the record."""
    bound = Counter(vm["provider_id"] for vm in record.vms if vm["provider_id"] is not None)
    living = {vm["provider_id"] for vm in record.vms if vm["ended_at"] is None}
    noted = {orphan["provider_id"]: orphan for orphan in record.orphans}
    for id_, times in bound.items():
        if times > 1:
            yield f"VM {id_} is bound to {times} records"
        if id_ not in truth and id_ not in foreign:
            yield f"the record has VM {id_}, which the cloud never made"
    for id_, vm in truth.items():
        if _alive(vm) and id_ not in living and noted.get(id_, {}).get("state") != "found":
            yield f"forgotten: VM {id_} ({vm['name']}, {vm['status']}) is alive and in no record"


def _doubles(world: World, record: Record, truth: Mapping[int, Mapping[str, Any]], *, garbled: bool) -> Iterator[str]:
    """A VM without a record was created or listed late, after the lookup window; any other was requested twice.

    But with `garbled` answers, a list may have shown it under another id; then it is noted as an orphan, and dealt with.
    And early callbacks of a VM, from before it was bound, became no dead letters.
    """
    called_at = {logged.call.number: logged.call.now for logged in world.cloud.log}
    looked_for = world.settings.lookup_window_seconds - _LOOKUP_MARGIN
    late = {vm["name"][:_BASE_NAME] for vm in truth.values() if vm["created_at"] > called_at[vm["create_call"]] + 1}
    unanswered = {
        logged.call.number for logged in world.cloud.log if not _answered(logged, world.settings.create_timeout)
    }
    bound = {vm["provider_id"]: vm for vm in record.vms}
    noted = {orphan["provider_id"] for orphan in record.orphans} if garbled else set()
    for id_, vm in truth.items():
        # One that vanished before it could be bound is gone, and rightly another was requested in its place.
        if id_ in bound or vm["ended"] == "vanished":
            continue
        if vm["create_call"] not in unanswered:
            yield f"doubled: VM {id_} ({vm['name']}) was created by an answered call, and no record wanted it"
        elif (
            id_ not in noted
            and vm["name"][:_BASE_NAME] not in late
            and vm["listed_from"] < called_at[vm["create_call"]] + looked_for
        ):
            yield f"doubled: VM {id_} ({vm['name']}) could be found, and another was requested instead"
    completed_at = {(one["submission_id"], one["creation_no"]): one["completed_at"] for one in record.creations}
    for event in record.dead_letters if not world.clock.set_back_by else ():
        mine, received_by = bound.get(event["provider_id"]), record.received_by.get(event["event_id"])
        # One that came on the URL of another creation was no callback of this VM.
        own = mine and received_by == (mine["submission_id"], mine["creation_no"])
        completed = completed_at[received_by] if own and received_by else None
        if event["kind"] == "unknown_vm" and completed is not None and event["at"] < completed:
            yield f"an early callback of VM {event['provider_id']} became a dead letter"


def _refusals(world: World, record: Record, truth: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """A creation whose name was taken by its own VMs is not refused."""
    calls = {vm["create_call"] for vm in truth.values()}
    made = {_create_name(one) for one in world.cloud.log if one.call.number in calls}
    taken = {_create_name(one) for one in world.cloud.log if _name_taken(one)}
    for creation in record.creations:
        if creation["state"] == "refused" and creation["name"] in made & taken:
            yield f"forgotten: {creation['name']} was made, and is refused in the record since its name was taken"


def _name_taken(logged: LoggedCall) -> bool:
    reply = logged.reply
    return logged.call.request.method == "POST" and reply.status in {400, 409} and b"name" in reply.body.lower()


def _create_name(logged: LoggedCall) -> str:
    return str(orjson.loads(logged.call.request.body).get("name"))


def _answered(logged: LoggedCall, within: float) -> bool:
    """Whether the caller got a successful answer that it could read, in time."""
    reply = logged.reply
    in_time = reply.fate == "normal" and reply.delay <= within and reply.status == 200
    return in_time and _is_success(reply.body) and "bad_fields" not in logged.call.faults


def _is_success(body: bytes) -> bool:
    try:
        return orjson.loads(body).get("status") is True
    except (ValueError, AttributeError):
        return False


def _agreement(record: Record, truth: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """The record shows each VM as the cloud has it."""
    for vm in record.vms:
        real = truth.get(vm["provider_id"])
        if real is None or vm["state"] == VmState.RELEASED:
            continue
        name = f"VM {vm['provider_id']} ({vm['vm_no']})"
        gone = vm["state"] in {VmState.DELETED, VmState.LOST}
        if gone == _alive(real):
            yield f"{name} is {vm['state']} in the record and {real['status']} at the cloud ({real['ended']})"
        elif not gone and real["status"] == real["reported_status"] and state_of(real["status"]) != vm["state"]:
            yield f"{name} is {vm['state']} in the record and {real['status']} at the cloud"
        if not gone and real["contract_id"] != vm["observed_contract_id"]:
            yield f"{name} is on contract {real['contract_id']}, not {vm['observed_contract_id']}"
        if not gone and vm["ready"] and vm["wants_address"] and vm["floating_ip"] != real["floating_ip"]:
            yield f"{name} has address {real['floating_ip']}, not {vm['floating_ip']}"
        if vm["desired_state"] == "deleted" and _alive(real):
            yield f"{name} is to be deleted and is still {real['status']}"


def _submissions(record: Record, requested: Requested) -> Iterator[str]:
    asked, found = len(requested.submissions), sum(one["origin"] == "created" for one in record.submissions)
    if found != asked:
        yield f"doubled: {asked} submissions were requested, and {found} are in the record"


def _deletions(record: Record, requested: Requested, truth: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """What users cancelled or deleted is gone."""
    for vm in record.vms:
        wanted = vm["submission_id"] in requested.cancelled or (vm["submission_id"], vm["vm_no"]) in requested.deleted
        real = truth.get(vm["provider_id"])
        if wanted and real is not None and _alive(real):
            yield f"VM {vm['provider_id']} ({vm['vm_no']}) was deleted by a user and is still {real['status']}"


def _completeness(record: Record) -> Iterator[str]:
    """Each requested VM is there, or its absence has a reason; and none is there twice."""
    members: dict[Any, list[Row]] = defaultdict(list)
    for vm in record.vms:
        if vm["member"]:
            members[vm["submission_id"]].append(vm)
    replaced = {(vm["submission_id"], vm["vm_no"]): vm["replaces"] for vm in record.vms}
    for submission in record.submissions:
        mine = members[submission["submission_id"]]
        taken = {_first(vm, replaced) for vm in mine}
        of_users = {
            _first(vm, replaced)
            for vm in record.vms
            if (vm["deletion_reason"] or "").startswith("requested by")
            and (vm["submission_id"], vm["member"]) == (submission["submission_id"], False)
        }
        if len(mine) + len(of_users - taken) != submission["count"]:
            yield f"{len(mine)} VMs count towards a submission of {submission['count']}"
        if submission["state"] == "open":
            yield f"a submission of {submission['count']} is still open"
        for vm in mine:
            accounted = (
                vm["ready"] or vm["ended_at"] or vm["reason"] or vm["desired_state"] == "deleted" or vm["ready_at"]
                or submission["origin"] == "imported"  # those are watched, whatever they are in
            )  # fmt: skip
            if not accounted:
                yield f"VM {vm['vm_no']} is {vm['state']}, not ready, and nothing says why"


def _first(vm: Row, replaced: Mapping[Ref, int | None]) -> Ref:
    """The VM that was requested, of those that were made in its place one after another."""
    ref = vm["submission_id"], vm["vm_no"]
    while (number := replaced[ref]) is not None:
        ref = ref[0], number
    return ref


def _without_due_time(record: Record) -> Iterator[str]:
    """Nothing that is not done yet is without a time at which it is looked at again."""
    incomplete = {(one["submission_id"], one["creation_no"]) for one in record.creations if not one["completed_at"]}
    for one in record.creations:
        if not one["completed_at"] and not one["due_at"]:
            yield f"creation {one['creation_no']} is {one['state']} without a due time"
    for vm in record.vms:
        awaited = (vm["submission_id"], vm["creation_no"]) in incomplete
        for what in _vm_without_due_time(vm, awaited=awaited) if vm["ended_at"] is None else ():
            yield f"VM {vm['vm_no']} ({vm['state']}) {what}"
    for orphan in record.orphans:
        if orphan["state"] in {"suspected", "deleting"} and orphan["due_at"] is None:
            yield f"orphan {orphan['provider_id']} is {orphan['state']} without a due time"


def _vm_without_due_time(vm: Row, *, awaited: bool) -> Iterator[str]:
    if vm["provider_id"] is not None and vm["next_refresh_at"] is None:
        yield "is never refreshed again"
    if vm["provider_id"] is None and not awaited:
        yield "waits for a creation that is completed"
    if vm["desired_state"] == "deleted" and vm["delete_due_at"] is None:
        yield "is to be deleted, without a due time"
    if vm["assignment"] == "retrying" and vm["contract_due_at"] is None:
        yield "waits for its contract without a due time"


def _stranded(world: World, record: Record) -> Iterator[str]:
    """Nothing waits longer than it should: neither for something overdue nor for a time that is far away."""
    late, far = world.clock.now() - _LATE, world.clock.now() + _FAR
    if record.inbox:
        yield f"{len(record.inbox)} events were never applied"
    for creation in record.creations:
        if creation["due_at"] is not None:
            yield f"creation {creation['creation_no']} is still {creation['state']}: {creation['reason']}"
    for vm, due in itertools.product(record.vms, _DUE):
        latest = far + _LOST_FAR if vm["state"] == VmState.LOST else far
        if vm[due] is not None and not late <= vm[due] <= latest and vm["ended_at"] is None:
            yield f"VM {vm['vm_no']} ({vm['state']}) is stranded: {due} is {vm[due]}"
    for orphan in record.orphans:
        if orphan["due_at"] is not None and not late <= orphan["due_at"] <= far:
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


def _repeated(record: Record) -> Iterator[str]:
    """An unexpected status is recorded once until it changes, not at each refresh."""
    of_vm = itertools.groupby(record.transitions, key=lambda row: (row["submission_id"], row["vm_no"]))
    for (_, vm_no), rows in of_vm:
        for (evidence, verdict, claimed, _), same in itertools.groupby(rows, key=_what):
            times = len(list(same))
            if evidence == "observation" and verdict == "unexpected" and times > _REPEATS:
                yield f"VM {vm_no}: the unexpected status {claimed} was recorded {times} times in a row"


def _what(row: Row) -> tuple[object, ...]:
    return row["evidence"], row["verdict"], row["claimed"], row["to_state"]


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
