"""The simulated Infrahub as a value: a call in, an answer out, time as an argument. No socket, no clock.

What a call does is in the files of its handlers, listed in endpoints.py; here is the way of a call past the limit, the
key and the faults, and the passing of time.
"""

from datetime import datetime
from typing import Any

from service.simulator import misfortune, schedule, truth
from service.simulator.config import CloudConfig, ContractChange
from service.simulator.endpoints import ROUTES
from service.simulator.exchange import Refusal, Reply, Request
from service.simulator.faults import Faults
from service.simulator.fleet import Fleet
from service.simulator.limit import Limit
from service.simulator.outbox import Delivery
from service.simulator.routes import Call, Logged, Route, find
from service.simulator.vm import Calendar

BASE = "/v1"


class Cloud:
    """Time never goes backwards: an earlier `now` than the last one counts as the last one.

    The same config, start, calls and times give the same answers and callbacks, byte for byte.
    """

    def __init__(self, config: CloudConfig, *, start: datetime) -> None:
        self.config = config
        self.fleet = Fleet(config, Calendar(start, config.zoned_times))
        self.limit = Limit(config.rate_limit, config.rate_window)
        self.log: list[Logged] = []
        self.now = 0.0
        self._away_until = 0.0
        schedule.arrange(self.fleet)

    def handle(self, request: Request, now: float) -> Reply:
        """Answer a call of the provider's API. Every one is logged, whatever its fate."""
        self.pass_to(now)
        call = Call(number=len(self.log) + 1, request=request, now=self.now)
        try:
            reply = self._answer(call)
        except Refusal as refusal:
            reply = self._refused(refusal, call)
        self.log.append(Logged(call, reply))
        return reply

    def advance(self, now: float) -> list[Delivery]:
        """Let time pass, and hand out the callbacks that are due, in order. Each is handed out once."""
        self.pass_to(now)
        return [delivery for delivery in self.fleet.outbox.take(self.now) if not self._lost_in_outage(delivery)]

    def next_due(self) -> float | None:
        """When something happens next if nobody calls."""
        dues = (self.fleet.timeline.next_due(), self.fleet.outbox.next_due())
        return min((due for due in dues if due is not None), default=None)

    def truth(self) -> list[dict[str, Any]]:
        """Every VM that ever was, as it really is: see truth.py."""
        return [truth.vm(vm) for vm in self.fleet.vms.values()]

    def delivered(self, delivery_id: int, status: int | None, now: float) -> None:
        """Say how a callback was answered; None if it was not."""
        self.fleet.outbox.answered(delivery_id, status, now)

    def misbehave(self, faults: Faults) -> None:
        """Replace all faults. The n-th occasions count from here on."""
        self.fleet.faults = faults
        self.fleet.dice.restart()

    def go_away(self, seconds: float, now: float) -> None:
        """Cut all connections and lose all callbacks for a while."""
        self.pass_to(now)
        self._away_until = self.now + seconds

    def change_contract(self, change: ContractChange, now: float) -> bool:
        """As `Contracts.change`, now."""
        self.pass_to(now)
        return schedule.change_contract(self.fleet, change, self.now)

    def _answer(self, call: Call) -> Reply:
        fleet, request = self.fleet, call.request
        if self._away(call.now, "outage/call"):
            call.spoiled("outage")
            return Reply(status=0, fate="cut")
        if not self.limit.admits(request.source, call.now):
            return misfortune.too_many(fleet, call.now)
        self._authorize(call)
        route, call.args = find(ROUTES, request.method, _below_base(request.route))
        spoiled = misfortune.before(fleet, call, route.kind)
        if spoiled is not None:
            return spoiled
        return misfortune.after(fleet, call, route.kind, self._work(route, call))

    def _work(self, route: Route, call: Call) -> Reply:
        try:
            return route.handler(self.fleet, call)
        except Refusal as refusal:
            return self._refused(refusal, call)

    def _refused(self, refusal: Refusal, call: Call) -> Reply:
        return refusal.reply(with_reason=not self.fleet.dice.hit("no_reason", self.fleet.faults.no_reason, call.now))

    def _authorize(self, call: Call) -> None:
        key = call.request.header("api_key")
        accepted = bool(key) and (not self.config.api_keys or key in self.config.api_keys)
        if not accepted or self.fleet.dice.hit("unauthorized", self.fleet.faults.unauthorized, call.now):
            raise Refusal(401, "Unauthorized: invalid or missing API key.")

    def _away(self, now: float, purpose: str) -> bool:
        return now < self._away_until or self.fleet.dice.hit(purpose, self.fleet.faults.outage, now)

    def _lost_in_outage(self, delivery: Delivery) -> bool:
        if not self._away(delivery.at, "outage/callback"):
            return False
        self.fleet.outbox.lose(delivery, "outage")
        return True

    def pass_to(self, now: float) -> None:
        """Let time pass without handing anything out."""
        self.now = max(self.now, now)
        self.fleet.timeline.run(self.now)


def _below_base(path: str) -> str:
    """What comes after /v1, or nothing that any route would match."""
    return path.removeprefix(BASE) if path.startswith(f"{BASE}/") else ""
