"""What a contract can take of a submission, judged before anything is bought: refused if it never can, else a forecast."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from service.core.catalogue import Advice
from service.core.contract import Room, Shortfall, room_for
from service.core.hardware import Hardware
from service.core.observation import Contract
from service.core.submission import SubmissionRequest
from service.errors import FieldError

_REST: Final = {
    "retry": "the others run on demand until it has room",
    "keep": "the others run on demand",
    "fail": "the others are deleted again",
}


@dataclass(frozen=True, slots=True)
class ContractReading:
    """A contract as it was read just now, None if the provider knows none; and its GPUs by model that VMs to be made will take."""

    contract: Contract | None
    promised: Mapping[str | None, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CoveredGpus:
    """A line of a contract: the GPUs of one model, and how many of them are left. None: the provider does not say."""

    gpu_model: str | None
    gpus: int | None
    left: int | None


@dataclass(frozen=True, slots=True)
class ContractForecast:
    """What a contract can take now of the VMs that are asked for. `fit` is None if that is not known."""

    contract_id: int
    description: str | None
    status: str | None
    end_date: datetime | None
    covers: list[CoveredGpus]
    requested: int
    fit: int | None
    shortfall: str | None


def forecast(
    request: SubmissionRequest, reading: ContractReading, hardware: Hardware, now: datetime
) -> ContractForecast:
    """How many of the VMs of a request with a contract fit on it now."""
    contract, room = reading.contract, _room(reading, hardware, now)
    return ContractForecast(
        contract_id=request.contract_id or 0,
        description=contract.description if contract else None,
        status=contract.status if contract else None,
        end_date=contract.end_date if contract else None,
        covers=covered(contract) if contract else [],
        requested=request.count,
        fit=None if room.vms is None else min(room.vms, request.count),
        shortfall=room.shortfall and room.shortfall.value,
    )


def covered(contract: Contract) -> list[CoveredGpus]:
    """The lines of a contract."""
    return [CoveredGpus(one.resource_name, one.resource_count, one.remaining_count) for one in contract.discounts]


def _room(reading: ContractReading, hardware: Hardware, now: datetime) -> Room:
    if hardware.gpu_count == 0 and reading.contract is not None and reading.contract.discounts:
        return Room(0, Shortfall.MISMATCHED)  # contracts are for GPUs
    room = room_for(reading.contract, gpu_model=hardware.gpu_model, gpu_count=hardware.gpu_count, now=now)
    if not room.vms:
        return room
    model = (hardware.gpu_model or "").lower()
    promised = sum(gpus for of, gpus in reading.promised.items() if of is None or of.lower() == model)
    left = max(0, room.vms - -(-promised // max(hardware.gpu_count or 1, 1)))
    return Room(left) if left else Room(0, Shortfall.INSUFFICIENT)


def contract_advice(request: SubmissionRequest, found: ContractForecast | None, hardware: Hardware) -> Advice:
    """What is wrong with asking for a contract. `found` is None if it could not be read."""
    contract_id, required = request.contract_id, request.policy.require_contract
    if contract_id is None:
        missing = [FieldError("policy.require_contract", "needs a contract_id")] if required else []
        return Advice(missing)
    text, refused = _finding(request, found, hardware)
    if text is None:
        return Advice()
    return Advice([FieldError("contract_id", text)]) if refused or required else Advice((), [text])


def _finding(request: SubmissionRequest, found: ContractForecast | None, hardware: Hardware) -> tuple[str | None, bool]:
    """What there is to say about a contract, if anything; and whether it can never take the VMs."""
    name = f"contract {request.contract_id}"
    if found is None:
        return f"{name} could not be read just now, so its room was not checked", False
    if found.shortfall == Shortfall.MISSING:
        return f"the provider has no {name}", True
    covers = f"it covers {_lines(found.covers)}"
    if found.shortfall == Shortfall.ENDED:
        return f"{name} has ended{_on(found.end_date)}; {covers}", True
    if found.shortfall == Shortfall.MISMATCHED:
        gpu = hardware.gpu_model or "a flavor without GPUs"
        return f"{name} does not cover {gpu} ({request.flavor_name[:80]}); {covers}", True
    if found.shortfall == Shortfall.NOT_BEGUN:
        return f"{name} has not begun yet; {_REST[request.policy.on_contract_error]}", False
    if found.fit is None:
        return f"how many VMs {name} can take is not known; {covers}", False
    if found.fit < found.requested:
        rest = _REST[request.policy.on_contract_error].replace("the others", "they") if not found.fit else ""
        rest = rest or _REST[request.policy.on_contract_error]
        return f"{found.fit} of {found.requested} VMs fit on {name} now; {rest}; {covers}", False
    return None, False


def _lines(covers: Sequence[CoveredGpus]) -> str:
    texts = [f"{one.gpu_model} ({_left(one)})" for one in covers if one.gpu_model]
    return ", ".join(texts) or "nothing that could be read"


def _left(line: CoveredGpus) -> str:
    if line.left is None:
        return "GPUs left: not known"
    return f"{line.left} of {line.gpus} GPUs left" if line.gpus is not None else f"{line.left} GPUs left"


def _on(end: datetime | None) -> str:
    return f" on {end:%Y-%m-%d}" if end else ""
