"""The response to `dry_run`: what a submission would do, with nothing kept."""

from collections.abc import Sequence
from typing import Any

from service.api.preflight import Findings
from service.core import planning
from service.core.submission import SubmissionRequest
from service.core.token import CreationRef
from service.errors import FieldError, Invalid
from service.operations.creation_body import body_of
from service.runtime.runtime import Runtime


def shown(
    rt: Runtime, request: SubmissionRequest, findings: Findings, too_much: Sequence[FieldError]
) -> dict[str, Any]:
    """The create calls that a request would become, and what is known about it now. Raises `Invalid` if it would be refused.

    `too_much` are the limits of its token that it would pass.
    """
    if findings.advice.field_errors or too_much:
        raise Invalid([*findings.advice.field_errors, *too_much])
    plan = planning.plan(request, rt.uuid(), rt.clock.now())
    first = plan.creations[0]
    ref = CreationRef(plan.submission_id, first.creation_no)
    body = body_of(rt, request.spec(), ref, name=first.name, count=len(first.vm_nos))
    return {
        "dry_run": True,
        "count": request.count,
        "creations": [{"creation_no": one.creation_no, "vm_count": len(one.vm_nos)} for one in plan.creations],
        "first_body": body.redacted(),
        "choices": findings.choices,
        "warnings": [*request.warnings, *findings.advice.warnings],
        "policy": request.policy.model_dump(mode="json"),
    }
