"""Handlers of submissions: create, list, show and cancel them."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from service.api import dry_run, query, refs, serializers
from service.api.context import CALLER, COUNTED_AT, PREFLIGHT, SAMPLED, answer, caller, decoded, first, page, runtime
from service.core.journey import request_span
from service.core.lifetime import SubmissionChange
from service.core.validation import validate
from service.errors import FieldError, Invalid, NotFound
from service.operations import deletion, lifetime, notify_url, submission, token_limits
from service.queries import fleet_samples, names
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import actions, submissions
from service.storage.engine import begin
from service.storage.submissions import Submission, Tally

_LOG = logger(room="api")


async def create(request: web.Request) -> web.Response:
    """Create a submission: 201, or 200 with the first one if the key and the body were sent before.

    With `dry_run` nothing is kept, and 200 shows what would be done.
    """
    rt = runtime(request)
    wanted = query.read(query.SubmitQuery, request)
    key = request.headers.get("Idempotency-Key")
    began, parent, token_id = rt.clock.now(), request.headers.get("traceparent", ""), request[CALLER].token_id
    content = await decoded(request)
    new = submission.read(content, caller=caller(request), key=key, token_id=token_id, traceparent=parent)
    findings = await request.app[PREFLIGHT].check(new.request, stock=wanted.dry_run)
    if wanted.dry_run:
        async with begin(rt.engine) as conn:
            hardware = findings.advice.hardware
            too_much = await token_limits.check(rt, conn, token_id, new.request, hardware, lock=False)
        return answer(dry_run.shown(rt, new.request, findings, too_much))
    submission_id, is_new = await submission.submit(rt, new, findings.advice)
    if is_new:
        _LOG.info(
            "submission created",
            action="submit",
            submission_id=str(submission_id),
            count=new.request.count,
            caller=new.caller,
        )
    location = {"Location": f"/v1/submissions/{submission_id}"}
    made = await _response(rt, submission_id)
    if new.request.notify_url is not None:
        made["notify_secret"] = notify_url.signing_keys(rt, submission_id)[0]
    if rt.traces is not None and is_new:
        about: dict[str, str | int] = {"rollcall.count": new.request.count, "rollcall.requested_by": new.caller}
        rt.traces.add(request_span(submission_id, new.traceparent, start=began, end=rt.clock.now(), attributes=about))
    return answer(made, status=201 if is_new else 200, headers=location)


async def index(request: web.Request) -> web.Response:
    """A page of submissions, newest first."""
    wanted = query.read(query.SubmissionQuery, request)
    async with begin(runtime(request).engine) as conn:
        found = await submissions.page(conn, state=wanted.state, before=wanted.cursor, limit=wanted.limit + 1)
        some, following = first(found, wanted.limit, lambda one: str(one.submission_id))
        items = await _with_tallies(conn, some, await _sampled(request, conn, some))
    return page(items, following)


async def show(request: web.Request) -> web.Response:
    """A submission, with its counts."""
    submission_id = await _named(request)
    async with begin(runtime(request).engine) as conn:
        found = await _existing(conn, submission_id)
        return answer((await _with_tallies(conn, [found], await _sampled(request, conn, [found])))[0])


async def change(request: web.Request) -> web.Response:
    """Change when a submission's VMs are deleted, or whether its count is kept."""
    return answer(await changed(request, await decoded(request)))


async def changed(request: web.Request, body: Mapping[str, Any]) -> dict[str, Any]:
    """The submission that a request names, after a change. Raises `Invalid`, and `NotAllowed` if it is too late."""
    rt = runtime(request)
    wanted = validate(SubmissionChange, body)
    if not wanted.model_fields_set:
        raise Invalid([FieldError("body", "must hold lifetime, expires_at or maintain")])
    submission_id = await _named(request)
    await lifetime.change(rt, submission_id, wanted, caller=caller(request))
    _LOG.info("submission changed", action="change", submission_id=str(submission_id), caller=caller(request))
    return await _response(rt, submission_id)


async def cancel(request: web.Request) -> web.Response:
    """Cancel a submission: 202 with the submission, since deleting its VMs takes a while."""
    rt = runtime(request)
    submission_id = await _named(request)
    await deletion.cancel(rt, submission_id, caller=caller(request))
    _LOG.info("submission cancelled", action="cancel", submission_id=str(submission_id), caller=caller(request))
    return answer(await _response(rt, submission_id), status=202)


async def _named(request: web.Request) -> UUID:
    async with begin(runtime(request).engine) as conn:
        return await refs.submission_id(conn, request.match_info["id"])


async def _response(rt: Runtime, submission_id: UUID) -> dict[str, Any]:
    async with begin(rt.engine) as conn:
        return (await _with_tallies(conn, [await _existing(conn, submission_id)], {}))[0]


async def _existing(conn: AsyncConnection, submission_id: UUID) -> Submission:
    found = await submissions.get(conn, submission_id)
    if found is None:
        raise NotFound(f"there is no submission {submission_id}")
    return found


async def _sampled(request: web.Request, conn: AsyncConnection, found: list[Submission]) -> Mapping[UUID, Tally]:
    """Tallies as they were sampled, if the request may be answered with them."""
    if not request.get(SAMPLED):
        return {}
    ids = [one.submission_id for one in found]
    tallies, counted_at = await fleet_samples.tallies(conn, ids, now=runtime(request).clock.now())
    if counted_at is not None:
        request[COUNTED_AT] = counted_at
    return tallies


async def _with_tallies(
    conn: AsyncConnection, found: list[Submission], sampled: Mapping[UUID, Tally]
) -> list[dict[str, Any]]:
    ids = [one.submission_id for one in found]
    tallies = {**sampled, **await submissions.tallies(conn, [one for one in ids if one not in sampled])}
    performed = await actions.of_submissions(conn, ids)
    due = await names.next_attempts(conn, ids)
    return [
        serializers.submission(
            one, tallies[one.submission_id], performed[one.submission_id], next_attempt_at=due.get(one.submission_id)
        )
        for one in found
    ]
