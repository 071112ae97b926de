"""Makes create calls: lease and count, call outside a transaction, and complete only while the lease holds."""

from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.alternatives import after_no_stock, after_refusal, spec_of
from service.core.create_body import CreateBody, VmSpec
from service.core.lifecycle import Operation
from service.core.observation import CreateAnswer
from service.core.submission import Policy
from service.errors import (
    AlreadyExists,
    CredentialsRejected,
    LeaseLost,
    NoBalance,
    NoCapacity,
    Refused,
    TryLater,
    Unconfirmed,
)
from service.operations import alternatives, binding, refusal, restored, user_data
from service.operations.creation_body import body_of
from service.operations.provider_calls import CallResult, acquire, credentials_rejected, make_call, record_results
from service.runtime.runtime import Runtime
from service.runtime.slots import Claimed, most_creates_of_one, slots
from service.storage import calls, creations, fair_claims
from service.storage.calls import Call
from service.storage.creations import Creation, Leased
from service.storage.engine import transact


async def run_once(rt: Runtime) -> int:
    """Send due creations, as many as there are slots, and wait for the answers. Returns how many."""
    claimed = await claim(rt, slots(rt.settings)["create"])
    return await claimed.make_calls()


async def claim(rt: Runtime, free: int) -> Claimed:
    """Lease up to `free` due creations, within the rate limit. Returns the calls that send them."""
    # With a rejected key, send one creation at a time, to notice a new key.
    at_once = min(free, 1) if credentials_rejected(rt) else free
    leased = await transact(rt.engine, lambda conn: _lease(rt, conn, at_once))
    return Claimed(len(leased), [partial(_send, rt, one, call) for one, call in leased])


async def _lease(rt: Runtime, conn: AsyncConnection, at_once: int) -> list[tuple[Leased, Call]]:
    now = rt.clock.now()
    most = most_creates_of_one(rt.settings)
    due = len(await fair_claims.due_creations(conn, now=now, limit=at_once, most=most))
    if due and await restored.look_first_if_restored(rt, conn):
        return []
    granted = await acquire(rt, conn, Operation.CREATE, due)
    if not granted:
        return []
    lease = rt.lease(rt.settings.create_timeout + alternatives.TIMEOUT)
    leased = await creations.claim_due(conn, now=now, lease=lease, token=rt.uuid(), limit=granted, most=most)
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


async def _send(rt: Runtime, claimed: Leased, call: Call) -> None:
    policy = Policy.model_validate(claimed.policy)
    leased = await alternatives.choose(rt, claimed, policy)

    async def create() -> CreateAnswer:
        body = _body(rt, leased, policy)
        _check_price(leased)
        _check_in_time(rt, leased.creation)
        return await rt.client.create(body)

    result = await make_call(rt, call, create)
    try:
        await transact(rt.engine, lambda conn: _complete(rt, conn, leased, result))
    except LeaseLost:
        # Another daemon took over and looks for the VMs by their tags. Record the end of the call all the same.
        await transact(rt.engine, lambda conn: record_results(rt, conn, [result]))


def _check_in_time(rt: Runtime, creation: Creation) -> None:
    """Raise `TryLater` if the call could outlive its lease, since the process was paused.

    Another daemon may have looked for the VMs in vain meanwhile, and sent it again.
    """
    until = creation.lease_until
    if until is None or rt.clock.now() + timedelta(seconds=rt.settings.create_timeout) > until:
        raise TryLater("not sent: the process was held up until its lease was nearly over", reason="held_up")


def _check_price(leased: Leased) -> None:
    """Raise `TryLater` if every alternative that is left costs too much."""
    if leased.creation.alternative in leased.passed_over:
        raise TryLater("not sent: each alternative left costs more than its max_price_per_hour", reason="too_dear")


