"""What a seed means: the requested fleet, how the cloud behaves, and what users, attackers and faults do meanwhile."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from service.config import Settings
from service.lab.explorer.faults import CALM, PROBABILITIES, Drawn, Interference, draw, merged
from service.lab.explorer.world import IMAGE, SECRET
from service.simulator.config import CloudConfig
from service.simulator.loading import parse_config

#: Calls a minute: the cloud's own limit.
LIMIT = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A seed in full. `kinds` are the kinds of faults that it drew (see faults.py)."""

    seed: int
    cloud: CloudConfig
    requests: tuple[Mapping[str, Any], ...]
    interferences: tuple[Interference, ...]
    crash_every: int  # runs between crashes, on average; 0: none
    freeze: float  # the probability that a daemon freezes in a create call until its lease has long expired
    reassign: bool
    foreign: int  # VMs of the same account that others created
    commits_lost: float  # the probability that the connection to Postgres is lost at a commit, before or after it
    #: Simulated seconds after which the seed is over, whatever is left to do.
    horizon: float = 6000.0
    kinds: tuple[str, ...] = ()
    #: Whether all daemons die when one does. Then they freeze and crash often.
    die_together: bool = False
    drawn: Mapping[str, Drawn] = field(default_factory=dict)


def scenario(seed: int, probabilities: Mapping[str, float] = PROBABILITIES) -> Scenario:
    """The scenario of a seed, always the same as long as this file and faults.py do not change.

    `probabilities` says how likely each kind of fault is; kinds that it does not name do not occur.
    """
    rng = random.Random(f"scenario {seed}")  # noqa: S311  a seed is the point
    drawn = draw(seed, probabilities)
    cloud = merged(_cloud(seed, rng), _variants(seed))
    for one in drawn.values():
        cloud = merged(cloud, one.cloud)
    return Scenario(
        seed=seed,
        cloud=parse_config(cloud),
        requests=tuple(_drawn(_request(rng, no), drawn) for no in range(rng.choice((1, 1, 2)))),
        interferences=(
            *(_interference(rng) for _ in range(rng.choice((0, 1, 2, 3, 4)))),
            *(interference for one in drawn.values() for interference in one.interferences),
        ),
        crash_every=rng.choice((0, 8, 15, 30)),
        reassign=rng.random() < 0.3,
        freeze=rng.choice((0.0, 0.0, 0.3)),
        foreign=max(rng.choice((0, 1, 2)), 1 if {"bad neighbour", "imports"} & set(drawn) else 0),
        commits_lost=rng.choice((0.0, 0.0, 0.02, 0.05)),
        kinds=tuple(drawn),
        drawn=drawn,
        die_together=any(one.die_together for one in drawn.values()),
    )


def _cloud(seed: int, rng: random.Random) -> dict[str, Any]:
    return {
        "seed": seed,
        "unique_names": rng.random() < 0.5,
        "name_pattern": rng.choice(("{name}-{i}", "{name}{i}", "{name}", "{i}-{name}")),
        "count_means": rng.choice(("total", "page")),
        "contract_key": rng.choice(("contracts", "contract")),
        "contract_errors": rng.choice(("string", "list")),
        "partial_assignment": rng.random() < 0.5,
        "empty_address": rng.choice(("null", "text")),
        "zoned_times": rng.random() < 0.5,
        "deleted_visible": rng.choice((0.0, 30.0)),
        "max_page_size": rng.choice((100, 100, 10)),
        "rate_limit": LIMIT,
        "contracts": [
            {"id": 41, "discounts": [{"resource_name": "A100-80G-PCIe", "resource_count": rng.randint(0, 40)}]}
        ],
        "contract_changes": [{"at": rng.uniform(60, 600), "contract_id": 41, "resource_count": 60}],
        "stock_changes": _stock(rng),
        "faults": _faults(rng),
    }


def _variants(seed: int) -> dict[str, Any]:
    """Choices where the provider's documents contradict each other (infrahub-api.md section 10)."""
    rng = random.Random(f"variants {seed}")  # noqa: S311  a seed is the point
    return {
        "count_means": rng.choice(("total", "page", "mixed")),
        "price_format": rng.choice(("mixed", "decimal", "scientific", "number")),
        "flavor_features": rng.choice(("all", "some")),
        "instance_features": rng.choice(("full", "empty")),
        "restored_address": rng.choice(("new", "none")),
        "repeated_delete": rng.choice(("conflict", "accepted")),
        "taken_name": rng.choice(("bad_request", "conflict")),
        "default_rules": rng.random() < 0.5,
        "callback_variety": rng.choice((0.0, 0.2, 0.6)),
    }


