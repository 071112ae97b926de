"""The kinds of faults and of policies that a seed may draw besides those of scenario.py, each with its probability.

Each kind draws from a generator of its own, so that a seed without a kind plays as if the kind did not exist.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.lab.explorer.wire_faults import ANY_FIELD, NO_ID, NO_ID_FIELDS

#: Simulated seconds after which the cloud behaves. What it did until then has to be repaired.
CALM = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """Something done from outside at a time, to any VM or, with an `amount`, to that many or for that long.

    By a user: cancel, delete, delete all, import, release. In the console: stop, error, vanish, gone, vanish crowd, fail stuck VMs. By
    somebody who learned a callback URL: forge, forged flood. To the database: read-only, writable, clock back, retention, read prices.
    With `in_call` it is done while a call hangs, or when the cloud is calm if none does.
    """

    at: float
    what: str
    silent: bool = False
    amount: float = 0.0
    in_call: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What a kind adds to a scenario. `cloud` is merged into the simulator's configuration, `request` into each request.

    With `die_together` daemons freeze and crash often, and all of them die when one does.
    """

    cloud: Mapping[str, Any] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)
    interferences: tuple[Interference, ...] = ()
    bad_callbacks: float = 0.0
    foreign_name: str | None = None
    die_together: bool = False


def _until_calm(probability: float) -> dict[str, float]:
    return {"probability": round(probability, 3), "until": CALM}


def _bad_answers(rng: random.Random) -> Drawn:
    """Any JSON value in any field of any answer; or, in fields that hold no id, values that look like ids."""
    anywhere = rng.random() < 0.6
    faults = {
        "bad_fields": _until_calm(rng.uniform(0.05, 0.5)),
        "bad_field_count": rng.choice((1, 1, 3)),
        "bad_field_names": [] if anywhere else list(NO_ID_FIELDS),
        "bad_field_values": list(ANY_FIELD if anywhere else ANY_FIELD + NO_ID),
    }
    return Drawn(cloud={"faults": dict.fromkeys(("create", "read", "change"), faults)})


def _bad_callbacks(rng: random.Random) -> Drawn:
    return Drawn(bad_callbacks=round(rng.uniform(0.1, 0.9), 3))


def _bad_neighbour(rng: random.Random) -> Drawn:
    """A VM of somebody else in the same account has a name that is hard to read, for as long as the seed lasts."""
    return Drawn(foreign_name=rng.choice([value for value in ANY_FIELD if value]))


def _hanging(rng: random.Random) -> Drawn:
    kinds = rng.sample(("create", "list", "get", "delete", "change"), rng.randint(1, 3))
    hang = {"hang": _until_calm(rng.uniform(0.1, 0.6)), "hang_seconds": [10, 180]}
    return Drawn(cloud={"faults": dict.fromkeys(kinds, hang)})


def _slow(rng: random.Random) -> Drawn:
    slow = {"slow": _until_calm(rng.uniform(0.2, 0.9))}
    return Drawn(cloud={"faults": {"create": slow, "read": slow, "change": slow, "slow": [2, rng.choice((10, 29))]}})


def _gateway(rng: random.Random) -> Drawn:
    """A gateway answers in HTML: 302, 404 or 502, before or after the call was done."""
    kinds = rng.sample(("create", "list", "get", "delete"), rng.randint(1, 4))
    faults = {"gateway": _until_calm(rng.uniform(0.05, 0.3)), "gateway_after": _until_calm(rng.uniform(0, 0.1))}
    return Drawn(cloud={"faults": dict.fromkeys(kinds, faults)})


def _delete_conflict(rng: random.Random) -> Drawn:
    """A delete is answered with 409 because of an earlier one, which then fails. Somebody deletes something."""
    at = rng.uniform(60, 600)
    what = rng.choice(("cancel", "delete", "delete all"))
    return Drawn(
        cloud={"faults": {"delete_conflict": _until_calm(rng.uniform(0.3, 1.0))}, "repeated_delete": "conflict"},
        interferences=(Interference(at=at, what=what),),
    )


def _taken_names(rng: random.Random) -> Drawn:
    """Creates go through unnoticed, and lists hide their VMs for longer than the lookup window."""
    lag = rng.uniform(130, 400)
    return Drawn(
        cloud={
            "unique_names": True,
            "taken_name": rng.choice(("bad_request", "conflict")),
            "faults": {
                "create": {"lost": _until_calm(rng.uniform(0.3, 0.9))},
                "list_lag": [lag, lag],
                "get_lags": False,
            },
        }
    )


