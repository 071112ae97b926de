"""A request for VMs: any number of one spec, and a policy for what goes wrong. The spec is in `create_body.py`."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, Strict, ValidationInfo, field_validator, model_validator

from service.core.alternatives import MOST, Alternative, spec_of
from service.core.amount import Amount
from service.core.create_body import MAX_CALLBACK_URL, MAX_COUNT, Part, VmSpec, validate, wrong
from service.core.duration import Duration, Moment, read_duration, text_of
from service.core.maintain import Maintain
from service.notify_rules import webhook_errors

MAX_VMS = 100_000
DAY = 86_400.0
#: Longer than anyone waits, and short enough for all arithmetic with times.
TEN_YEARS = 3650 * DAY


class SubmissionState(StrEnum):
    """The state of a submission. All but `open` are final."""

    OPEN = "open"  #: some VMs are not ready yet
    READY = "ready"  #: all its VMs were ready at once
    FAILED = "failed"  #: some VMs can no longer become ready, or the deadline has passed
    CANCELLED = "cancelled"  #: a caller cancelled it; its VMs are deleted


def one_end(expires_at: datetime | None, info: ValidationInfo) -> datetime | None:
    """Refuse a time of expiry beside a lifetime: a validator of `expires_at`, which stands behind `lifetime`."""
    if expires_at is not None and info.data.get("lifetime") is not None:
        raise wrong("must be left out with lifetime: the VMs are deleted once")
    return expires_at


class ContractRetry(Part):
    """How to get a VM onto its contract."""

    means: Literal["auto", "reassign", "replace"] = Field(
        default="auto", description="reassign if such a call is configured, otherwise replace; or always one of them"
    )
    attempts: int = Field(
        default=20, ge=1, le=10_000, description="how often to try for each VM; waiting for room is no attempt"
    )
    deadline_seconds: Duration = Field(default=DAY, gt=0, le=TEN_YEARS, description="how long to try")
    first_wait_seconds: Duration = Field(
        default=30, gt=0, le=TEN_YEARS, description="the first wait; it doubles with each attempt"
    )
    max_wait_seconds: Duration = Field(default=900, gt=0, le=TEN_YEARS, description="the longest wait between attempts")
    replace_grace_seconds: Duration = Field(
        default=3600, ge=0, le=TEN_YEARS, description="a VM that has been ACTIVE for longer is never replaced"
    )
    replace_order: Literal["create_first", "delete_first"] = Field(
        default="create_first",
        description="delete the old VM once the new one is on the contract, or before the new one is created",
    )
    max_replacing: int = Field(default=10, ge=1, le=MAX_VMS, description="how many VMs are replaced at once, at most")
    then: Literal["keep", "delete"] = Field(default="keep", description="what to do when attempts or time run out")


class Policy(Part):
    """What to do if the provider does not do as requested.

    Durations are seconds, or text such as 30m, 2h and 7d; they are shown in seconds.
    """

    on_contract_error: Literal["retry", "keep", "fail"] = Field(
        default="retry", description="when a VM runs on demand although a contract was requested"
    )
    require_contract: bool = Field(
        default=False, description="refuse the submission unless its contract has room for all of its VMs now"
    )
    retry: ContractRetry = Field(default=ContractRetry(), description="how to retry a contract assignment")
    on_orphan: Literal["report", "adopt", "delete"] = Field(
        default="report", description="when a VM with our ownership tags appears that no creation waits for"
    )
    on_stuck: Literal["report", "replace"] = Field(
        default="report", description="when a VM does not become ready, or is in ERROR"
    )
    stuck_after_seconds: Duration = Field(default=3600, gt=0, le=TEN_YEARS, description="when a VM counts as stuck")
    alternatives: Annotated[tuple[Alternative, ...], Strict(strict=False)] = Field(
        default=(),
        max_length=MOST,
        description="what to create instead, in this order, if there is no stock or the region is refused",
    )
    max_price_per_hour: Amount | None = Field(
        default=None, description="what all VMs may cost per hour together, in the currency of the price book"
    )
    max_cost: Amount | None = Field(default=None, description="what all VMs may cost in all; an estimate is compared")
    on_limit: Literal["report", "stop_replacing", "delete"] = Field(
        default="report", description="when a limit is passed later: report it, replace no VM any more, or delete all"
    )
    maintain: Maintain = Field(
        default=Maintain(), description="replace VMs that are LOST, in ERROR or deleted by others after they were ready"
    )
    lifetime: Duration | None = Field(
        default=None,
        gt=0,
        le=TEN_YEARS,
        description="delete all VMs this long after the submission is ready, or has failed; null is never",
    )
    expires_at: Moment | None = Field(
        default=None, description="delete all VMs at this time, ready or not; instead of `lifetime`"
    )
    deadline_seconds: Duration = Field(
        default=DAY,
        gt=0,
        le=TEN_YEARS,
        description="how long to try to have all VMs ready; by default no longer than the lifetime",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_default_no_longer_than_the_lifetime(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "deadline_seconds" in given:
            return given
        lifetime = read_duration(given.get("lifetime"))
        return {**given, "deadline_seconds": min(DAY, lifetime)} if lifetime else given

    @property
    def repairs(self) -> bool:
        """Whether VMs that fail after they were ready are replaced."""
        return self.maintain.enabled or self.on_stuck == "replace"

    _one_end = field_validator("expires_at")(one_end)

    @field_validator("deadline_seconds")
    @classmethod
    def _ends_before_the_lifetime(cls, deadline: float, info: ValidationInfo) -> float:
        lifetime = info.data.get("lifetime")
        if lifetime is not None and lifetime < deadline:
            first = f"is {text_of(lifetime)}, shorter than the deadline of {text_of(deadline)}"
            raise wrong(f"{first}: VMs would be deleted while others are still being created", field="lifetime")
        return deadline


class SubmissionRequest(VmSpec):
    """The body of `POST /v1/submissions`: the provider's create fields, `count` of any size, and a policy."""

    count: int = Field(ge=1, le=MAX_VMS, description=f"how many VMs, 1 to {MAX_VMS}")
    policy: Policy = Field(default=Policy(), description="what to do if the provider does not do as requested")
    callback_url: str | None = Field(
        default=None,
        max_length=MAX_CALLBACK_URL,
        repr=False,
        description="accepted and not used: Rollcall gives each create call a callback URL of its own",
    )

    notify_url: str | None = Field(
        default=None, repr=False, description="where to send signed messages about this submission and its VMs"
    )

    @field_validator("notify_url")
    @classmethod
    def _is_a_webhook(cls, url: str | None) -> str | None:
        if url is not None and (errors := webhook_errors(url)):
            raise wrong("; ".join(errors))
        return url

    @field_validator("policy")
    @classmethod
    def _alternatives_differ(cls, policy: Policy, info: ValidationInfo) -> Policy:
        if policy.alternatives and info.data.get("flavor") is not None:
            raise wrong("must be left out with a custom flavor", field="policy.alternatives")
        seen = {(info.data.get("flavor_name"), info.data.get("environment_name"))}
        for number, one in enumerate(policy.alternatives):
            where = (one.flavor_name, one.environment_name)
            if where in seen:
                field = f"policy.alternatives.{number}"
                raise wrong("has the flavor and the environment of one before it", field=field)
            seen.add(where)
        return policy

    def choice(self, number: int) -> Self:
        """The request with what an alternative changes; 0 is the request itself."""
        return spec_of(self, self.policy.alternatives, number)

    @property
    def choices(self) -> range:
        """The numbers of what may be created: 0 is the request itself, the others its alternatives."""
        return range(len(self.policy.alternatives) + 1)

    @property
    def warnings(self) -> list[str]:
        """What the request asks for and does not get."""
        if self.callback_url is None:
            return []
        return [
            "callback_url is not used: Rollcall gives each create call one of its own, and relays no events to yours"
        ]

    def canonical(self) -> bytes:
        """The same bytes for all requests with the same meaning (7200 and 7200.0, null and absent)."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True).encode()

    def spec(self) -> VmSpec:
        """The request without count and policy."""
        return VmSpec.model_validate(
            {k: v for k, v in self.to_json().items() if k in VmSpec.model_fields},
        )


def validate_submission(data: Mapping[str, Any]) -> SubmissionRequest:
    """Read a request. Raises `Invalid` with every error."""
    return validate(SubmissionRequest, data)


def cut(count: int, first_vm_no: int = 1) -> Iterator[range]:
    """The VM numbers of each creation: at most 20 VMs go into one create call (the create page, `count`)."""
    end = first_vm_no + count
    for start in range(first_vm_no, end, MAX_COUNT):
        yield range(start, min(start + MAX_COUNT, end))
