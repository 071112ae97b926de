"""Compare the record, as the API shows it, with the simulator's ground truth.

Strict: every living VM has exactly one record with the same facts, and no record claims a VM that is gone.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

Json = Mapping[str, Any]

#: States in which a record claims nothing at the provider.
_GONE: Final = frozenset({"DELETED", "REFUSED", "CANCELLED", "LOST", "RELEASED"})
#: The record's name of each fact: the simulator's.
_SAME: Final = {
    "state": "status",
    "fixed_ip": "fixed_ip",
    "floating_ip": "floating_ip",
    "contract_id": "contract_id",
    "flavor": "flavor",
}


def differences(records: Iterable[Json], truth: Iterable[Json]) -> list[str]:
    """Each difference between record and ground truth as a sentence; empty if they match."""
    bound: dict[int, list[Json]] = defaultdict(list)
    claimed: dict[int, list[Json]] = defaultdict(list)
    for record in records:
        if record["provider_id"] is not None:
            bound[record["provider_id"]].append(record)
            if record["state"] not in _GONE:
                claimed[record["provider_id"]].append(record)
    alive = {vm["id"]: vm for vm in truth if vm["ended"] is None}
    return [
        *(text for vm in alive.values() for text in _of_one(vm, bound[vm["id"]])),
        *(
            f"{one['ref']} claims VM {id_} to be {one['state']}, and it is gone"
            for id_ in sorted(claimed.keys() - alive.keys())
            for one in claimed[id_]
        ),
    ]


def shortcomings(records: Iterable[Json], *, count: int, on_contract: int) -> list[str]:
    """What the fleet lacks: `count` members must be ready, `on_contract` of them on their contract."""
    members = [one for one in records if one["member"]]
    found = {
        "members": (len(members), count),
        "ready": (sum(one["ready"] for one in members), count),
        "on contract": (sum(one["contract_id"] is not None for one in members), on_contract),
        "on demand": (sum(one["contract_id"] is None for one in members), count - on_contract),
    }
    return [f"{what}: {is_}, should be {should}" for what, (is_, should) in found.items() if is_ != should]


def _of_one(vm: Json, records: list[Json]) -> Iterator[str]:
    if len(records) != 1:
        yield f"VM {vm['id']} is {vm['status']}, and {len(records)} records are bound to it"
        return
    (record,) = records
    if record["state"] == "RELEASED":
        return
    for ours, theirs in _SAME.items():
        if record[ours] != vm[theirs]:
            yield f"{record['ref']}: {ours} is {record[ours]}, and {vm[theirs]} at the provider"
