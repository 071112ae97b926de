"""Compares a request with what the provider offers, and suggests similar names. `api/catalogue.py` reads the catalogue."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from service.core.hardware import Hardware
from service.core.submission import SubmissionRequest
from service.errors import FieldError

_NEAR: Final = 3


class Offer(NamedTuple):
    """An item of the catalogue and its region, or for a keypair its environment; None if the provider names none.

    The GPUs are those of a flavor; `gpu_count` 0 means none.
    """

    name: str
    where: str | None
    gpu_model: str | None = None
    gpu_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What the provider offers. An empty part could not be read, and is not compared with."""

    flavors: Sequence[Offer] = ()
    images: Sequence[Offer] = ()
    environments: Sequence[Offer] = ()
    keypairs: Sequence[Offer] = ()

    def hardware(self, request: SubmissionRequest) -> Hardware:
        """What the VMs of a request run on."""
        region = _region(request.environment_name, self.environments)
        if request.flavor is not None:
            return Hardware(region, request.flavor.gpu or None, request.flavor.gpu_count)
        offers = [one for one in self.flavors if one.name == request.flavor_name]
        found = next((one for one in offers if one.where == region), None) or next(iter(offers), None)
        return Hardware(region, found.gpu_model, found.gpu_count) if found else Hardware(region, None, None)


@dataclass(frozen=True, slots=True)
class Advice:
    """What is wrong with a request for certain, what may be, and what its VMs will run on."""

    field_errors: Sequence[FieldError] = ()
    warnings: Sequence[str] = ()
    hardware: Sequence[Hardware] = ()  #: of each choice, the request itself first


def advise(request: SubmissionRequest, known: Catalogue) -> Advice:
    """Compare a request with the catalogue, and name everything that is wrong."""
    region = _region(request.environment_name, known.environments)
    custom = request.flavor is not None
    found = [
        _missing("environment_name", request.environment_name, known.environments, None),
        None if custom else _missing("flavor_name", request.flavor_name, known.flavors, region),
        _missing("image_name", request.image_name, known.images, region),
        _missing("key_name", request.key_name, known.keypairs, None),
    ]
    warnings = [*_unread(known), *_elsewhere(request, known.keypairs)]
    return Advice([one for one in found if one], warnings, (known.hardware(request),))


def prefixed(advice: Advice, number: int) -> Advice:
    """Advice about an alternative, with its place in the request."""
    if number == 0:
        return advice
    where = f"policy.alternatives.{number - 1}"
    errors = [FieldError(f"{where}.{one.field}", one.message) for one in advice.field_errors]
    return Advice(errors, [f"alternative {number}: {text}" for text in advice.warnings], advice.hardware)


def _region(environment: str, environments: Iterable[Offer]) -> str | None:
    return next((one.where for one in environments if one.name == environment), None)


def _missing(field: str, wanted: str | None, offers: Sequence[Offer], region: str | None) -> FieldError | None:
    if wanted is None or not offers:
        return None
    within = [one.name for one in offers if region is None or one.where in {None, region}]
    if wanted in within:
        return None
    elsewhere = sorted({one.where for one in offers if one.name == wanted and one.where})
    if elsewhere:
        return FieldError(field, f'"{wanted[:80]}" is in {", ".join(elsewhere)}, but the environment is in {region}')
    return FieldError(
        field, f'the provider has no "{wanted[:80]}"{f" in {region}" if region else ""}{_near(wanted, within)}'
    )


def has_words(name: str, wanted: str | None) -> bool:
    """Whether a name holds all the words of `wanted`, in any case and order."""
    folded = name.casefold()
    return wanted is None or all(word in folded for word in wanted.casefold().split())


def near_misses(wanted: str, names: Iterable[str]) -> list[str]:
    """The few names that were probably meant: those that hold all of its words, else those that are spelled like it."""
    by_folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(wanted.casefold()[:100], by_folded, n=_NEAR)
    holding = [name for name in by_folded if has_words(name, wanted)]
    chosen = [name for name in close if name in holding] or holding or close
    return [by_folded[name] for name in chosen[:_NEAR]]


def _near(wanted: str, names: Iterable[str]) -> str:
    near = near_misses(wanted, names)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _unread(known: Catalogue) -> list[str]:
    parts = {
        "flavors": known.flavors,
        "images": known.images,
        "environments": known.environments,
        "keypairs": known.keypairs,
    }
    missing = [name for name, offers in parts.items() if not offers]
    if not missing:
        return []
    return [f"the provider's {', '.join(missing)} could not be read, so the request was not compared with them"]


def _elsewhere(request: SubmissionRequest, keypairs: Iterable[Offer]) -> list[str]:
    # Only a warning: keypairs belong to an environment, but no document says whether the provider insists.
    homes = {one.where for one in keypairs if one.name == request.key_name}
    if not homes or homes & {None, request.environment_name}:
        return []
    said = ", ".join(sorted(filter(None, homes)))
    return [
        f'the keypair "{request.key_name[:80]}" belongs to {said}, but the environment is {request.environment_name[:80]}'
    ]