def _outage(rng: random.Random) -> Drawn:
    """Some operations, or everything, fail for a span."""
    since = rng.uniform(5, 500)
    span = {"probability": 1, "since": since, "until": since + rng.uniform(30, 395)}
    if rng.random() < 0.25:
        return Drawn(cloud={"faults": {"outage": span}})
    kinds = rng.sample(("create", "list", "get", "delete", "read", "change"), rng.randint(1, 3))
    how = rng.choice(("error_before", "error_before", "cut", "limited", "hang_before"))
    return Drawn(cloud={"faults": {kind: {how: span} for kind in kinds}})


def _vanishing_crowd(rng: random.Random) -> Drawn:
    crowds = rng.randint(1, 2)
    return Drawn(
        interferences=tuple(
            Interference(at=rng.uniform(60, CALM), what="vanish crowd", amount=rng.randint(2, 60))
            for _ in range(crowds)
        )
    )


def _unknown_status(rng: random.Random) -> Drawn:
    longest = rng.choice((900, 4500))
    vms = {
        "unknown_status": _until_calm(rng.uniform(0.2, 1.0)),
        "unknown_after": [0, 300],
        "unknown_seconds": [longest / 2, longest],
    }
    return Drawn(cloud={"faults": {"vms": vms}})


def _read_only(rng: random.Random) -> Drawn:
    """New connections to the database are read-only for a while, as after a failover to a standby."""
    at = rng.uniform(5, 600)
    healed_at = at + rng.uniform(20, 300)
    return Drawn(interferences=(Interference(at=at, what="read-only"), Interference(at=healed_at, what="writable")))


def _clock_back(rng: random.Random) -> Drawn:
    step = rng.choice((rng.uniform(1, 60), rng.uniform(60, 7200)))
    return Drawn(interferences=(Interference(at=rng.uniform(30, CALM), what="clock back", amount=step),))


def _forged_flood(rng: random.Random) -> Drawn:
    return Drawn(
        interferences=(Interference(at=rng.uniform(20, 600), what="forged flood", amount=rng.randint(50, 150)),)
    )


def _replacing(rng: random.Random) -> Drawn:
    """A contract that grows step by step, and policies of replacing VMs to get onto it."""
    retry = {
        "means": rng.choice(("auto", "replace")),
        "replace_order": rng.choice(("create_first", "delete_first")),
        "max_replacing": rng.choice((1, 2, 5)),
        "replace_grace_seconds": rng.choice((100, 400, 3600)),
    }
    steps, room = sorted(rng.uniform(60, CALM) for _ in range(4)), rng.randint(0, 3)
    grows = [{"at": at, "contract_id": 41, "resource_count": room + 4 * no} for no, at in enumerate(steps, 1)]
    line = {"resource_name": "A100-80G-PCIe", "resource_count": room}
    return Drawn(
        cloud={"contracts": [{"id": 41, "discounts": [line]}], "contract_changes": grows},
        request={"contract_id": 41, "policy": {"on_contract_error": "retry", "retry": retry}},
    )


def _alternatives(rng: random.Random) -> Drawn:
    """There are few of the first flavor, for a while; of the alternatives one is refused for its region."""
    abroad = {"flavor_name": "n3-A100x1", "environment_name": "abroad"}
    others = [abroad, {"flavor_name": "n3-H100x1", "environment_name": "test1", "on_demand": True}]
    others += [{"flavor_name": "n3-A100x4", "environment_name": "test1"}]
    stock = [{"at": 0, "flavor": "n3-A100x1", "stock": rng.randint(0, 10)}]
    stock += [{"at": 0, "flavor": "n3-H100x1", "stock": rng.choice((None, 5))}]
    back = [{"at": rng.uniform(100, 800), "flavor": "n3-A100x1", "stock": None}]
    return Drawn(
        cloud={
            "environments": [{"name": "test1"}, {"name": "abroad", "region": "NORWAY-1"}],
            "stock_changes": stock + back,
        },
        request={"policy": {"alternatives": rng.sample(others, rng.randint(1, 3))}},
    )


def _upkeep(rng: random.Random) -> Drawn:
    """VMs that fail after they were ready are replaced, and in the end a lifetime deletes them all."""
    maintain = {
        "enabled": True,
        "grace_seconds": rng.choice((0, 60)),
        "max_per_hour": rng.choice((2, 20)),
        "stable_seconds": 200,
        "stop_after": rng.choice((2, 5)),
    }
    ends = {"lifetime": 1800, "deadline_seconds": 1800} if rng.random() < 0.5 else {}
    crowds = [rng.uniform(100, CALM) for _ in range(rng.randint(1, 3))]
    return Drawn(
        request={"policy": {"maintain": maintain, **ends}},
        interferences=tuple(Interference(at=at, what="vanish crowd", amount=rng.randint(1, 3)) for at in crowds),
    )


def _imports(rng: random.Random) -> Drawn:
    """VMs that others made are imported, and perhaps released."""
    at = rng.uniform(100, 600)
    found = [Interference(at=at, what="import", amount=float(rng.random() < 0.5))]
    found += [Interference(at=rng.uniform(at, CALM), what="release")] if rng.random() < 0.5 else []
    return Drawn(interferences=tuple(found))


