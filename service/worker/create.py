"""Sends creations: leased and counted first, called outside any transaction, settled only while the lease holds."""

import asyncio
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.create_body import CreateBody, VmSpec
from service.core.lifecycle import Operation
from service.core.observation import CreateAnswer
from service.core.ownership import callback_url, creation_label
from service.errors import AlreadyExists, CredentialsRejected, LeaseLost, NoCapacity, Refused, TryLater, Unconfirmed
from service.operations import binding, refusal, user_data
from service.operations.provider_calls import CallResult, acquire, credentials_rejected, make_call, record_results
from service.runtime.runtime import Runtime
from service.storage import calls, creations
from service.storage.calls import Call
from service.storage.creations import Creation, Leased
from service.storage.engine import transact


async def run_once(rt: Runtime) -> int:
    """Send what is due, within the budget; how many creations were sent or withdrawn."""
    # With a rejected key one creation at a time goes on knocking, so that a replaced key is noticed.
    at_once = 1 if credentials_rejected(rt) else rt.settings.create_concurrency
    leased = await transact(rt.engine, lambda conn: _lease(rt, conn, at_once))
    await asyncio.gather(*(_send(rt, one, call) for one, call in leased))
    return len(leased)


async def _lease(rt: Runtime, conn: AsyncConnection, at_once: int) -> list[tuple[Leased, Call]]:
    now = rt.clock.now()
    due = await creations.count_due(conn, now=now, limit=at_once)
    granted = await acquire(rt, conn, Operation.CREATE, due)
    if not granted:
        return []
    # A lease outlives the call it is for, so that only a process that died loses it.
    lease = timedelta(seconds=rt.settings.create_timeout + rt.settings.lease_margin_seconds)
    leased = await creations.claim_due(conn, now=now, lease=lease, token=rt.uuid(), limit=granted)
    to_send = [(one, _call(rt, one.creation)) for one in leased]
    await calls.begin(conn, [call for _, call in to_send])
    return to_send


def _call(rt: Runtime, creation: Creation) -> Call:
    return Call(
        submission_id=creation.submission_id,
        call_id=rt.uuid(),
        operation=Operation.CREATE,
        creation_no=creation.creation_no,
        attempt=creation.attempt,
        begun_at=rt.clock.now(),
    )


async def _send(rt: Runtime, leased: Leased, call: Call) -> None:
    async def create() -> CreateAnswer:
        _still_in_time(rt, leased.creation)
        return await rt.client.create(_body(rt, leased))

    asked = await make_call(rt, call, create)
    try:
        await transact(rt.engine, lambda conn: _settle(rt, conn, leased, asked))
    except LeaseLost:
        # Somebody took us for dead and will look for the VMs by their marks; what we know is kept all the same.
        await transact(rt.engine, lambda conn: record_results(rt, conn, [asked]))


def _still_in_time(rt: Runtime, creation: Creation) -> None:
    """Raise `TryLater` where the call could outlive its lease: this process was stopped for a while since it took it.

    By now others may have looked for its VMs in vain, and sent it again.
    """
    until = creation.lease_until
    if until is None or rt.clock.now() + timedelta(seconds=rt.settings.create_timeout) > until:
        raise TryLater("not sent: the process was held up for so long that its lease was nearly over")


def _body(rt: Runtime, leased: Leased) -> CreateBody:
    creation = leased.creation
    spec = VmSpec.model_validate(user_data.decrypted(rt, leased.spec))
    return CreateBody.of(
        spec,
        count=creation.vm_count,
        name=creation.name,
        labels=[*(spec.labels or ()), creation_label(creation.ref)],
        callback_url=callback_url(rt.public_url, creation.ref, rt.callback_secrets[0]),
    )


async def _settle(rt: Runtime, conn: AsyncConnection, leased: Leased, asked: CallResult[CreateAnswer]) -> None:
    await record_results(rt, conn, [asked])
    if asked.value is not None:
        await binding.complete_creation(rt, conn, leased.creation, asked.call, asked.value)
        return
    values = _after(rt, leased, asked)
    token = leased.creation.lease_token
    assert token is not None  # noqa: S101  a CHECK constraint: what is being called has a lease
    await creations.complete_if_leased(conn, leased.creation.ref, token, **values)
    if values["state"] == "refused":
        await refusal.refuse_vms(rt, conn, leased.creation, str(values["reason"]), evidence_id=asked.call.call_id)


def _after(rt: Runtime, leased: Leased, asked: CallResult[CreateAnswer]) -> dict[str, Any]:
    """What becomes of a creation that was not answered with VMs: the one place that switches on the errors."""
    now, attempt = rt.clock.now(), leased.creation.attempt
    later = now + rt.retry.after(attempt, rt.jitter())
    lookup_until = now + timedelta(seconds=rt.settings.lookup_window_seconds)
    expired = now >= leased.deadline_at
    match asked.error:
        case Unconfirmed() as error:
            return creations.unconfirmed(
                now + timedelta(seconds=rt.settings.lookup_first_seconds), lookup_until, str(error)
            )
        case AlreadyExists() as error:
            # The name is unique to the creation: if it is taken, an earlier attempt went through after all.
            return creations.unconfirmed(now, lookup_until, f"the name is taken: {error}")
        case CredentialsRejected() as error:
            return creations.due(now + timedelta(seconds=rt.settings.retry_cap_seconds), str(error))
        case (NoCapacity() | TryLater()) as error if not expired:
            return creations.due(later, str(error))
        case (NoCapacity() | TryLater()) as error:
            return creations.refused(now, f"not possible before the deadline: {error}")
        case Refused() as error:
            return creations.refused(now, str(error))
        case error:
            raise AssertionError(f"no answer and no error that a create may have: {error!r}")
