"""Calls the provider: within the rate limit, on record before and after, never inside a transaction.

A caller acquires and records its calls in a transaction, commits, makes each with `make_call`, and then writes the result
together with what follows from it.
"""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Generic, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.ids import FLEET
from service.core.vm import Vm
from service.errors import CredentialsRejected, ProviderError, RateLimited, StorageError, TryLater, Unconfirmed
from service.runtime.health import Health
from service.runtime.runtime import Runtime
from service.storage import calls, circuits, creations, rate_limit
from service.storage.calls import Call, CallEnd
from service.storage.engine import transact

Value = TypeVar("Value")

#: Kinds of calls that say nothing about whether VMs can be created: those that only callers cause, which nothing repeats,
#: so that an issue about one would stay; and those for prices, whose job reports what it cannot read.
_NO_ISSUE = frozenset({
    "flavors", "images", "environments", "keypairs", "name availability", "check contract", "contracts", "stock",
    "pricebook", "list contracts",
})  # fmt: skip
#: Health issues about the provider.
_CREDENTIALS: Final = "provider key"
_AWAY: Final = "provider"
_GATEWAY: Final = "provider gateway"
_LIMITED: Final = "provider rate limit"
#: Calls that may probe an open circuit: several, so that one VM whose reads always fail cannot keep it open.
_PROBES: Final = 3
#: The kind of call of a share of the rate limit, if the names differ.
_KINDS: Final = {"read": "get"}
#: Statuses below 500 that the provider itself may give, so they do not point to a gateway.
_NO_GATEWAY: Final = frozenset({408, 425, 429, 499})


