"""The simulator's own endpoints under /_sim/: the ground truth, and actions of a user in the provider's console.

They need no API key, have no rate limit and no faults, and are not logged.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from service.simulator import truth
from service.simulator.cloud import Cloud
from service.simulator.config_checks import FAULT_GROUPS
from service.simulator.http import ApiError, HttpReply, HttpRequest, json_reply
from service.simulator.lifecycle import OPERATIONS
from service.simulator.loading import parse_contract_change, parse_faults
from service.simulator.vm import SimulatedVm

PREFIX = "/_sim/"
PrivateHandler = Callable[[Cloud, HttpRequest, float, dict[str, str]], Any]


def handle(cloud: Cloud, request: HttpRequest, now: float) -> HttpReply:
    """Answer a private call. Errors are 400, 404, 405 and 409 in the provider's form."""
    try:
        handler, args = _find(request)
        return json_reply(handler(cloud, request, now, args))
    except ApiError as error:
        return error.reply()


def _health(_cloud: Cloud, _request: HttpRequest, now: float, _args: dict[str, str]) -> Any:
    return {"status": "ok", "now": now}


def _vms(cloud: Cloud, _request: HttpRequest, _now: float, _args: dict[str, str]) -> Any:
    return {"vms": cloud.truth()}


def _deliveries(cloud: Cloud, _request: HttpRequest, _now: float, _args: dict[str, str]) -> Any:
    return {"deliveries": [truth.delivery(record) for record in cloud.fleet.callback_sender.records.values()]}


def _calls(cloud: Cloud, _request: HttpRequest, _now: float, _args: dict[str, str]) -> Any:
    return {"calls": [truth.call(logged) for logged in cloud.log]}


def _stats(cloud: Cloud, _request: HttpRequest, now: float, _args: dict[str, str]) -> Any:
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
        "deliveries_by_fate": Counter(record.fate for record in fleet.callback_sender.records.values()),
        "callbacks_by_fault": Counter(
            fault for record in fleet.callback_sender.records.values() for fault in record.delivery.faults
        ),
    }


def _faults(cloud: Cloud, request: HttpRequest, _now: float, _args: dict[str, str]) -> Any:
    try:
        cloud.set_faults(parse_faults(_object(request)))
    except ValueError as error:
        raise ApiError(400, str(error)) from error
    return {"status": True}


def _contract(cloud: Cloud, request: HttpRequest, now: float, args: dict[str, str]) -> Any:
    """Body: the fields of `ContractChange` other than at and contract_id."""
    try:
        change = parse_contract_change({**_object(request), "at": now, "contract_id": int(args["id"])})
    except ValueError as error:
        raise ApiError(400, str(error)) from error
    if not cloud.change_contract(change, now):
        raise ApiError(404, f"Contract with ID: {args['id']} not found.")
    return {"status": True}


def _outage(cloud: Cloud, request: HttpRequest, now: float, _args: dict[str, str]) -> Any:
    """Body: `seconds`, and `calls` (create, read, change, list, get, delete) for a 5xx outage of these calls only."""
    content = _object(request)
    seconds, calls = content.get("seconds"), content.get("calls", [])
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
        raise ApiError(400, "seconds must be a number of at least 0")
    if not isinstance(calls, list) or not all(name in FAULT_GROUPS for name in calls):
        raise ApiError(400, f"calls must be a list of {', '.join(FAULT_GROUPS)}")
    cloud.start_outage(seconds, now, calls)
    return {"status": True, "until": now + seconds}


def _vanish_crowd(cloud: Cloud, request: HttpRequest, now: float, _args: dict[str, str]) -> Any:
    """Body: `count`. That many VMs, the oldest ones, vanish at once."""
    count = _object(request).get("count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ApiError(400, "count must be an integer of at least 0")
    cloud.run_until(now)
    return {"status": True, "vanished": cloud.fleet.end_oldest(count, cloud.now)}


def _console(cloud: Cloud, request: HttpRequest, now: float, args: dict[str, str]) -> Any:
    """Act on a VM as another user could: vanish, error, stop, delete. `{"silent": true}` sends no callback."""
    cloud.run_until(now)
    vm = cloud.fleet.vms.get(int(args["id"]))
    if vm is None or vm.ended is not None:
        raise ApiError(404, f"VM {args['id']} does not exists.")
    silent = bool(request.body) and _object(request).get("silent") is True
    ACTIONS[args["action"]](cloud, vm, now, silent)
    return {"status": True, "vm": truth.vm(vm)}


def _vanish(cloud: Cloud, vm: SimulatedVm, now: float, _silent: bool) -> None:
    cloud.fleet.end(vm, now, "vanished")


def _error(cloud: Cloud, vm: SimulatedVm, now: float, silent: bool) -> None:
    cloud.fleet.fail(vm, now, silent=silent)


def _stop(cloud: Cloud, vm: SimulatedVm, now: float, silent: bool) -> None:
    if vm.status not in OPERATIONS["stop"].allowed_in:
        raise ApiError(409, f"VM {vm.name} is {vm.status}", "not_allowed")
    cloud.fleet.start(vm, "stop", now, silent=silent)


def _delete(cloud: Cloud, vm: SimulatedVm, now: float, silent: bool) -> None:
    # In any state: a console may allow what the API refuses.
    cloud.fleet.start(vm, "delete", now, silent=silent)


ACTIONS: Mapping[str, Callable[[Cloud, SimulatedVm, float, bool], None]] = {
    "vanish": _vanish,
    "error": _error,
    "stop": _stop,
    "delete": _delete,
}
HANDLERS: Mapping[tuple[str, str], PrivateHandler] = {
    ("GET", "healthz"): _health,
    ("GET", "vms"): _vms,
    ("GET", "deliveries"): _deliveries,
    ("GET", "calls"): _calls,
    ("GET", "stats"): _stats,
    ("POST", "faults"): _faults,
    ("POST", "outage"): _outage,
    ("POST", "vanish"): _vanish_crowd,
    ("POST", r"contracts/(?P<id>\d{1,18})"): _contract,
    ("POST", rf"vms/(?P<id>\d{{1,18}})/(?P<action>{'|'.join(ACTIONS)})"): _console,
}


def _find(request: HttpRequest) -> tuple[PrivateHandler, dict[str, str]]:
    path = request.route.removeprefix(PREFIX)
    status, message = 404, f"The simulator has no /_sim/{path}."
    for (method, pattern), handler in HANDLERS.items():
        if found := re.fullmatch(pattern, path):
            if method == request.method:
                return handler, found.groupdict()
            status, message = 405, f"/_sim/{path} is for {method}."
    raise ApiError(status, message)


def _object(request: HttpRequest) -> Mapping[str, Any]:
    body = request.json()
    if not isinstance(body, Mapping):
        raise ApiError(400, "The request body must be a JSON object.")
    return body
