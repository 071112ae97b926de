"""Injects faults into any call, before and after its handler runs. Handlers are unaware of it."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from service.simulator.faults import CallFaults
from service.simulator.fleet import SimulatedFleet
from service.simulator.http import JSON_HEADERS, ApiError, HttpReply, json_reply
from service.simulator.routes import ApiCall, Kind

# Forms of a 5xx: documented, legacy, and from a gateway (section 3.6; the last is a guess).
ERRORS = (
    json_reply({"status": False, "message": "Internal Server Error", "error_reason": "server_error"}, status=500),
    json_reply({"message": "Internal Server Error"}, status=500),
    HttpReply(status=502, body=b"<html><h1>502 Bad Gateway</h1></html>", headers={"Content-Type": "text/html"}),
    HttpReply(status=503, body=b"", headers={}),
    HttpReply(status=504, body=b"upstream request timeout", headers={"Content-Type": "text/plain"}),
)


def before(fleet: SimulatedFleet, call: ApiCall, kind: Kind) -> HttpReply | None:
    """The reply that replaces the handler's, or None if the handler should run."""
    for name, inject in BEFORE.items():
        if _fires(fleet, call, kind, name):
            return inject(fleet, call)
    return None


def after(fleet: SimulatedFleet, call: ApiCall, kind: Kind, reply: HttpReply) -> HttpReply:
    """The reply as the caller sees it, after the handler has run."""
    for name, inject in AFTER.items():
        if _fires(fleet, call, kind, name):
            reply = inject(fleet, call, reply)
    return replace(reply, delay=reply.delay + fleet.rng.seconds("answer", fleet.config.timing.answer))


def too_many(fleet: SimulatedFleet, now: float) -> HttpReply:
    """A 429. Retry-After is not documented (section 6), so only a fault adds it."""
    reply = ApiError(429, "Too many requests. Please try again later.").reply()
    if fleet.rng.fires("retry_after", fleet.faults.retry_after, now):
        headers = {**JSON_HEADERS, "Retry-After": str(fleet.faults.retry_after_seconds)}
        return replace(reply, headers=headers)
    return reply


def _fires(fleet: SimulatedFleet, call: ApiCall, kind: Kind, name: str) -> bool:
    faults: CallFaults = getattr(fleet.faults, kind)
    fires = fleet.rng.fires(f"{kind}/{name}", getattr(faults, name), call.now)
    if fires:
        call.add_fault(name)
    return fires


def _error(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    return fleet.rng.stream(f"error/{call.number}").choice(ERRORS)


def _unreadable(fleet: SimulatedFleet, call: ApiCall, reply: HttpReply) -> HttpReply:
    # Truncated, or not JSON at all. The status does not change.
    half = reply.body[: len(reply.body) // 2]
    return replace(reply, body=fleet.rng.stream(f"garble/{call.number}").choice((half, b"<html>", b"\x00\xff", b"")))


def _slow(fleet: SimulatedFleet, _call: ApiCall, reply: HttpReply) -> HttpReply:
    return replace(reply, delay=reply.delay + fleet.rng.seconds("slow", fleet.faults.slow))


BEFORE: Mapping[str, Callable[[SimulatedFleet, ApiCall], HttpReply]] = {
    "limited": lambda fleet, call: too_many(fleet, call.now),
    "cut": lambda _fleet, _call: HttpReply(status=0, fate="cut"),
    "error_before": _error,
    "hang_before": lambda _fleet, _call: HttpReply(status=0, fate="hang"),
}
AFTER: Mapping[str, Callable[[SimulatedFleet, ApiCall, HttpReply], HttpReply]] = {
    "error_after": lambda fleet, call, _reply: _error(fleet, call),
    "unreadable": _unreadable,
    "slow": _slow,
    "hang_after": lambda _fleet, _call, reply: replace(reply, fate="hang"),
    "lost": lambda _fleet, _call, reply: replace(reply, fate="lost"),
}