@dataclass(frozen=True, slots=True)
class CallResult(Generic[Value]):
    """The result of a call: the value or the error, and the row that records its end."""

    call: Call
    end: CallEnd
    value: Value | None = None
    error: ProviderError | None = None

    def value_or_raise(self) -> Value:
        """The value. Raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # if Value is None, None is a value


async def acquire(rt: Runtime, conn: AsyncConnection, operation: str, wanted: int, *, kind: str | None = None) -> int:
    """Acquire up to `wanted` calls from the rate limit. They count when the transaction commits. Returns how many.

    `operation` names the share of the rate limit, `kind` the circuit (by default that of the operation).
    """
    if wanted <= 0:
        return 0
    now, limits = rt.clock.now(), rt.limits
    wanted = await _pass_circuit(rt, conn, kind or _KINDS.get(operation, operation), wanted)
    if wanted <= 0:
        return 0
    creating = operation in limits.while_creating and await creations.count_due(conn, now=now, limit=1) > 0
    return await rate_limit.acquire(conn, limits, operation=operation, wanted=wanted, now=now, creating=creating)


async def _pass_circuit(rt: Runtime, conn: AsyncConnection, kind: str, wanted: int) -> int:
    """How many of the `wanted` calls their circuit lets through: all while it is closed."""
    now = rt.clock.now()
    circuit = await circuits.get(conn, rt.settings.rate_limit_scope, kind)
    if circuit is None:
        resolve_outage(rt, kind)
        return wanted
    rt.open_circuits.add(kind)
    if circuit.open_until > now:
        return 0
    until = now + rt.retry.after(circuit.failures + 1, rt.jitter())
    return min(wanted, _PROBES) if await circuits.take_probe(conn, circuit, now=now, until=until) else 0


def call_about(rt: Runtime, vm: Vm, operation: str, *, attempt: int | None = None) -> Call:
    """A call about a bound VM. Record it before making it."""
    return Call(
        submission_id=vm.submission_id,
        call_id=rt.uuid(),
        operation=operation,
        vm_no=vm.vm_no,
        provider_id=vm.provider_id,
        attempt=attempt,
        begun_at=rt.clock.now(),
    )


async def make_call(rt: Runtime, call: Call, make: Callable[[], Awaitable[Value]]) -> CallResult[Value]:
    """Make a call that is on record. Provider errors are returned, not raised."""
    began = time.monotonic()
    value, error = None, None
    try:
        value = await make()
    except ProviderError as failed:
        error = failed
    seconds = time.monotonic() - began
    outcome = _outcome(error)
    _report(rt, call.operation, error)
    await _update_circuit(rt, call.operation, error)
    rt.metrics.calls.labels(call.operation, outcome).inc()
    rt.metrics.call_seconds.labels(call.operation).observe(seconds)
    end = CallEnd(
        submission_id=call.submission_id,
        call_id=call.call_id,
        outcome=outcome,
        status_code=error.status if error else 200,
        ms=round(seconds * 1000),
        error=str(error) if error else None,
        ended_at=rt.clock.now(),
    )
    return CallResult(call, end, value, error)


async def record_results(rt: Runtime, conn: AsyncConnection, results: Sequence[CallResult[Value]]) -> None:
    """Record the ends of calls. If the provider said that its rate limit is reached, all daemons pause."""
    await calls.end(conn, [one.end for one in results])
    waits = [one.error.retry_after for one in results if isinstance(one.error, RateLimited)]
    if waits:
        until = rt.clock.now() + timedelta(seconds=max(waits))
        await rate_limit.pause(conn, rt.settings.rate_limit_scope, until)


async def call_provider(
    rt: Runtime,
    operation: str,
    label: str,
    make: Callable[[], Awaitable[Value]],
    *,
    submission_id: UUID = FLEET,
    provider_id: int | None = None,
) -> CallResult[Value] | None:
    """Acquire, record and make one call, for which no row is leased. None if the rate limit does not allow it now.

    `operation` names the share of the rate limit, `label` the kind of call on record. Calls without a submission are
    about the whole fleet.
    """
    call = Call(
        submission_id=submission_id,
        call_id=rt.uuid(),
        operation=label,
        provider_id=provider_id,
        begun_at=rt.clock.now(),
    )

    async def begin(conn: AsyncConnection) -> bool:
        if not await acquire(rt, conn, operation, 1, kind=label):
            return False
        await calls.begin(conn, [call])
        return True

    if not await transact(rt.engine, begin):
        return None
    result = await make_call(rt, call, make)
    await transact(rt.engine, lambda conn: record_results(rt, conn, [result]))
    return result


def _outcome(error: ProviderError | None) -> str:
    if error is None:
        return "ok"
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()


def is_outage(error: ProviderError | None) -> bool:
    """Whether a call failed because the provider is away: not reached, no answer, or a 5xx.

    An error with a reason and without a status is our own: the call was not made.
    """
    if not isinstance(error, TryLater | Unconfirmed) or isinstance(error, RateLimited):
        return False
    return error.reason is None if error.status is None else error.status >= 500


def _is_gateway(error: ProviderError | None) -> bool:
    """Whether something between us and the provider answered instead: a redirect, a page of HTML."""
    status = error.status if isinstance(error, TryLater | Unconfirmed) else None
    return status is not None and 300 <= status < 500 and status not in _NO_GATEWAY


def _report(rt: Runtime, kind: str, error: ProviderError | None) -> None:
    """Report and resolve health issues by an answer of the provider."""
    health = rt.health
    if isinstance(error, CredentialsRejected):
        health.report(_CREDENTIALS, "the provider rejects the API key: nothing is created until it is replaced")
    elif error is None:
        health.resolve(_CREDENTIALS)
    if isinstance(error, RateLimited):
        health.report(_LIMITED, f"the provider says that its rate limit is reached: {error}", owner=kind)
    elif error is None:
        health.resolve(_LIMITED, owner=kind)
    if kind not in _NO_ISSUE:
        _report_reachable(health, kind, error)
    if error is None:
        # The provider answers, so end issues of kinds of calls that nobody makes any more.
        for issue in (_AWAY, _GATEWAY, _LIMITED):
            health.resolve_unrepeated(issue, since=timedelta(seconds=2 * rt.settings.retry_cap_seconds))


def _report_reachable(health: Health, kind: str, error: ProviderError | None) -> None:
    if _is_gateway(error):
        health.report(_GATEWAY, f"{kind}: {error}", owner=kind)
    elif not is_outage(error):
        health.resolve(_GATEWAY, owner=kind)
    if is_outage(error):
        health.report(_AWAY, f"{kind}: {error}", owner=kind)
    else:
        health.resolve(_AWAY, owner=kind)


def resolve_outage(rt: Runtime, kind: str) -> None:
    """Note that a circuit is closed: this daemon or another one reached the provider."""
    if kind in rt.open_circuits:
        rt.open_circuits.discard(kind)
        rt.health.resolve(_AWAY, owner=kind)


async def _update_circuit(rt: Runtime, kind: str, error: ProviderError | None) -> None:
    """Open or close the circuit of a kind of call, in a transaction of its own, so that its lock is short.

    If the database is away, recording the result raises it.
    """
    scope, now = rt.settings.rate_limit_scope, rt.clock.now()
    with suppress(StorageError):
        if is_outage(error):
            rt.open_circuits.add(kind)
            until, text = now + rt.retry.after(1, rt.jitter()), str(error)
            await transact(
                rt.engine,
                lambda conn: circuits.record_failure(conn, scope, kind, now=now, until=until, error=text),
            )
        elif kind in rt.open_circuits:
            await transact(rt.engine, lambda conn: circuits.close(conn, scope, kind))
            rt.open_circuits.discard(kind)


def credentials_rejected(rt: Runtime) -> bool:
    """Whether the provider rejected the API key the last time it was used."""
    return _CREDENTIALS in rt.health.issues
