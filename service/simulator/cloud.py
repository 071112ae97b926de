"""The simulated Infrahub without I/O: an HTTP request in, a reply out, the time as an argument.

This file handles the rate limit, the API key, faults and the passing of time. The handlers are listed in endpoints.py.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from service.simulator import fault_injection, schedule, truth
from service.simulator.callback_sender import CallbackDelivery
from service.simulator.config import CloudConfig, ContractChange
from service.simulator.endpoints import ENDPOINTS
from service.simulator.faults import Faults
from service.simulator.fleet import SimulatedFleet
from service.simulator.http import ApiError, HttpReply, HttpRequest
from service.simulator.rate_limit import RateLimit
from service.simulator.routes import ApiCall, Endpoint, LoggedCall, find
from service.simulator.vm import Calendar

BASE = "/v1"


class Cloud:
    """Time never goes backwards: a `now` before the last one counts as the last one.

    The same config, start, calls and times produce the same replies and callbacks, byte for byte.
    """

    def __init__(self, config: CloudConfig, *, start: datetime) -> None:
        self.config = config
        self.fleet = SimulatedFleet(config, Calendar(start, config.zoned_times))
        self.limit = RateLimit(config.rate_limit, config.rate_window)
        self.log: list[LoggedCall] = []
        self.now = 0.0
        self._offline_until = 0.0
        self._failing_until: dict[str, float] = {}
        schedule.schedule_changes(self.fleet)

    def handle(self, request: HttpRequest, now: float) -> HttpReply:
        """Answer a call to the provider's API. Every call is logged, whatever its result."""
        self.run_until(now)
        call = ApiCall(number=len(self.log) + 1, request=request, now=self.now)
        try:
            reply = self._answer(call)
        except ApiError as error:
            reply = self._error_reply(error, call)
        self.log.append(LoggedCall(call, reply))
        return reply

    def advance(self, now: float) -> list[CallbackDelivery]:
        """Let time pass and return the callbacks that are due, in order. Each is returned once."""
        self.run_until(now)
        due = self.fleet.callback_sender.take_due(self.now)
        return [delivery for delivery in due if not self._lost_in_outage(delivery)]

    def next_due(self) -> float | None:
        """The time of the next event if there are no further calls."""
        times = (self.fleet.timeline.next_due(), self.fleet.callback_sender.next_due())
        return min((at for at in times if at is not None), default=None)

    def truth(self) -> list[dict[str, Any]]:
        """The ground truth of every VM that ever existed: see truth.py."""
        return [truth.vm(vm) for vm in self.fleet.vms.values()]

    def record_answer(self, delivery_id: int, status: int | None, now: float) -> None:
        """Record the receiver's status for a callback; None means no answer."""
        self.fleet.callback_sender.record_answer(delivery_id, status, now)

    def set_faults(self, faults: Faults) -> None:
        """Replace all faults and restart the count of occasions."""
        self.fleet.faults = faults
        self.fleet.rng.restart()

    def start_outage(self, seconds: float, now: float, groups: Collection[str] = ()) -> None:
        """Cut all connections and lose all callbacks for this many seconds.

        With `groups` (create, read, change, list, get, delete) these calls are answered with a 5xx instead.
        """
        self.run_until(now)
        if groups:
            self._failing_until |= dict.fromkeys(groups, self.now + seconds)
        else:
            self._offline_until = self.now + seconds

    def change_contract(self, change: ContractChange, now: float) -> bool:
        """As `Contracts.change`, now."""
        self.run_until(now)
        return schedule.change_contract(self.fleet, change, self.now)

    def run_until(self, now: float) -> None:
        """Let time pass; due callbacks stay queued."""
        self.now = max(self.now, now)
        self.fleet.timeline.run(self.now)

    def _answer(self, call: ApiCall) -> HttpReply:
        fleet, request = self.fleet, call.request
        if self._offline(call.now, "outage/call"):
            call.add_fault("outage")
            return HttpReply(status=0, fate="cut")
        if not self.limit.allows(request.source, call.now):
            return fault_injection.too_many(fleet, call.now)
        self._authorize(call)
        endpoint, call.args = find(ENDPOINTS, request.method, _below_base(request.route))
        if any(call.now < self._failing_until.get(group, 0.0) for group in endpoint.fault_groups):
            call.add_fault("outage")
            return fault_injection.server_error(fleet, call)
        injected = fault_injection.before(fleet, call, endpoint.fault_groups)
        if injected is not None:
            return injected
        return fault_injection.after(fleet, call, endpoint.fault_groups, self._run_handler(endpoint, call))

    def _run_handler(self, endpoint: Endpoint, call: ApiCall) -> HttpReply:
        try:
            return endpoint.handler(self.fleet, call)
        except ApiError as error:
            return self._error_reply(error, call)

    def _error_reply(self, error: ApiError, call: ApiCall) -> HttpReply:
        return error.reply(with_reason=not self.fleet.rng.fires("no_reason", self.fleet.faults.no_reason, call.now))

    def _authorize(self, call: ApiCall) -> None:
        keys = [call.request.header(name) for name in self.config.api_key_headers]
        accepted = any(key and (not self.config.api_keys or key in self.config.api_keys) for key in keys)
        if not accepted or self.fleet.rng.fires("unauthorized", self.fleet.faults.unauthorized, call.now):
            raise ApiError(401, "Unauthorized: invalid or missing API key.")

    def _offline(self, now: float, purpose: str) -> bool:
        return now < self._offline_until or self.fleet.rng.fires(purpose, self.fleet.faults.outage, now)

    def _lost_in_outage(self, delivery: CallbackDelivery) -> bool:
        if not self._offline(delivery.at, "outage/callback"):
            return False
        self.fleet.callback_sender.drop(delivery, "outage")
        return True


def _below_base(path: str) -> str:
    """The path after /v1; empty, which matches no endpoint, if it does not begin with /v1."""
    return path.removeprefix(BASE) if path.startswith(f"{BASE}/") else ""