#: Limits of money per hour: one that any VM passes, and one that no fleet does.
LIMITS = ("0.01", "100000")


def _limits(rng: random.Random) -> Drawn:
    limits = {"max_price_per_hour": rng.choice(LIMITS), "on_limit": rng.choice(("report", "stop_replacing", "delete"))}
    return Drawn(request={"policy": limits})


def _cancels_in_calls(rng: random.Random) -> Drawn:
    """A user cancels or deletes while a call hangs that will be done all the same, or will not."""
    hang = {"hang": _until_calm(rng.uniform(0.5, 1.0)), "hang_seconds": [61, 180]}
    kinds = rng.choice((("create",), ("create",), ("create", "delete"), ("get", "list"), ("change",)))
    whats = rng.choices(("cancel", "cancel", "delete", "delete all"), k=rng.randint(1, 2))
    return Drawn(
        cloud={"faults": dict.fromkeys(kinds, hang)},
        interferences=tuple(Interference(at=rng.uniform(0, 300), what=what, in_call=True) for what in whats),
    )


#: Simulated seconds until a month ends in which the events are exported and dropped.
MONTH_ENDS = 600.0
#: The retention's lease, and a little more.
_LEASED = 1900.0


def _retention(rng: random.Random) -> Drawn:
    """The month ends, and all its events are exported and dropped; whoever does so may die."""
    at = [MONTH_ENDS + rng.uniform(0, 30), MONTH_ENDS + rng.uniform(30, 400)]
    # Again when the lease of one that died is over.
    at += [at[1] + _LEASED, at[1] + 2 * _LEASED]
    return Drawn(interferences=tuple(Interference(at=one, what="retention") for one in at))


def _dying_together(_rng: random.Random) -> Drawn:
    return Drawn(die_together=True)


def _prices(rng: random.Random) -> Drawn:
    """List prices change, and are read now and then: a seed is shorter than the hour between two readings."""
    times = sorted(rng.uniform(30, 1500) for _ in range(rng.randint(1, 4)))
    models = [rng.choice(("A100-80G-PCIe", "A100-80G-PCIe", "H100-80G-PCIe")) for _ in times]
    changes = [
        {"at": at, "resource": model, "price": rng.choice((0.9, 1.35, 1.4, 2.25))}
        for at, model in zip(times, models, strict=True)
    ]
    readings = [rng.uniform(60, 1600) for _ in range(rng.randint(1, 5))]
    return Drawn(
        cloud={"price_changes": changes},
        interferences=tuple(Interference(at=at, what="read prices") for at in readings),
    )


#: Each kind, how likely a seed has it, and how it is drawn.
KINDS: Mapping[str, tuple[float, Callable[[random.Random], Drawn]]] = {
    "bad answers": (0.15, _bad_answers),
    "bad callbacks": (0.15, _bad_callbacks),
    "bad neighbour": (0.1, _bad_neighbour),
    "hanging": (0.1, _hanging),
    "slow": (0.1, _slow),
    "gateway": (0.1, _gateway),
    "delete conflict": (0.15, _delete_conflict),
    "taken names": (0.1, _taken_names),
    "outage": (0.15, _outage),
    "vanishing crowd": (0.1, _vanishing_crowd),
    "unknown status": (0.1, _unknown_status),
    "read-only": (0.1, _read_only),
    "clock back": (0.1, _clock_back),
    "forged flood": (0.1, _forged_flood),
    "replacing": (0.15, _replacing),
    "alternatives": (0.1, _alternatives),
    "upkeep": (0.1, _upkeep),
    "limits": (0.1, _limits),
    "imports": (0.1, _imports),
    "cancels in calls": (0.15, _cancels_in_calls),
    "retention": (0.1, _retention),
    "dying together": (0.15, _dying_together),
    "prices": (0.2, _prices),
}
PROBABILITIES: Mapping[str, float] = {name: probability for name, (probability, _) in KINDS.items()}


def draw(seed: int, probabilities: Mapping[str, float]) -> dict[str, Drawn]:
    """What a seed draws of each kind that it has, by name. A kind without a probability is never drawn."""
    drawn = {}
    for name, (_, draw_kind) in KINDS.items():
        rng = random.Random(f"{name} {seed}")  # noqa: S311  a seed is the point
        if rng.random() < probabilities.get(name, 0.0):
            drawn[name] = draw_kind(rng)
    return drawn


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`other` over `one`, objects within objects too."""
    both = {
        key: merged(one[key], value) if isinstance(value, Mapping) and isinstance(one.get(key), Mapping) else value
        for key, value in other.items()
    }
    return {**one, **both}
