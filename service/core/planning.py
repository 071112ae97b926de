"""Turns a request into a plan: its creations, their names, and a record for each VM. Ids and the time are arguments."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, TypeVar
from uuid import UUID

from service.core.contract import Assignment
from service.core.hardware import UNKNOWN, Hardware
from service.core.ownership import creation_name
from service.core.submission import SubmissionRequest, cut
from service.core.token import CreationRef
from service.core.vm import Vm
from service.errors import FieldError

Item = TypeVar("Item")

_LARGEST_ID: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCreation:
    """One create call: its number, the name of its VMs, and their numbers."""

    creation_no: int
    name: str
    vm_nos: range


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A request that was accepted at `at`, with its creations."""

    submission_id: UUID
    request: SubmissionRequest
    at: datetime
    deadline_at: datetime
    creations: tuple[PlannedCreation, ...]
    hardware: Sequence[Hardware] = ()  #: of each choice, as far as known

    def vms(self) -> Iterator[Vm]:
        """A record for each VM, in the order of their numbers. A generator, since there may be 100,000."""
        for creation in self.creations:
            for vm_no in creation.vm_nos:
                yield self._vm(vm_no, creation.creation_no)

    def _vm(self, vm_no: int, creation_no: int) -> Vm:
        wanted, hardware = self.request, next(iter(self.hardware), UNKNOWN)
        return Vm(
            submission_id=self.submission_id,
            vm_no=vm_no,
            creation_no=creation_no,
            state_since=self.at,
            wants_address=wanted.assign_floating_ip is True,
            flavor=wanted.flavor_name,
            environment=wanted.environment_name,
            gpu_model=hardware.gpu_model,
            gpu_count=hardware.gpu_count,
            assignment=Assignment.NONE if wanted.contract_id is None else Assignment.WANTED,
            contract_id=wanted.contract_id,
            created_at=self.at,
        )


def plan(request: SubmissionRequest, submission_id: UUID, at: datetime, hardware: Sequence[Hardware] = ()) -> Plan:
    """Plan a request in which `unstorable_fields` finds nothing."""
    creations = tuple(
        PlannedCreation(
            creation_no=number,
            name=creation_name(request.name, CreationRef(submission_id, number)),
            vm_nos=vm_nos,
        )
        for number, vm_nos in enumerate(cut(request.count), 1)
    )
    deadline_at = at + timedelta(seconds=request.policy.deadline_seconds)
    if request.policy.expires_at is not None:
        deadline_at = min(deadline_at, request.policy.expires_at)
    return Plan(
        submission_id=submission_id,
        request=request,
        at=at,
        deadline_at=deadline_at,
        creations=creations,
        hardware=hardware,
    )


def unstorable_fields(request: SubmissionRequest) -> list[FieldError]:
    """Errors for valid fields that the database cannot store."""
    field_errors = []
    if (request.contract_id or 0) > _LARGEST_ID:
        field_errors.append(FieldError("contract_id", f"is {request.contract_id}, must be at most {_LARGEST_ID}"))
    field_errors += [
        FieldError(field, "must not contain the character NUL")
        for field in _with_nul(request.model_dump(mode="json", exclude={"policy"}), "")
    ]
    return field_errors


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of at most `size`, so that no statement grows with the fleet."""
    left = iter(items)
    while taken := list(islice(left, size)):
        yield taken


def _with_nul(value: object, where: str) -> Iterator[str]:
    # Postgres stores no NUL in text or JSON, and its own error would not say which field holds it.
    if isinstance(value, str) and "\0" in value:
        yield where
    children: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for name, child in children:
        yield from _with_nul(child, f"{where}.{name}".lstrip("."))
