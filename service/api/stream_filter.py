"""Which rows of the stream a reader wants: the filters of the lists, decided row by row."""

import base64
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import Field, field_validator, model_validator

from service.api import query
from service.audit.export_formats import BODY_ENCODING
from service.audit.stream import STREAMED, StreamRow
from service.core.create_body import wrong
from service.core.event import Unreadable, parse
from service.core.lifecycle import VmState
from service.core.vm import Vm
from service.queries import calls
from service.runtime.runtime import Runtime
from service.storage import vms
from service.storage.engine import begin
from service.storage.events import vm_of_history

#: What only rows of some tables have. A table that lacks one of the given filters has nothing to show.
_ONLY: Final[Mapping[str, frozenset[str]]] = {
    "state": frozenset({"transitions"}),
    "source": frozenset({"events"}),
    "creation_no": frozenset({"events"}),
    "operation": frozenset({"calls", "call_ends"}),
    "outcome": frozenset({"call_ends"}),
}


class StreamQuery(query.Query):
    """Which rows to stream; all that is given must hold."""

    tables: str | None = Field(
        default=None, max_length=100, description=f"only these, separated by commas: {', '.join(STREAMED)}"
    )
    submission_id: UUID | None = Field(default=None, description="only rows of this submission")
    vm: str | None = Field(default=None, pattern=query.NO_NUL, max_length=200, description=query.A_VM)
    state: VmState | None = Field(default=None, description="only transitions to this state, and claims made in it")
    source: query.EventSource | None = Field(
        default=None, description="only callbacks, or only entries of the provider's event history"
    )
    creation_no: int | None = Field(
        default=None, ge=1, le=query.LARGEST_ID, description="only events of this creation of the submission"
    )
    operation: str | None = Field(
        default=None, pattern=query.NO_NUL, max_length=100, description="only calls of this operation, and their ends"
    )
    outcome: str | None = Field(
        default=None, pattern=query.NO_NUL, max_length=100, description="only ends of calls with this outcome"
    )
    after: str | None = Field(
        default=None, max_length=8000, description="as the header Last-Event-ID, which goes first"
    )

    @field_validator("tables")
    @classmethod
    def _are_known(cls, value: str | None) -> str | None:
        if value is not None and not set(value.split(",")) <= set(STREAMED):
            raise wrong(f"must be some of {', '.join(STREAMED)}, separated by commas")
        return value

    @model_validator(mode="after")
    def _go_together(self) -> "StreamQuery":
        if self.creation_no is not None and self.submission_id is None:
            raise wrong("creation_no needs submission_id: creations are numbered within a submission")
        if not self.shown:
            given = [f"{name} goes only with {', '.join(sorted(_ONLY[name]))}" for name in self._given]
            raise wrong("; ".join(given))
        return self

    @property
    def _given(self) -> list[str]:
        return [name for name in _ONLY if getattr(self, name) is not None]

    @property
    def shown(self) -> frozenset[str]:
        """The tables whose rows can match."""
        tables = frozenset(STREAMED if self.tables is None else self.tables.split(","))
        return tables.intersection(*(_ONLY[name] for name in self._given))


class RowFilter:
    """Decides which rows a reader wants."""

    def __init__(self, rt: Runtime, wanted: StreamQuery, vm: Vm | None) -> None:
        self._rt = rt
        self._wanted = wanted
        self._vm = vm
        self._tables = wanted.shown
        of = wanted.submission_id if vm is None else vm.submission_id
        self._prefix = b"" if of is None else f'{{"submission_id":"{of}"'.encode()
        self._plain = vm is None and all(getattr(wanted, name) is None for name in _ONLY)
        #: Nothing can match: the VM is another submission's.
        self._none = vm is not None and wanted.submission_id not in {None, vm.submission_id}

    async def wants(self, row: StreamRow) -> bool:
        if self._none or row.table not in self._tables or not row.line.startswith(self._prefix):
            return False
        return self._plain or await self._matches(row.table, orjson.loads(row.line))

    async def _matches(self, table: str, row: Mapping[str, Any]) -> bool:
        wanted = self._wanted
        match table:
            case "transitions":
                return wanted.state in {None, row["to_state"]} and self._is_of_vm(row)
            case "events":
                same = wanted.source in {None, row["source"]} and wanted.creation_no in {None, row["creation_no"]}
                return same and await self._names_vm(row)
            case "calls":
                return wanted.operation in {None, row["operation"]} and await self._is_about_vm(row)
            case _:
                return wanted.outcome in {None, row["outcome"]} and await self._ends_wanted_call(row)

    def _is_of_vm(self, row: Mapping[str, Any]) -> bool:
        return self._vm is None or row["vm_no"] == self._vm.vm_no

    async def _names_vm(self, row: Mapping[str, Any]) -> bool:
        """Whether an event of the VM's creation names the VM."""
        if self._vm is None:
            return True
        if row["creation_no"] != self._vm.creation_no:
            return False
        named = _vm_of(row)
        return named is not None and named == await self._provider_id()

    async def _is_about_vm(self, row: Mapping[str, Any]) -> bool:
        """Whether a call is about the VM, or for its whole creation."""
        if self._vm is None or row["vm_no"] == self._vm.vm_no:
            return True
        if row["vm_no"] is None and row["creation_no"] == self._vm.creation_no:
            return True
        return row["provider_id"] is not None and row["provider_id"] == await self._provider_id()

    async def _ends_wanted_call(self, row: Mapping[str, Any]) -> bool:
        if self._wanted.operation is None and self._vm is None:
            return True
        async with begin(self._rt.engine) as conn:
            call = await calls.get(conn, UUID(row["submission_id"]), UUID(row["call_id"]))
        return call is not None and await self._matches("calls", call)

    async def _provider_id(self) -> int | None:
        """The VM's id at the provider, read again until it has one."""
        assert self._vm is not None  # noqa: S101  asked for a VM only
        if self._vm.provider_id is None:
            async with begin(self._rt.engine) as conn:
                self._vm = await vms.get(conn, *self._vm.ref) or self._vm
        return self._vm.provider_id


def _vm_of(event: Mapping[str, Any]) -> int | None:
    if event["source"] == "history":
        return vm_of_history(event["peer"] or "")
    body: str = event["body"]
    found = parse(body.encode() if event[BODY_ENCODING] == "utf-8" else base64.b64decode(body))
    return None if isinstance(found, Unreadable) else found.provider_id
