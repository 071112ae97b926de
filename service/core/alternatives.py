"""Alternatives: other flavors and environments that are tried when the first has no stock. Pure.

Alternative 0 is what the submission itself names; alternative n is the n-th of its list.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import Field, ValidationInfo, field_validator

from service.core.amount import Amount
from service.core.create_body import Part, Text, VmSpec, wrong
from service.core.hardware import UNKNOWN, Hardware
from service.core.money import Resource

Spec = TypeVar("Spec", bound=VmSpec)

MOST: Final = 10


class StockOf(NamedTuple):
    """A region and a GPU model: what the provider has stock of."""

    region: str | None
    gpu_model: str | None


class Alternative(Part):
    """What to create instead when there is no stock. What is left out is as in the submission."""

    flavor_name: Text = Field(description="the hardware")
    environment_name: Text = Field(description="the environment, which decides the region")
    image_name: Text | None = Field(default=None, description="the image, if it is another one")
    key_name: Text | None = Field(default=None, description="the SSH keypair, if it is another one")
    contract_id: int | None = Field(default=None, gt=0, description="the contract, if it is another one")
    on_demand: bool = Field(default=False, description="run without a contract, although the submission has one")
    max_price_per_hour: Amount | None = Field(
        default=None, description="what one VM of it may cost per hour; it is passed over while it costs more"
    )

    @field_validator("on_demand")
    @classmethod
    def _one_of_two(cls, on_demand: bool, info: ValidationInfo) -> bool:
        if on_demand and info.data.get("contract_id") is not None:
            raise wrong("must be false with a contract_id")
        return on_demand


def spec_of(spec: Spec, alternatives: Sequence[Alternative], number: int) -> Spec:
    """The spec with what an alternative changes."""
    if number == 0:
        return spec
    one = alternatives[number - 1]
    changes: dict[str, Any] = {"flavor_name": one.flavor_name, "environment_name": one.environment_name}
    changes["contract_id"] = None if one.on_demand else one.contract_id or spec.contract_id
    if one.image_name is not None:
        changes |= {"image_name": one.image_name, "volume_name": None}
    if one.key_name is not None:
        changes["key_name"] = one.key_name
    return spec.model_copy(update=changes)


def hardware_of(known: Sequence[Sequence[Any]], number: int) -> Hardware:
    """What an alternative runs on, from what was known of each when the submission was made."""
    return Hardware(*known[number]) if number < len(known) else UNKNOWN


def resource_of(
    spec: VmSpec, alternatives: Sequence[Alternative], known: Sequence[Sequence[Any]], number: int
) -> Resource:
    """What decides the price of a VM that is made from an alternative."""
    wanted, hardware = spec_of(spec, alternatives, number), hardware_of(known, number)
    return Resource(wanted.flavor_name, hardware.gpu_model, hardware.gpu_count, wanted.contract_id)


def too_dear(one: Alternative, price: Decimal | None) -> bool:
    """Whether a VM of an alternative costs more per hour than that allows. One without a known price does too."""
    return one.max_price_per_hour is not None and (price is None or price > one.max_price_per_hour)


def in_order(count: int, current: int, refused: AbstractSet[int]) -> list[int]:
    """The alternatives that may still be tried, from `current` on and then from the first."""
    return [one for one in (*range(current, count), *range(current)) if one not in refused]


def most_promising(order: Sequence[int], hardware: Sequence[Sequence[Any]], stock: Mapping[StockOf, int]) -> int | None:
    """The first alternative that the provider does not say it has none of. None if it says so of all of them.

    Stock is never trusted for more: what it has none of is only tried later, and a create call may fail whatever it says.
    """
    return next((one for one in order if not is_empty(hardware_of(hardware, one), stock)), None)


def is_empty(hardware: Hardware, stock: Mapping[StockOf, int]) -> bool:
    """Whether the provider says that it has none of it."""
    level = stock.get(StockOf(hardware.region, hardware.gpu_model))
    return level is not None and level < (hardware.gpu_count or 1)


class Next(NamedTuple):
    """What to try after a refusal: the alternative, at once or after a wait."""

    number: int
    at_once: bool


def after_no_stock(count: int, current: int, refused: AbstractSet[int]) -> Next:
    """The next alternative when one has no stock. After the last one the first is tried again, after a wait."""
    order = in_order(count, current, refused)
    following = [one for one in order if one > current]
    return Next(following[0], at_once=True) if following else Next(min(order, default=current), at_once=False)


def after_refusal(count: int, current: int, refused: AbstractSet[int]) -> int | None:
    """The next alternative when one was refused for good, such as for its region; None if none is left."""
    left = [one for one in in_order(count, current, refused) if one != current]
    return left[0] if left else None
