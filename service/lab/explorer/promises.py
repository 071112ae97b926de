"""What policies promise, compared with the record and with the cloud's ground truth. Each discrepancy is a sentence.

What is compared by its times is left out if the clock was set back.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any, Final

from service.core.lifecycle import ENDED, VmState
from service.core.maintain import FAILED
from service.core.submission import Policy
from service.lab.explorer.record import Record, Row
from service.lab.explorer.spans import Recorded, sums
from service.lab.explorer.world import World

#: How late a job may be, and how long it takes until a failed VM is replaced.
_LATE: Final = timedelta(seconds=400)
_TAKEN_OVER: Final = re.compile(r"replaced by VM (\d+), which is on the contract")
_HOUR: Final = timedelta(hours=1)
_GONE: Final = ENDED | {VmState.LOST}
Span = tuple[datetime, datetime]


def check_policies(
    world: World, record: Record, truth: Mapping[int, Mapping[str, Any]], kinds: Collection[str]
) -> list[str]:
    """Every promise of a policy that was not kept."""
    policies = {one["submission_id"]: Policy.model_validate(one["policy"]) for one in record.submissions}
    steady = not world.clock.set_back_by
    return [
        *_hardware(record, truth, garbled="bad answers" in kinds),
        *(_limits(world, record, policies) if steady else ()),
        *(_released(world, record) if steady else ()),
        *(_replacing(record, policies, truth, world) if steady else ()),
        *(_at_once(record, policies) if steady else ()),
        *(_off_contract(record) if steady else ()),
        *(_lifetimes(world, record) if steady else ()),
        *(_repairs(world, record, policies) if steady else ()),
    ]


def _hardware(record: Record, truth: Mapping[int, Mapping[str, Any]], *, garbled: bool) -> Iterator[str]:
    """The record says which alternative a VM was made from. The last answer about one that is gone may have been garbled."""
    for vm in (one for one in record.vms if not garbled or one["state"] not in _GONE):
        real = truth.get(vm["provider_id"])
        if real is not None and (real["flavor"], real["environment"]) != (vm["flavor"], vm["environment"]):
            made = f"{real['flavor']} in {real['environment']}"
            yield f"VM {vm['provider_id']} was made as {made}, not as {vm['flavor']} in {vm['environment']}"


def _replacing(
    record: Record, policies: Mapping[Any, Policy], truth: Mapping[int, Mapping[str, Any]], world: World
) -> Iterator[str]:
    """No VM is replaced that was ACTIVE for longer than the grace, and none before there is another."""
    active = {
        (row["submission_id"], row["vm_no"]): row["at"] for row in reversed(record.transitions) if _became_active(row)
    }
    by_ref = {(vm["submission_id"], vm["vm_no"]): vm for vm in record.vms}
    for vm in record.vms:
        if not (taken_over := _TAKEN_OVER.match(vm["deletion_reason"] or "")):
            continue
        retry, since = policies[vm["submission_id"]].retry, active.get((vm["submission_id"], vm["vm_no"]))
        grace = timedelta(seconds=retry.replace_grace_seconds)
        protected = retry.then == "keep" and _state_then(record, vm, vm["deletion_requested_at"]) not in FAILED
        if protected and since is not None and vm["deletion_requested_at"] > since + grace:
            yield f"VM {vm['vm_no']} was replaced although it had been ACTIVE since {since}"
        new = by_ref[vm["submission_id"], int(taken_over[1])]
        real = truth.get(new["provider_id"])
        asked_at = (vm["deletion_requested_at"] - world.clock.start).total_seconds()
        if real is None or real["created_at"] > asked_at or real["contract_requested"] != vm["contract_id"]:
            yield f"VM {vm['vm_no']} was deleted for VM {new['vm_no']}, which was not there on its contract"


def _state_then(record: Record, vm: Row, at: datetime) -> str | None:
    mine = (one for one in record.transitions if one["verdict"] == "moved" and one["at"] <= at)
    states = [one["to_state"] for one in mine if all(one[key] == vm[key] for key in ("submission_id", "vm_no"))]
    return states[-1] if states else None


def _became_active(row: Row) -> bool:
    return bool(row["verdict"] == "moved" and row["to_state"] == VmState.ACTIVE)


def _at_once(record: Record, policies: Mapping[Any, Policy]) -> Iterator[str]:
    """No more VMs are replaced at once than the policy says."""
    spans: dict[Any, list[Span]] = defaultdict(list)
    for row in record.assignments:
        if (row["step"], row["outcome"]) == ("replace", "sent"):
            spans[row["submission_id"]].append((row["at"], _replaced_at(record, row)))
    for submission_id, mine in spans.items():
        most = max(sum(begun <= at < done for begun, done in mine) for at, _ in mine)
        if most > policies[submission_id].retry.max_replacing:
            yield f"{most} VMs were replaced at once, and the policy allows {policies[submission_id].retry.max_replacing}"


def _replaced_at(record: Record, row: Row) -> datetime:
    """When a replacement was over: the new VM failed or was dropped, or the old one's deletion was requested.

    A VM that is deleted first is not replaced any more when a caller deletes it too.
    """
    of_it = {vm["vm_no"]: vm for vm in record.vms if vm["submission_id"] == row["submission_id"]}
    old, named = of_it[row["vm_no"]], re.search(r"requested VM (\d+) ", row["reason"])
    new = of_it.get(int(named[1]) if named else old["replaced_by"])
    submission = next(one for one in record.submissions if one["submission_id"] == row["submission_id"])
    ends = [submission["cancelled_at"], new and new["ended_at"], new and new["deletion_requested_at"]]
    ends += [old["deletion_requested_at"], old["ended_at"]] if named else [new and new["ready_at"]]
    ends += [
        one["at"]
        for one in record.actions
        if (one["kind"], one["submission_id"], one["vm_no"]) == ("delete", row["submission_id"], row["vm_no"])
    ]
    return min((at for at in ends if at is not None), default=datetime.max.replace(tzinfo=row["at"].tzinfo))


def _off_contract(record: Record) -> Iterator[str]:
    """The time off contract equals that between the steps on record."""
    turns: dict[Any, list[Row]] = defaultdict(list)
    for row in sorted(record.assignments, key=lambda row: (row["at"], row["attempt"])):
        if row["outcome"] in {"assigned", "on_demand"}:
            turns[row["submission_id"], row["vm_no"]].append(row)
    for vm in record.vms:
        mine = turns[vm["submission_id"], vm["vm_no"]]
        seconds = sum(_length(one, following) for one, following in zip_longest(mine, mine[1:]))
        last = mine[-1] if mine else None
        if last is not None and last["outcome"] == "on_demand":
            until = vm["on_demand_since"] or vm["ended_at"]
            seconds += (until - last["at"]).total_seconds() if until else 0.0
        if abs(seconds - vm["on_demand_seconds"]) > 1e-3 * (1 + len(mine)):
            yield f"VM {vm['vm_no']} was off its contract for {seconds} s by its steps, not {vm['on_demand_seconds']} s"


def _length(turn: Row, following: Row | None) -> float:
    if following is None or turn["outcome"] != "on_demand":
        return 0.0
    return float((following["at"] - turn["at"]).total_seconds())


def _lifetimes(world: World, record: Record) -> Iterator[str]:
    """What has expired is deleted, and not before."""
    expires = {one["submission_id"]: one["expires_at"] for one in record.submissions}
    for one in record.submissions:
        over = one["expires_at"] is not None and one["expires_at"] < world.clock.now() - _LATE
        if over and one["cancelled_at"] is None:
            yield f"a submission expired at {one['expires_at']}, and nobody deletes its VMs"
    for vm in record.vms:
        if (vm["deletion_reason"] or "").startswith("its lifetime"):
            due = expires[vm["submission_id"]]
            if due is None or vm["deletion_requested_at"] < due:
                yield f"VM {vm['vm_no']} was deleted before its lifetime was over"


def _repairs(world: World, record: Record, policies: Mapping[Any, Policy]) -> Iterator[str]:
    """With maintain, what failed is replaced, and not more often than allowed."""
    of_submission: dict[Any, list[Row]] = defaultdict(list)
    for vm in record.vms:
        of_submission[vm["submission_id"]].append(vm)
    for submission in record.submissions:
        policy, mine = policies[submission["submission_id"]], of_submission[submission["submission_id"]]
        if policy.maintain.enabled:
            yield from _maintained(world, submission, policy, mine)


def _maintained(world: World, submission: Row, policy: Policy, mine: Sequence[Row]) -> Iterator[str]:
    made = sorted(vm["created_at"] for vm in mine if vm["repair"])
    for at in made:
        within = sum(at <= other < at + _HOUR for other in made)
        if within > policy.maintain.max_per_hour:
            yield f"{within} failed VMs were replaced within an hour of {at}"
    stopped = submission["maintain_stopped_at"] or submission["limit_reached_at"] or submission["cancelled_at"]
    again_at = submission["repair_due_at"]
    in_last_hour = sum(at > world.clock.now() - _HOUR for at in made)
    if stopped or in_last_hour >= policy.maintain.max_per_hour or (again_at and again_at > world.clock.now()):
        return
    late = world.clock.now() - timedelta(seconds=policy.maintain.grace_seconds) - _LATE
    for vm in mine:
        failed = vm["state"] in FAILED and vm["ready_at"] is not None and vm["state_since"] < late
        if failed and vm["member"] and vm["desired_state"] == "present" and vm["replaced_by"] is None:
            yield f"VM {vm['vm_no']} is {vm['state']} since {vm['state_since']}, and is not replaced"


def _limits(world: World, record: Record, policies: Mapping[Any, Policy]) -> Iterator[str]:
    """A limit that nothing reaches is never passed; one that a VM passes for a while is acted on. See `faults.LIMITS`."""
    recorded, until = Recorded(record, world.clock.start), round(world.clock.elapsed * 1e6)
    long = 2 * _LATE.total_seconds()
    ran = {vm["submission_id"] for vm in record.vms if sums(recorded.of(vm), until).known > long}
    for one in record.submissions:
        policy = policies[one["submission_id"]]
        limit = policy.max_price_per_hour
        if limit is None:
            continue
        if limit > 1 and one["limit_reached_at"] is not None:
            yield f"a limit of {limit} an hour was passed, which the fleet never cost"
        if limit < 1 and policy.on_limit == "delete" and one["submission_id"] in ran and one["cancelled_at"] is None:
            yield f"a limit of {limit} an hour was passed, and nothing was deleted"


def _released(world: World, record: Record) -> Iterator[str]:
    """A VM that was released is not changed any more."""
    for vm in record.vms:
        if vm["state"] != VmState.RELEASED:
            continue
        since = (vm["ended_at"] - world.clock.start).total_seconds()
        for logged in world.cloud.log:
            request = logged.call.request
            named = f"/virtual-machines/{vm['provider_id']}" in request.path
            # A record's time is rounded to microseconds.
            if named and request.method != "GET" and logged.call.now > since + 0.001:
                yield f"VM {vm['provider_id']} was released, and then changed by {request.method} {request.path}"
