"""Changes to a submission; when its VMs are deleted by themselves, and when that is announced. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import Field, field_validator

from service.core.create_body import Part
from service.core.duration import Duration, Moment, text_of
from service.core.maintain import Maintain
from service.core.submission import TEN_YEARS, Policy, one_end
from service.errors import FieldError

_LONGEST_NOTICE: Final = timedelta(hours=1)


class SubmissionChange(Part):
    """The body of `PATCH /v1/submissions/{id}`: what is left out stays as it is.

    With `lifetime` or `expires_at`, the other one is null: there is one end. null means that nobody deletes the VMs.
    """

    lifetime: Duration | None = Field(
        default=None, gt=0, le=TEN_YEARS, description="the whole lifetime, from when the submission was ready or failed"
    )
    expires_at: Moment | None = Field(
        default=None, validate_default=True, description="when the VMs are deleted; instead of `lifetime`"
    )
    maintain: Maintain | None = Field(
        default=None, description="whether VMs that fail after they were ready are replaced"
    )

    _one_end = field_validator("expires_at")(one_end)

    @property
    def moves_the_end(self) -> bool:
        return not self.model_fields_set.isdisjoint({"lifetime", "expires_at"})


def notice_at(expires_at: datetime, now: datetime) -> datetime:
    """When an expiry is announced: an hour before, or when a tenth of the time is left if that is later."""
    return expires_at - min(_LONGEST_NOTICE, max(timedelta(), expires_at - now) / 10)


def late_expiry(policy: Policy, now: datetime) -> list[FieldError]:
    """What is wrong with the times of a request that is right in itself."""
    if policy.expires_at is not None and policy.expires_at <= now:
        return [FieldError("policy.expires_at", f"is {policy.expires_at:%Y-%m-%dT%H:%M:%SZ}, which has passed")]
    return []


def changed_policy(policy: Mapping[str, Any], change: SubmissionChange) -> dict[str, Any]:
    """The policy with what a change gives."""
    given = change.model_dump(mode="json")
    changed = dict(policy)
    if change.moves_the_end:
        changed |= {"lifetime": given["lifetime"], "expires_at": given["expires_at"]}
    return changed if change.maintain is None else {**changed, "maintain": given["maintain"]}


def expiry(change: SubmissionChange, ended_at: datetime | None) -> datetime | None:
    """When a submission expires after a change; None if never, or not before it is ready or has failed."""
    if change.lifetime is not None:
        return None if ended_at is None else ended_at + timedelta(seconds=change.lifetime)
    return change.expires_at


def extended(submission: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The change that lets a submission's VMs live longer, from how the API shows it. Empty if nothing deletes them by itself."""
    if submission["expires_at"]:
        later = datetime.fromisoformat(submission["expires_at"]) + timedelta(seconds=seconds)
        return {"expires_at": later.isoformat().replace("+00:00", "Z")}
    lifetime = submission["policy"].get("lifetime")
    return {} if lifetime is None else {"lifetime": lifetime + seconds}


def reason_of(policy: Mapping[str, Any], expires_at: datetime) -> str:
    """Why the VMs are deleted, for people."""
    lifetime = policy.get("lifetime")
    if lifetime is not None:
        return f"its lifetime of {text_of(float(lifetime))} is over"
    return f"it expired at {expires_at:%Y-%m-%dT%H:%M:%SZ}"
