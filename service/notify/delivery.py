"""Delivers the messages of a lane one after the other, and decides what follows from each result."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from aiohttp import ClientSession
from msgspec.structs import replace

from service.core.backoff import Backoff
from service.errors import Undecryptable
from service.notify import apprise_target, log_target, webhook
from service.notify.result import DeliveryResult
from service.notify_rules import with_built_in
from service.operations import notify_url
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import messages, submissions
from service.storage.engine import begin, transact
from service.storage.messages import Attempt, LeasedLane, Message

_PAGE: Final = 50
#: How long one lane keeps its slot while there is more to deliver.
_TURN: Final = timedelta(seconds=20)
_MARGIN: Final = 10.0
#: Waits of one message, and of a lane whose target is away: long ones, since they go on for days.
_MESSAGE: Final = Backoff(first=5.0, cap=900.0, floor=1.0)
_LANE: Final = Backoff(first=1.0, cap=300.0, floor=0.5)


async def claim(rt: Runtime, free: int) -> list[LeasedLane]:
    """Lease at most `free` lanes that have something to deliver."""
    now, token = rt.clock.now(), rt.uuid()
    return await transact(
        rt.engine,
        lambda conn: messages.claim_lanes(conn, now=now, until=_until(rt, now), token=token, limit=free),
    )


async def deliver(rt: Runtime, leased: LeasedLane) -> None:
    """Deliver what is due in a lane until its target fails, its turn is over, or nothing is left."""
    began = rt.clock.now()
    failures, wait = leased.failures, timedelta()
    async with webhook.session(rt.settings) as client:
        sender = _Sender(rt, client)
        while page := await _due(rt, leased):
            for one in page:
                result = await sender.send(one)
                failures = failures + 1 if result.away else 0
                if not await _record(rt, leased, one, result, failures):
                    return  # another process has the lane now
                if result.away:
                    wait = max(_LANE.after(failures, rt.jitter()), result.retry_after or timedelta())
                    break
            if wait or rt.clock.now() - began > _TURN:
                break
    not_before = rt.clock.now() + wait
    await transact(rt.engine, partial(messages.release, leased=leased, not_before=not_before))


async def _due(rt: Runtime, leased: LeasedLane) -> Sequence[Message]:
    async with begin(rt.engine) as conn:
        return await messages.due(conn, leased.lane, now=rt.clock.now(), limit=_PAGE)


async def _record(rt: Runtime, leased: LeasedLane, one: Message, result: DeliveryResult, failures: int) -> bool:
    now = rt.clock.now()
    after = _after(rt, one, result, now)
    attempt = Attempt(message=after, failures=failures, error=result.error if result.away else None)
    rt.metrics.notifications.labels(one.target, "delivered" if result.error is None else "failed").inc()
    if after.state == "dead":
        logger().warning(
            "message not delivered", action="notify", outcome="dead", target=one.target, kind=one.kind,
            message_id=str(one.message_id), error=result.error,
        )  # fmt: skip
    return await transact(
        rt.engine, partial(messages.save_attempt, leased=leased, attempt=attempt, until=_until(rt, now))
    )


def _after(rt: Runtime, one: Message, result: DeliveryResult, now: datetime) -> Message:
    """The message after an attempt."""
    tried = replace(one, attempts=one.attempts + 1, status=result.status, error=result.error)
    if result.error is None:
        return replace(tried, state="delivered", due_at=None, ended_at=now)
    if result.final or now >= one.give_up_at:
        return replace(tried, state="dead", due_at=None, ended_at=now)
    wait = max(_MESSAGE.after(tried.attempts, rt.jitter()), result.retry_after or timedelta())
    return replace(tried, due_at=min(now + wait, max(one.give_up_at, now + timedelta(seconds=_MESSAGE.floor))))


def _until(rt: Runtime, now: datetime) -> datetime:
    return now + timedelta(seconds=rt.settings.notify_timeout_seconds + _MARGIN)


@dataclass(frozen=True, slots=True)
class _Sender:
    rt: Runtime
    client: ClientSession

    async def send(self, one: Message) -> DeliveryResult:
        """Send a message to its target, as the target is now."""
        if one.target == notify_url.TARGET:
            return await self._to_submission(one)
        target = {known.name: known for known in with_built_in(self.rt.settings.notify)}.get(one.target)
        if target is None:
            return DeliveryResult(error="there is no such target in ROLLCALL_NOTIFY any more", final=True)
        if target.sort == "log":
            return log_target.write(one)
        url = target.to.get_secret_value()
        if target.sort == "apprise":
            return await apprise_target.send(url, one, self.rt.settings)
        return await self._to_webhook(url, [key.get_secret_value() for key in target.secrets], one)

    async def _to_submission(self, one: Message) -> DeliveryResult:
        async with begin(self.rt.engine) as conn:
            found = await submissions.get(conn, one.submission_id)
        if found is None or found.notify is None:
            return DeliveryResult(error="the submission has no notify_url", final=True)
        try:
            url = notify_url.decrypted(self.rt, found.notify)
        except Undecryptable:
            return DeliveryResult(error="notify_url cannot be decrypted with the present callback secrets")
        return await self._to_webhook(url, notify_url.signing_keys(self.rt, one.submission_id), one)

    async def _to_webhook(self, url: str, keys: Sequence[str], one: Message) -> DeliveryResult:
        return await webhook.send(self.client, url, keys, one, now=self.rt.clock.now())
