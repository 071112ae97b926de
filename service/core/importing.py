"""VMs that others made, and that are to be watched: which of those that the provider shows are imported. Pure."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Final

from pydantic import Field, Strict, model_validator

from service.core.create_body import Part, Text, wrong
from service.core.lifecycle import VmState, state_of
from service.core.observation import Observation
from service.core.submission import Policy
from service.errors import FieldError

#: VMs of one import. Each may cost two calls, and the request waits for them.
MOST: Final = 500
#: What imported VMs are never: replaced, reassigned, or deleted by a policy.
POLICY: Final = Policy(on_contract_error="keep")
_GOING: Final = frozenset({VmState.DELETING, VmState.DELETED})


class ImportRequest(Part):
    """The body of `POST /v1/imports`: which VMs, by any of `ids`, `name_pattern`, `environment` and `label` together."""

    name: Text = Field(default="imported", max_length=50, description="the name of the submission that they get")
    ids: Annotated[tuple[Annotated[int, Field(gt=0, lt=2**63)], ...], Strict(strict=False)] = Field(
        default=(), max_length=MOST, description="the provider's ids"
    )
    name_pattern: Text | None = Field(
        default=None, max_length=200, description="a pattern such as train-*, in any case"
    )
    environment: Text | None = Field(default=None, max_length=200, description="only those in this environment")
    label: Text | None = Field(default=None, max_length=200, description="only those with this label")
    replace_callbacks: bool = Field(
        default=False,
        description="replace callback URLs of others too; the old URL goes on record, and back on release",
    )

    @model_validator(mode="after")
    def _selects(self) -> "ImportRequest":
        if not (self.ids or self.name_pattern or self.environment or self.label):
            raise wrong("give ids, name_pattern, environment or label")
        return self

    def matches(self, seen: Observation) -> bool:
        """Whether a VM is meant. Ids that name no such VM are found by `select`."""
        pattern = (self.name_pattern or "*").casefold()
        return (
            (not self.ids or seen.provider_id in self.ids)
            and fnmatchcase((seen.name or "").casefold(), pattern)
            and self.environment in {None, seen.environment}
            and (self.label is None or self.label in seen.labels)
        )


@dataclass(frozen=True, slots=True)
class Skipped:
    """A VM that matches and is not imported, and why."""

    provider_id: int
    name: str | None
    reason: str


@dataclass(slots=True)
class ImportSelection:
    """What an import would take, what it leaves, and what is wrong with the request."""

    chosen: list[Observation] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    field_errors: list[FieldError] = field(default_factory=list)


def select(
    request: ImportRequest, shown: Mapping[int, Observation], *, on_record: AbstractSet[int], tagged: AbstractSet[int]
) -> ImportSelection:
    """Select VMs from those that the provider shows; `on_record` are ours, and `tagged` carry our ownership tags.

    A VM that is named by its id and cannot be imported is an error, one that only matches is skipped.
    """
    found = ImportSelection()
    found.field_errors += [
        FieldError("ids", f"the provider shows no VM {id_}") for id_ in request.ids if id_ not in shown
    ]
    found.field_errors += [
        FieldError("ids", f"VM {id_} does not match the other conditions")
        for id_ in request.ids
        if id_ in shown and not request.matches(shown[id_])
    ]
    for seen in filter(request.matches, shown.values()):
        reason = _obstacle(seen, on_record=on_record, tagged=tagged)
        if reason is None:
            found.chosen.append(seen)
        elif request.ids:
            found.field_errors.append(FieldError("ids", f"VM {seen.provider_id} {reason}"))
        else:
            found.skipped.append(Skipped(seen.provider_id, seen.name, reason))
    if len(found.chosen) > MOST:
        found.field_errors.append(FieldError("body", f"matches {len(found.chosen)} VMs; import at most {MOST} at once"))
    if not found.chosen and not found.field_errors:
        why = f"; {len(found.skipped)} that match are left out" if found.skipped else ""
        found.field_errors.append(FieldError("body", f"matches no VM that can be imported{why}"))
    return found


def _obstacle(seen: Observation, *, on_record: AbstractSet[int], tagged: AbstractSet[int]) -> str | None:
    """Why a VM cannot be imported; None if it can."""
    if seen.provider_id in on_record:
        return "is on record already"
    if seen.provider_id in tagged:
        return "carries the tags of a submission: it is an orphan, see `rollcall orphans`"
    if state_of(seen.status) in _GOING:
        return f"is {seen.status}"
    return None
