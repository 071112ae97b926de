"""Creates a submission with its creations and VMs, in one transaction, once for each idempotency key."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core import planning, trace_context
from service.core.catalogue import Advice
from service.core.lifetime import notice_at
from service.core.limits import limits_of
from service.core.planning import Plan
from service.core.submission import SubmissionRequest, validate_submission
from service.errors import FieldError, Invalid
from service.operations import notify_url, token_limits, user_data
from service.runtime.runtime import Runtime
from service.storage import actions, creations, submissions, vms
from service.storage.actions import Action
from service.storage.creations import Creation
from service.storage.engine import transact
from service.storage.submissions import Submission

#: VMs that one statement writes: a submission may have 100,000, and callbacks must not wait for all of them.
_SET: Final = 500
_LONGEST_KEY: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSubmission:
    """A valid request, its caller, and the digests of its key and body."""

    request: SubmissionRequest
    caller: str
    key: bytes | None
    body: bytes
    token_id: UUID | None = None  #: the API token of the caller, whose limits hold; None for one of the settings
    traceparent: str | None = None  #: of the request, if it is valid


def read(
    body: Mapping[str, Any], *, caller: str, key: str | None, token_id: UUID | None = None, traceparent: str = ""
) -> NewSubmission:
    """Read a request. Raises `Invalid` with every invalid field."""
    field_errors = _errors_of_key(key)
    try:
        request = validate_submission(body)
    except Invalid as error:
        raise Invalid([*field_errors, *error.field_errors]) from None
    field_errors += planning.unstorable_fields(request)
    if field_errors:
        raise Invalid(field_errors)
    return NewSubmission(
        request=request,
        caller=caller,
        key=_digest(key.encode()) if key else None,
        body=_digest(request.canonical()),
        token_id=token_id,
        traceparent=traceparent.strip() if trace_context.parse(traceparent) else None,
    )


async def submit(rt: Runtime, new: NewSubmission, advice: Advice) -> tuple[UUID, bool]:
    """Store a request. Returns the submission's id, and whether it is new.

    A repeated key with the same body gives the first submission and changes nothing, whatever the catalogue says now.
    Raises `KeyConflict` for another body, and `Invalid` if a new request does not fit the catalogue or its token.
    """
    # One id for all runs: after a lost commit the transaction runs again, and must recognise itself.
    return await transact(rt.engine, partial(_submit, rt, new, advice, rt.uuid()))


async def _submit(
    rt: Runtime, new: NewSubmission, advice: Advice, submission_id: UUID, conn: AsyncConnection
) -> tuple[UUID, bool]:
    now = rt.clock.now()
    if await submissions.get(conn, submission_id) is not None:
        return submission_id, True
    if new.key is not None:
        first = await submissions.take_key(
            conn, caller=new.caller, key=new.key, body=new.body, submission_id=submission_id, now=now
        )
        if first != submission_id:
            return first, False
    too_much = await token_limits.check(rt, conn, new.token_id, new.request, advice.hardware)
    if advice.field_errors or too_much:
        raise Invalid([*advice.field_errors, *too_much])
    plan = planning.plan(new.request, submission_id, now, advice.hardware)
    submission = _submission(rt, plan, new, [*new.request.warnings, *advice.warnings])
    await _insert(conn, plan, submission)
    request = Action(submission_id=submission_id, action_id=rt.uuid(), kind="submit", caller=new.caller, at=now)
    await actions.insert(conn, request)
    return submission_id, True


async def _insert(conn: AsyncConnection, plan: Plan, submission: Submission) -> None:
    await submissions.insert_one(conn, submission)
    await creations.insert(conn, _creations(plan))
    for some in planning.batched(plan.vms(), _SET):
        await vms.insert(conn, some)


def _submission(rt: Runtime, plan: Plan, new: NewSubmission, warnings: Sequence[str]) -> Submission:
    request = plan.request
    return Submission(
        submission_id=plan.submission_id,
        name=request.name,
        count=request.count,
        spec=user_data.encrypted(rt, request.spec().to_json()),
        policy=request.policy.model_dump(mode="json"),
        notify=notify_url.encrypted(rt, request.notify_url),
        hardware=[list(one) for one in plan.hardware],
        reasons=[],
        warnings=list(warnings),
        requested_by=new.caller,
        traceparent=new.traceparent,
        next_creation_no=len(plan.creations) + 1,
        next_vm_no=request.count + 1,
        created_at=plan.at,
        deadline_at=plan.deadline_at,
        maintained_since=plan.at if request.policy.maintain.enabled else None,
        limit_due_at=plan.at if limits_of(request.policy).of_money else None,
        expires_at=request.policy.expires_at,
        expiry_notice_at=request.policy.expires_at and notice_at(request.policy.expires_at, plan.at),
    )


def _creations(plan: Plan) -> list[Creation]:
    return [
        Creation(
            submission_id=plan.submission_id,
            creation_no=one.creation_no,
            vm_count=len(one.vm_nos),
            name=one.name,
            due_at=plan.at,
            created_at=plan.at,
            deadline_at=plan.deadline_at,
        )
        for one in plan.creations
    ]


def _errors_of_key(key: str | None) -> list[FieldError]:
    if key is None or (0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        return []
    return [FieldError("Idempotency-Key", f"must have 1 to {_LONGEST_KEY} printable ASCII characters")]


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
