"""How the provider is called: within the budget, on record before and after, and never inside a transaction.

A caller takes permits and puts its calls on record in a transaction of its own, commits, makes each with `ask`,
and writes what came of it together with the end it leads to. What the answer means is the caller's matter.
"""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.vm import Vm
from service.errors import CredentialsRejected, ProviderError, RateLimited
from service.runtime.runtime import Runtime
from service.storage import calls, creations, rate_limit
from service.storage.calls import Call, CallEnd
from service.storage.engine import transact

Value = TypeVar("Value")

_CREDENTIALS = "provider key"


@dataclass(frozen=True, slots=True)
class CallResult(Generic[Value]):
    """What came of a call: the value or the error, and the row to keep about it."""

    call: Call
    end: CallEnd
    value: Value | None = None
    error: ProviderError | None = None

    def value_or_raise(self) -> Value:
        """The value; raises the error where there was one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # None is a value where Value is None


async def acquire(rt: Runtime, conn: AsyncConnection, operation: str, wanted: int) -> int:
    """How many of the `wanted` calls may be made now. They are spent when the transaction commits."""
    if wanted <= 0:
        return 0
    now, limits = rt.clock.now(), rt.limits
    creating = operation in limits.while_creating and await creations.count_due(conn, now=now, limit=1) > 0
    return await rate_limit.acquire(conn, limits, operation=operation, wanted=wanted, now=now, creating=creating)


def call_about(rt: Runtime, vm: Vm, operation: str, *, attempt: int | None = None) -> Call:
    """A call about a VM that the provider knows, to be put on record before it is made."""
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
    """Make a call that is on record. Provider errors are returned, not raised; anything else is a fault of ours."""
    began = time.monotonic()
    value, error = None, None
    try:
        value = await make()
    except ProviderError as failed:
        error = failed
    seconds = time.monotonic() - began
    outcome = _outcome(error)
    _heed(rt, error)
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


async def record_results(rt: Runtime, conn: AsyncConnection, asked: Sequence[CallResult[Value]]) -> None:
    """Keep what came of calls; where the provider said that its limit is reached, all daemons pause."""
    await calls.end(conn, [one.end for one in asked])
    waits = [one.error.retry_after for one in asked if isinstance(one.error, RateLimited)]
    if waits:
        until = rt.clock.now() + timedelta(seconds=max(waits))
        await rate_limit.pause(conn, rt.settings.rate_limit_scope, until)


async def call_provider(
    rt: Runtime,
    operation: str,
    label: str,
    make: Callable[[], Awaitable[Value]],
    *,
    submission_id: UUID = calls.FLEET,
    provider_id: int | None = None,
) -> CallResult[Value] | None:
    """One call that no VM's record is leased for, permitted, made and recorded; None where the budget has no room now.

    `operation` names the share of the budget, `label` what the record says. A call about a VM at the provider names
    it, and the submission whose marks it carries; all others are for the fleet as a whole.
    """
    call = Call(
        submission_id=submission_id,
        call_id=rt.uuid(),
        operation=label,
        provider_id=provider_id,
        begun_at=rt.clock.now(),
    )

    async def begin(conn: AsyncConnection) -> bool:
        if not await acquire(rt, conn, operation, 1):
            return False
        await calls.begin(conn, [call])
        return True

    if not await transact(rt.engine, begin):
        return None
    asked = await make_call(rt, call, make)
    await transact(rt.engine, lambda conn: record_results(rt, conn, [asked]))
    return asked


def _outcome(error: ProviderError | None) -> str:
    if error is None:
        return "ok"
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()


def _heed(rt: Runtime, error: ProviderError | None) -> None:
    """Say in `/readyz` that the key is rejected, until it is not."""
    if isinstance(error, CredentialsRejected):
        rt.health.report(_CREDENTIALS, "the provider rejects the API key: nothing is created until it is replaced")
    elif error is None:
        rt.health.resolve(_CREDENTIALS)


def credentials_rejected(rt: Runtime) -> bool:
    """Whether the provider rejected the API key the last time it was used."""
    return _CREDENTIALS in rt.health.issues
