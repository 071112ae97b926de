"""The simulator's own endpoints under /_sim/: what is true, and what somebody in the console would do.

OURS: the provider has nothing of the kind. No API key, no rate limit, no faults, not in the log of calls.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from service.simulator import truth
from service.simulator.cloud import Cloud
from service.simulator.exchange import Refusal, Reply, Request, answer
from service.simulator.lifecycle import OPERATIONS
from service.simulator.loading import parse_contract_change, parse_faults
from service.simulator.vm import Vm

PREFIX = "/_sim/"
Work = Callable[[Cloud, Request, float, dict[str, str]], Any]


def handle(cloud: Cloud, request: Request, now: float) -> Reply:
    """Answer a private call; mistakes are 400, 404, 405 and 409 in the provider's error shape."""
    try:
        work, args = _find(request)
        return answer(work(cloud, request, now, args))
    except Refusal as refusal:
        return refusal.reply()


def _health(_cloud: Cloud, _request: Request, now: float, _args: dict[str, str]) -> Any:
    return {"status": "ok", "now": now}


def _vms(cloud: Cloud, _request: Request, _now: float, _args: dict[str, str]) -> Any:
    return {"vms": cloud.truth()}


def _deliveries(cloud: Cloud, _request: Request, _now: float, _args: dict[str, str]) -> Any:
    return {"deliveries": [truth.delivery(receipt) for receipt in cloud.fleet.outbox.receipts.values()]}


def _calls(cloud: Cloud, _request: Request, _now: float, _args: dict[str, str]) -> Any:
    return {"calls": [truth.call(logged) for logged in cloud.log]}


def _stats(cloud: Cloud, _request: Request, now: float, _args: dict[str, str]) -> Any:
    fleet = cloud.fleet
    return {
        "now": now,
        "start": cloud.fleet.calendar.start.isoformat(),
        "vms": len(fleet.vms),
        "vms_by_status": Counter(vm.status for vm in fleet.vms.values()),
        "calls": len(cloud.log),
        "calls_by_fate": Counter(logged.reply.fate for logged in cloud.log),
        "calls_limited": cloud.limit.refused,
        "busiest_window": cloud.limit.busiest(),
        "deliveries_by_fate": Counter(receipt.fate for receipt in fleet.outbox.receipts.values()),
        "callbacks_by_fault": Counter(
            fault for receipt in fleet.outbox.receipts.values() for fault in receipt.delivery.faults
        ),
    }


def _faults(cloud: Cloud, request: Request, _now: float, _args: dict[str, str]) -> Any:
    try:
        cloud.misbehave(parse_faults(_object(request)))
    except ValueError as error:
        raise Refusal(400, str(error)) from error
    return {"status": True}


def _contract(cloud: Cloud, request: Request, now: float, args: dict[str, str]) -> Any:
    """Body: the fields of `ContractChange` other than at and contract_id."""
    try:
        change = parse_contract_change({**_object(request), "at": now, "contract_id": int(args["id"])})
    except ValueError as error:
        raise Refusal(400, str(error)) from error
    if not cloud.change_contract(change, now):
        raise Refusal(404, f"Contract with ID: {args['id']} not found.")
    return {"status": True}


def _outage(cloud: Cloud, request: Request, now: float, _args: dict[str, str]) -> Any:
    seconds = _object(request).get("seconds")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
        raise Refusal(400, "seconds must be a number from 0")
    cloud.go_away(seconds, now)
    return {"status": True, "until": now + seconds}


def _console(cloud: Cloud, request: Request, now: float, args: dict[str, str]) -> Any:
    """Do to a VM what somebody else could: vanish, error, stop, delete. `{"silent": true}` sends no callback."""
    cloud.pass_to(now)
    vm = cloud.fleet.vms.get(int(args["id"]))
    if vm is None or vm.ended is not None:
        raise Refusal(404, f"VM {args['id']} does not exists.")
    silent = bool(request.body) and _object(request).get("silent") is True
    DEEDS[args["deed"]](cloud, vm, now, silent)
    return {"status": True, "vm": truth.vm(vm)}


def _vanish(cloud: Cloud, vm: Vm, now: float, _silent: bool) -> None:
    cloud.fleet.end(vm, now, "vanished")


def _error(cloud: Cloud, vm: Vm, now: float, silent: bool) -> None:
    cloud.fleet.fail(vm, now, silent=silent)


def _stop(cloud: Cloud, vm: Vm, now: float, silent: bool) -> None:
    if vm.status not in OPERATIONS["stop"].asked_in:
        raise Refusal(409, f"VM {vm.name} is {vm.status}", "not_allowed")
    cloud.fleet.begin(vm, "stop", now, silent=silent)


def _delete(cloud: Cloud, vm: Vm, now: float, silent: bool) -> None:
    # In any state: a console may do what the API refuses.
    cloud.fleet.begin(vm, "delete", now, silent=silent)


DEEDS: Mapping[str, Callable[[Cloud, Vm, float, bool], None]] = {
    "vanish": _vanish,
    "error": _error,
    "stop": _stop,
    "delete": _delete,
}
WORK: Mapping[tuple[str, str], Work] = {
    ("GET", "healthz"): _health,
    ("GET", "vms"): _vms,
    ("GET", "deliveries"): _deliveries,
    ("GET", "calls"): _calls,
    ("GET", "stats"): _stats,
    ("POST", "faults"): _faults,
    ("POST", "outage"): _outage,
    ("POST", r"contracts/(?P<id>\d{1,18})"): _contract,
    ("POST", rf"vms/(?P<id>\d{{1,18}})/(?P<deed>{'|'.join(DEEDS)})"): _console,
}


def _find(request: Request) -> tuple[Work, dict[str, str]]:
    path = request.route.removeprefix(PREFIX)
    status, message = 404, f"The simulator has no /_sim/{path}."
    for (method, pattern), work in WORK.items():
        if found := re.fullmatch(pattern, path):
            if method == request.method:
                return work, found.groupdict()
            status, message = 405, f"/_sim/{path} is for {method}."
    raise Refusal(status, message)


def _object(request: Request) -> Mapping[str, Any]:
    body = request.json()
    if not isinstance(body, Mapping):
        raise Refusal(400, "The request body must be a JSON object.")
    return body
