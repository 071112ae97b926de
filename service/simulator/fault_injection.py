"""Injects faults into any call, before and after its handler runs. Handlers are unaware of it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from service.simulator import bad_fields
from service.simulator.faults import CallFaults
from service.simulator.fleet import SimulatedFleet
from service.simulator.http import JSON_HEADERS, ApiError, HttpReply, json_reply
from service.simulator.routes import ApiCall

# Forms of a 5xx: documented, legacy, and from a gateway (section 3.6; the last is a guess).
ERRORS = (
    json_reply({"status": False, "message": "Internal Server Error", "error_reason": "server_error"}, status=500),
    json_reply({"message": "Internal Server Error"}, status=500),
    HttpReply(status=502, body=b"<html><h1>502 Bad Gateway</h1></html>", headers={"Content-Type": "text/html"}),
    HttpReply(status=503, body=b"", headers={}),
    HttpReply(status=504, body=b"upstream request timeout", headers={"Content-Type": "text/plain"}),
)


def before(fleet: SimulatedFleet, call: ApiCall, groups: Iterable[str]) -> HttpReply | None:
    """The reply that replaces the handler's, or None if the handler should run."""
    for group in groups:
        for name, inject in BEFORE.items():
            if _fires(fleet, call, group, name):
                return inject(fleet, call, getattr(fleet.faults, group))
    return None


def after(fleet: SimulatedFleet, call: ApiCall, groups: Iterable[str], reply: HttpReply) -> HttpReply:
    """The reply as the caller sees it, after the handler has run."""
    for group in groups:
        for name, inject in AFTER.items():
            if _fires(fleet, call, group, name):
                reply = inject(fleet, call, getattr(fleet.faults, group), reply)
    return replace(reply, delay=reply.delay + fleet.rng.seconds("answer", fleet.config.timing.answer))


def too_many(fleet: SimulatedFleet, now: float) -> HttpReply:
    """A 429. Retry-After is not documented (section 6), so only a fault adds it."""
    reply = ApiError(429, "Too many requests. Please try again later.").reply()
    if fleet.rng.fires("retry_after", fleet.faults.retry_after, now):
        headers = {**JSON_HEADERS, "Retry-After": str(fleet.faults.retry_after_seconds)}
        return replace(reply, headers=headers)
    return reply


def server_error(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    return fleet.rng.stream(f"error/{call.number}").choice(ERRORS)


def _fires(fleet: SimulatedFleet, call: ApiCall, group: str, name: str) -> bool:
    faults: CallFaults = getattr(fleet.faults, group)
    fires = fleet.rng.fires(f"{group}/{name}", getattr(faults, name), call.now)
    if fires:
        call.add_fault(name)
    return fires


def _gateway(fleet: SimulatedFleet, call: ApiCall, faults: CallFaults) -> HttpReply:
    """HTML from something in front of the API. A redirect leads to a page that does not exist."""
    status = fleet.rng.stream(f"gateway/{call.number}").choice(faults.gateway_statuses)
    headers = {"Content-Type": "text/html"} | ({"Location": "/maintenance"} if 300 <= status < 400 else {})
    return HttpReply(status=status, body=f"<html><h1>{status}</h1></html>".encode(), headers=headers)


def _bad_fields(fleet: SimulatedFleet, call: ApiCall, faults: CallFaults, reply: HttpReply) -> HttpReply:
    return bad_fields.corrupt(reply, faults, fleet.rng.stream(f"bad fields/{call.number}"))


def _unreadable(fleet: SimulatedFleet, call: ApiCall, _faults: CallFaults, reply: HttpReply) -> HttpReply:
    # Truncated, or not JSON at all. The status does not change.
    half = reply.body[: len(reply.body) // 2]
    return replace(reply, body=fleet.rng.stream(f"garble/{call.number}").choice((half, b"<html>", b"\x00\xff", b"")))


def _slow(fleet: SimulatedFleet, _call: ApiCall, _faults: CallFaults, reply: HttpReply) -> HttpReply:
    return replace(reply, delay=reply.delay + fleet.rng.seconds("slow", fleet.faults.slow))


def _hang(fleet: SimulatedFleet, _call: ApiCall, faults: CallFaults, reply: HttpReply) -> HttpReply:
    return replace(reply, delay=reply.delay + fleet.rng.seconds("hang", faults.hang_seconds))


BEFORE: Mapping[str, Callable[[SimulatedFleet, ApiCall, CallFaults], HttpReply]] = {
    "limited": lambda fleet, call, _faults: too_many(fleet, call.now),
    "cut": lambda _fleet, _call, _faults: HttpReply(status=0, fate="cut"),
    "error_before": lambda fleet, call, _faults: server_error(fleet, call),
    "hang_before": lambda _fleet, _call, _faults: HttpReply(status=0, fate="hang"),
    "gateway": _gateway,
}
AFTER: Mapping[str, Callable[[SimulatedFleet, ApiCall, CallFaults, HttpReply], HttpReply]] = {
    "error_after": lambda fleet, call, _faults, _reply: server_error(fleet, call),
    "gateway_after": lambda fleet, call, faults, _reply: _gateway(fleet, call, faults),
    "bad_fields": _bad_fields,
    "unreadable": _unreadable,
    "slow": _slow,
    "hang": _hang,
    "hang_after": lambda _fleet, _call, _faults, reply: replace(reply, fate="hang"),
    "lost": lambda _fleet, _call, _faults, reply: replace(reply, fate="lost"),
}
