"""What may become of any call before and after its work is done. The work itself knows nothing of this."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from service.simulator.exchange import JSON_HEADERS, Refusal, Reply, answer
from service.simulator.faults import CallFaults
from service.simulator.fleet import Fleet
from service.simulator.routes import Call, Kind

# Shapes of a 5xx: the documented one, the legacy one, and a gateway's (section 3.6; the last is our guess).
ERRORS = (
    answer({"status": False, "message": "Internal Server Error", "error_reason": "server_error"}, status=500),
    answer({"message": "Internal Server Error"}, status=500),
    Reply(status=502, body=b"<html><h1>502 Bad Gateway</h1></html>", headers={"Content-Type": "text/html"}),
    Reply(status=503, body=b"", headers={}),
    Reply(status=504, body=b"upstream request timeout", headers={"Content-Type": "text/plain"}),
)


def before(fleet: Fleet, call: Call, kind: Kind) -> Reply | None:
    """The answer of a call whose work is not going to be done, or None if it may go on."""
    for name, spoil in BEFORE.items():
        if _hit(fleet, call, kind, name):
            return spoil(fleet, call)
    return None


def after(fleet: Fleet, call: Call, kind: Kind, reply: Reply) -> Reply:
    """What the caller gets to see of an answer, the work being done."""
    for name, spoil in AFTER.items():
        if _hit(fleet, call, kind, name):
            reply = spoil(fleet, call, reply)
    return replace(reply, delay=reply.delay + fleet.dice.seconds("answer", fleet.config.timing.answer))


def too_many(fleet: Fleet, now: float) -> Reply:
    """A 429. No Retry-After is documented (section 6), so that there is one only when a fault says so."""
    reply = Refusal(429, "Too many requests. Please try again later.").reply()
    if fleet.dice.hit("retry_after", fleet.faults.retry_after, now):
        headers = {**JSON_HEADERS, "Retry-After": str(fleet.faults.retry_after_seconds)}
        return replace(reply, headers=headers)
    return reply


def _hit(fleet: Fleet, call: Call, kind: Kind, name: str) -> bool:
    faults: CallFaults = getattr(fleet.faults, kind)
    hit = fleet.dice.hit(f"{kind}/{name}", getattr(faults, name), call.now)
    if hit:
        call.spoiled(name)
    return hit


def _error(fleet: Fleet, call: Call) -> Reply:
    return fleet.dice.stream(f"error/{call.number}").choice(ERRORS)


def _unreadable(fleet: Fleet, call: Call, reply: Reply) -> Reply:
    # Cut in the middle, or not JSON at all; the status stays what it was.
    half = reply.body[: len(reply.body) // 2]
    return replace(reply, body=fleet.dice.stream(f"garble/{call.number}").choice((half, b"<html>", b"\x00\xff", b"")))


def _slow(fleet: Fleet, _call: Call, reply: Reply) -> Reply:
    return replace(reply, delay=reply.delay + fleet.dice.seconds("slow", fleet.faults.slow))


BEFORE: Mapping[str, Callable[[Fleet, Call], Reply]] = {
    "limited": lambda fleet, call: too_many(fleet, call.now),
    "cut": lambda _fleet, _call: Reply(status=0, fate="cut"),
    "error_before": _error,
    "hang_before": lambda _fleet, _call: Reply(status=0, fate="hang"),
}
AFTER: Mapping[str, Callable[[Fleet, Call, Reply], Reply]] = {
    "error_after": lambda fleet, call, _reply: _error(fleet, call),
    "unreadable": _unreadable,
    "slow": _slow,
    "hang_after": lambda _fleet, _call, reply: replace(reply, fate="hang"),
    "lost": lambda _fleet, _call, reply: replace(reply, fate="lost"),
}