def _body(rt: Runtime, leased: Leased, policy: Policy) -> CreateBody:
    creation = leased.creation
    spec = VmSpec.model_validate(user_data.decrypted(rt, leased.spec))
    spec = spec_of(spec, policy.alternatives, creation.alternative)
    return body_of(rt, spec, creation.ref, name=creation.name, count=creation.vm_count)


async def _complete(rt: Runtime, conn: AsyncConnection, leased: Leased, result: CallResult[CreateAnswer]) -> None:
    await record_results(rt, conn, [result])
    if result.value is not None:
        await binding.complete_creation(rt, conn, leased.creation, result.call, result.value)
        return
    policy = Policy.model_validate(leased.policy)
    values = _after_error(rt, leased, len(policy.alternatives) + 1, result)
    token = leased.creation.lease_token
    assert token is not None  # noqa: S101  a CHECK constraint: it has a lease while calling
    await creations.complete_if_leased(conn, leased.creation.ref, token, **values)
    if (chosen := values.get("alternative", leased.creation.alternative)) != leased.creation.alternative:
        await alternatives.write_choice(conn, leased, policy, chosen)
    if values["state"] == "refused":
        await refusal.refuse_vms(rt, conn, leased.creation, str(values["reason"]), evidence_id=result.call.call_id)


def _after_error(rt: Runtime, leased: Leased, choices: int, result: CallResult[CreateAnswer]) -> dict[str, Any]:
    """The next state of a creation whose call failed: the one place that switches on the errors."""
    now, creation = rt.clock.now(), leased.creation
    expired = now >= leased.creation.deadline_at
    match result.error:
        case Unconfirmed() as error:
            first = now + timedelta(seconds=rt.settings.lookup_first_seconds)
            return creations.unconfirmed(now, first, _lookup_until(rt, now), str(error))
        case AlreadyExists() as error:
            # The name is unique to the creation, so an earlier attempt went through, even if no list shows it yet. Look
            # it up, and never send it again under this name.
            until = max(_lookup_until(rt, now), leased.creation.deadline_at)
            reason = f"the provider says that its name is taken, so it may have been made: {error}"
            return creations.unconfirmed(now, now, until, reason, name_taken=True)
        case CredentialsRejected() as error:
            return creations.due(now + timedelta(seconds=rt.settings.retry_cap_seconds), str(error))
        case NoCapacity() as error if not expired:
            return _another(rt, leased, choices, error)
        case TryLater() as error if not expired:
            return creations.due(now + rt.retry.after(creation.attempt, rt.jitter()), str(error))
        case (NoCapacity() | TryLater()) as error:
            return creations.refused(now, f"not possible before the deadline: {error}")
        case Refused() as error:
            return _another_or_refused(rt, creation, choices, error)
        case error:
            raise AssertionError(f"no answer and no error that a create may have: {error!r}")


def _another(rt: Runtime, leased: Leased, choices: int, error: NoCapacity) -> dict[str, Any]:
    """Try the next alternative at once; after the last, the first again after a wait."""
    creation = leased.creation
    following = after_no_stock(choices, creation.alternative, {*creation.refused_alternatives, *leased.passed_over})
    wait = timedelta() if following.at_once else rt.retry.after(-(-creation.attempt // choices), rt.jitter())
    return creations.due(rt.clock.now() + wait, str(error)) | {"alternative": following.number}


def _another_or_refused(rt: Runtime, creation: Creation, choices: int, error: Refused) -> dict[str, Any]:
    """Try what is left after a refusal that repeating does not help, such as one of a region."""
    now, refused = rt.clock.now(), {*creation.refused_alternatives, creation.alternative}
    following = after_refusal(choices, creation.alternative, refused)
    if following is None or isinstance(error, NoBalance):
        return creations.refused(now, str(error))
    return creations.due(now, str(error)) | {"alternative": following, "refused_alternatives": sorted(refused)}


def _lookup_until(rt: Runtime, now: datetime) -> datetime:
    return now + timedelta(seconds=rt.settings.lookup_window_seconds)
