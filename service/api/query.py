"""Query parameters: a model for each list. The OpenAPI document is made from them too.

An unknown parameter is an error: if a mistyped filter were ignored, the list would show the wrong VMs.
"""

from typing import Annotated, Final, Literal, Self, TypeVar
from uuid import UUID

from aiohttp import hdrs, web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from service.core.contract import Assignment
from service.core.create_body import wrong
from service.core.duration import Moment
from service.core.lifecycle import VmState
from service.core.submission import SubmissionState
from service.core.validation import validate
from service.errors import FieldError, Invalid

LARGEST_ID: Final = 2**31 - 1
EventSource = Literal["callback", "history"]
NO_NUL: Final = r"^[^\x00]*$"
_REF: Final = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[0-9]{1,9}$"
Model = TypeVar("Model", bound=BaseModel)


def _true_or_false(value: object) -> object:
    # Only true and false: pydantic would also accept "yes", "1" and "off".
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


Flag = Annotated[bool, BeforeValidator(_true_or_false), Field(strict=True)]


class Query(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class PageQuery(Query):
    limit: int = Field(default=100, ge=1, le=1000, description="how many items at most")


class OfferQuery(Query):
    name: str | None = Field(default=None, max_length=200, description="only those with these words in their names")


class RegionOfferQuery(OfferQuery):
    region: str | None = Field(default=None, max_length=200, description="only those of this region")


class FlavorOfferQuery(RegionOfferQuery):
    gpu: str | None = Field(default=None, max_length=200, description="only those with these words in their GPU model")
    in_stock: Flag | None = Field(default=None, description="only those that the provider says it has, or has not")


class KeyOfferQuery(OfferQuery):
    environment: str | None = Field(default=None, max_length=200, description="only those of this environment")


class ContractOfferQuery(Query):
    gpu: str | None = Field(default=None, max_length=200, description="only those that cover such a GPU model")


class StockQuery(Query):
    region: str | None = Field(default=None, max_length=200, description="only of this region")
    gpu: str | None = Field(default=None, max_length=200, description="only of GPU models with these words")


class SubmitQuery(Query):
    dry_run: Flag = Field(default=False, description="only show what would be done: nothing is kept or created")


class ImportQuery(Query):
    dry_run: Flag = Field(default=False, description="only show what would be imported: nothing is kept or attached")


class SubmissionQuery(PageQuery):
    state: SubmissionState | None = Field(default=None, description="only submissions in this state")
    cursor: UUID | None = Field(default=None, description="`next` of the page before")


class VmQuery(PageQuery):
    submission_id: UUID | None = Field(default=None, description="only VMs of this submission")
    state: VmState | None = Field(default=None, description="only VMs in this state")
    assignment: Assignment | None = Field(default=None, description="only VMs whose contract is in this state")
    ready: Flag | None = Field(default=None, description="only VMs that are, or are not, ready")
    stuck: Flag | None = Field(default=None, description="only VMs that are, or are not, stuck")
    region: str | None = Field(default=None, pattern=NO_NUL, description="only VMs in this region")
    flavor: str | None = Field(default=None, pattern=NO_NUL, description="only VMs of this flavor")
    contract_id: int | None = Field(default=None, gt=0, le=LARGEST_ID, description="only VMs on this contract")
    contract_requested: int | None = Field(
        default=None, gt=0, le=LARGEST_ID, description="only VMs that are, or should be, on this contract"
    )
    name: str | None = Field(default=None, pattern=NO_NUL, description="only VMs with this in their names")
    alive: Flag | None = Field(default=None, description="only VMs that have not, or have, ended")
    cursor: str | None = Field(default=None, pattern=_REF, description="`next` of the page before")


class TimelineQuery(PageQuery):
    limit: int = Field(default=1000, ge=1, le=10_000, description="how many items at most")
    cursor: str | None = Field(default=None, max_length=200, description="`next` of the page before")


class OrphanQuery(PageQuery):
    submission_id: UUID | None = Field(default=None, description="only orphans of this submission")
    cursor: str | None = Field(
        default=None, pattern=r"^[0-9]{1,17}\.[0-9]{1,18}$", description="`next` of the page before"
    )


class TimeRangeQuery(PageQuery):
    """A listing of what happened at a time."""

    since: Moment | None = Field(default=None, description="only from this time on")
    until: Moment | None = Field(default=None, description="only before this time")

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise wrong("since must be before until")
        return self


A_VM: Final = "only those about this VM: the provider's id, SUBMISSION.N, or its name"


class EventQuery(TimeRangeQuery):
    vm: str | None = Field(default=None, pattern=NO_NUL, max_length=200, description=A_VM)
    submission_id: UUID | None = Field(default=None, description="only events of this submission")
    creation_no: int | None = Field(
        default=None, ge=1, le=LARGEST_ID, description="only those of this creation of the submission"
    )
    dead_letter: Literal["unreadable", "unknown_vm", "failed", "any"] | None = Field(
        default=None,
        description="only dead letters, for this reason; also if the event itself was dropped",
    )
    source: EventSource | None = Field(
        default=None, description="only callbacks, or only entries of the provider's event history"
    )
    cursor: str | None = Field(
        default=None,
        pattern=r"^[0-9]{1,17}(\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}){2}$",
        description="`next` of the page before",
    )

    @model_validator(mode="after")
    def _a_creation_is_a_submissions(self) -> Self:
        if self.creation_no is not None and self.submission_id is None:
            raise wrong("creation_no needs submission_id: creations are numbered within a submission")
        return self


class CallQuery(TimeRangeQuery):
    vm: str | None = Field(default=None, pattern=NO_NUL, max_length=200, description=A_VM)
    submission_id: UUID | None = Field(default=None, description="only calls for this submission")
    operation: str | None = Field(
        default=None, pattern=NO_NUL, max_length=100, description="only this operation, such as create"
    )
    outcome: str | None = Field(
        default=None,
        pattern=NO_NUL,
        max_length=100,
        description="only this outcome: ok, the kind of an error, or none if the end of the call is not on record",
    )
    cursor: str | None = Field(
        default=None,
        pattern=r"^[0-9]{1,17}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        description="`next` of the page before",
    )


class NotificationQuery(PageQuery):
    submission_id: UUID | None = Field(default=None, description="only messages about this submission")
    target: str | None = Field(default=None, pattern=NO_NUL, max_length=100, description="only messages to this target")
    kind: str | None = Field(default=None, pattern=NO_NUL, max_length=100, description="only of this kind of event")
    state: Literal["due", "delivered", "dead"] | None = Field(
        default=None, description="only messages that wait, were delivered, or are dead letters"
    )
    cursor: UUID | None = Field(default=None, description="`next` of the page before")


class FleetQuery(Query):
    submission_id: UUID | None = Field(default=None, description="only this submission, with its evidence counts")


_KNOWN_AT: Final = (
    "as it happened, as far as it was on record at this moment; if left out, as it was on record at `time`"
)


class FleetAtQuery(Query):
    time: Moment = Field(description="the moment, not in the future")
    known_at: Moment | None = Field(default=None, description=_KNOWN_AT)
    submission_id: UUID | None = Field(default=None, description="only this submission")


class VmsAtQuery(PageQuery):
    time: Moment = Field(description="the moment, not in the future")
    known_at: Moment | None = Field(default=None, description=_KNOWN_AT)
    submission_id: UUID | None = Field(default=None, description="only VMs of this submission")
    state: VmState | None = Field(default=None, description="only VMs that were in this state")
    cursor: str | None = Field(default=None, pattern=_REF, description="`next` of the page before")


class DiffQuery(PageQuery):
    model_config = ConfigDict(validate_by_alias=True)

    from_: Moment = Field(alias="from", description="the earlier moment")
    to: Moment = Field(description="the later moment, not in the future")
    submission_id: UUID | None = Field(default=None, description="only VMs of this submission")
    cursor: str | None = Field(default=None, pattern=_REF, description="`next` of the page before")

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.from_ >= self.to:
            raise wrong("from must be before to")
        return self


class OffContractQuery(PageQuery):
    since: Moment | None = Field(default=None, description="when the period begins; the beginning if left out")
    until: Moment | None = Field(default=None, description="when it ends, not in the future; now if left out")
    submission_id: UUID | None = Field(default=None, description="only VMs of this submission")
    cursor: str | None = Field(
        default=None,
        pattern=_REF.removesuffix("$") + r"\.[0-9]{1,17}$",
        description="`next` of the page before; give its `until` too",
    )


def read(model: type[Model], request: web.Request) -> Model:
    """The request's query. Raises `Invalid` with every wrong parameter."""
    given = request.query
    twice = sorted({name for name in given if len(given.getall(name)) > 1})
    if twice:
        raise Invalid([FieldError(name, "is given more than once") for name in twice])
    return validate(model, dict(given))


def wants_csv(request: web.Request, wanted: str | None) -> bool:
    """Whether a report should be CSV: by its parameter `format`, or by the header Accept if that was left out."""
    if wanted is not None:
        return wanted == "csv"
    return any(one.partition(";")[0].strip() == "text/csv" for one in request.headers.get(hdrs.ACCEPT, "").split(","))