def _stock(rng: random.Random) -> list[dict[str, Any]]:
    if rng.random() < 0.7:
        return []
    return [{"at": 0, "flavor": "n3-A100x1", "stock": rng.randint(0, 30)},
            {"at": rng.uniform(100, 800), "flavor": "n3-A100x1", "stock": None}]  # fmt: skip


def _faults(rng: random.Random) -> dict[str, Any]:
    def maybe(most: float, how_often: float = 0.5) -> dict[str, Any]:
        return {"probability": round(rng.uniform(0, most), 3) if rng.random() < how_often else 0.0, "until": CALM}

    def call_faults(most: float) -> dict[str, Any]:
        names = (
            "limited",
            "cut",
            "error_before",
            "hang_before",
            "lost",
            "error_after",
            "hang_after",
            "unreadable",
            "slow",
        )
        return {name: maybe(most, 0.4) for name in names}

    return {
        "create": call_faults(0.3),
        "read": call_faults(0.1),
        "change": call_faults(0.2),
        "callbacks": {
            name: maybe(0.4) for name in ("lost", "repeated", "delayed", "reordered", "nulled", "garbage", "unmatched")
        },
        "vms": {name: maybe(0.08, 0.3) for name in ("boot_error", "error", "vanish", "delete_failed", "stuck")}
        | {"error_silent": rng.random() < 0.5},
        "partial": maybe(0.5, 0.3),
        "late": maybe(0.3, 0.3),
        "late_after": [5, rng.choice((20, 60, 200))],
        "late_answer": rng.choice(("error", "hang", "cut")),
        "early": maybe(0.5, 0.4),
        "list_lag": [0, rng.choice((0, 0, 5, 20))],
        "get_lags": rng.random() < 0.5,
        "shifted_page": maybe(0.2, 0.3),
        "labels_emptied": maybe(1.0, 0.5),
        "url_omitted": maybe(1.0, 0.5),
        "no_reason": maybe(0.5, 0.3),
        "retry_after": {"probability": 0.5},
        "no_balance": maybe(0.05, 0.1),
        "unauthorized": maybe(0.05, 0.2),
    }


def _request(rng: random.Random, no: int) -> dict[str, Any]:
    return {
        "name": rng.choice(("train", "a-rather-long-name-for-a-fleet-of-machines-of-ours")),
        "environment_name": "test1",
        "image_name": IMAGE,
        "flavor_name": "n3-A100x1",
        "key_name": "example-key",
        "count": rng.choice((1, 2, 3, 5, 21, 41)) if no == 0 else rng.choice((1, 4)),
        "assign_floating_ip": rng.random() < 0.5,
        **({"contract_id": rng.choice((41, 41, 41, 99))} if rng.random() < 0.5 else {}),
        "policy": {
            "on_contract_error": rng.choice(("retry", "retry", "keep", "fail")),
            "on_orphan": rng.choice(("report", "delete", "delete", "adopt")),
            "on_stuck": rng.choice(("report", "replace")),
            "stuck_after_seconds": 600,
            "deadline_seconds": 3000,
            "retry": {
                "first_wait_seconds": 10,
                "max_wait_seconds": 60,
                "attempts": rng.choice((3, 20)),
                "deadline_seconds": 1500,
                "then": rng.choice(("keep", "delete")),
            },
        },
    }


def _drawn(request: Mapping[str, Any], drawn: Mapping[str, Drawn]) -> Mapping[str, Any]:
    for one in drawn.values():
        request = merged(request, one.request)
    return request


def _interference(rng: random.Random) -> Interference:
    what = rng.choice(("cancel", "delete", "delete all", "forge", "forge", "stop", "error", "vanish", "gone"))
    return Interference(at=rng.uniform(5, CALM), what=what, silent=rng.random() < 0.5)


def settings_of(scenario: Scenario) -> Settings:
    """Settings with short waits, so that a seed is over soon; one connection, so that the order depends on the seed."""
    return Settings(
        _env_file=None,
        data_dir=Path("unused"),
        infrahub_api_key=SecretStr("explorer"),
        public_url="https://rollcall.example.com",
        callback_secrets=(SecretStr(SECRET.decode()),),
        # Two under the provider's: its window and ours need not begin together.
        calls_per_minute=LIMIT - 2,
        create_concurrency=1,
        lookup_window_seconds=120,
        overdue_seconds=100,
        again_seconds=10,
        resync_seconds=300,
        history_seconds=30,
        job_stalled_seconds=400,  # less than the explorer's own patience, since the job `health` runs rarely here
        newborn_seconds=60,
        create_timeout=60,
        reassign_path="/_sim/virtual-machines/{vm_id}/contract" if scenario.reassign else None,
    )
