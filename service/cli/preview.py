"""`rollcall submit --dry-run`: what a submission would do."""

from collections.abc import Mapping
from typing import Any, Final

from service.cli.output import Column, answer, as_json, facts, price_of, table, time_of
from service.client.requests import SubmissionRequestJson
from service.client.sync import Rollcall


def show(client: Rollcall, body: SubmissionRequestJson, *, json_: bool) -> None:
    """Ask the daemon what it would do, and print it. Raises `ApiError` if it would refuse."""
    found = client.preview(body)
    if json_:
        as_json(found)
        return
    facts("dry run: nothing was kept, nothing will be created", _facts(found))
    table(found["choices"], CHOICES, nothing="")
    for warning in found["warnings"]:
        answer(f"  warning: {warning}")


def _facts(found: Mapping[str, Any]) -> dict[str, object]:
    sizes = [one["vm_count"] for one in found["creations"]]
    full = sizes.count(sizes[0])
    calls = f"{full} of {sizes[0]} VMs" + (f", 1 of {sizes[-1]}" if sizes[-1] != sizes[0] else "")
    contract = found["choices"][0]["contract"]
    return {
        "VMs": found["count"],
        "create calls": f"{len(sizes)}: {calls}",
        "contract": _contract(contract) if contract else None,
        "contract ends": time_of(contract["end_date"]) if contract else None,
        "deadline": f"{found['policy']['deadline_seconds']:g} s",
    }


def _contract(one: Mapping[str, Any]) -> str:
    fit = "not known how many" if one["fit"] is None else f"{one['fit']} of {one['requested']}"
    return f"{one['contract_id']}: {fit} fit now"


def _gpus(one: Mapping[str, Any]) -> str:
    if one["gpu_count"] is None:
        return "not known"
    return f"{one['gpu_count']} x {one['gpu_model']}" if one["gpu_count"] else "none"


def _stock(one: Mapping[str, Any]) -> str:
    level = one["stock"]
    return f"{level['gpus']}{'+' if level['more'] else ''} GPUs" if level else "not known"


CHOICES: Final = (
    Column("flavor", lambda one: one["flavor_name"]),
    Column("environment", lambda one: one["environment_name"]),
    Column("region", lambda one: one["region"] or "not known"),
    Column("GPUs of a VM", _gpus),
    Column("stock", _stock),
    Column("per hour", price_of),
)
