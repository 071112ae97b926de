"""What an API token may hold at a time, compared with what it holds and asks for. Pure."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from pydantic import Field

from service.core.amount import Amount
from service.core.create_body import Part
from service.core.limits import Limits, Usage, amount_text, passed, unchecked
from service.errors import FieldError

_LARGEST: Final = 1_000_000


class TokenLimits(Part):
    """What the living VMs of a token may be together, and the requests it may send."""

    max_vms: int | None = Field(
        default=None, ge=1, le=_LARGEST, description="VMs it may have at a time; null for no limit"
    )
    max_gpus: int | None = Field(
        default=None, ge=1, le=_LARGEST, description="GPUs its VMs may have together; null for no limit"
    )
    max_price_per_hour: Amount | None = Field(
        default=None, description="what its VMs may cost per hour together; null for no limit"
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, le=_LARGEST, description="requests it may send to each daemon; null for no limit"
    )


class Size(NamedTuple):
    """What a VM counts as; None is not known."""

    gpus: int | None
    price_per_hour: Decimal | None


def usage_of(vms: int, choices: Sequence[Size]) -> Usage:
    """What VMs count as that may become any of the choices: the most GPUs and the highest price among them."""
    gpus = [one.gpus for one in choices if one.gpus is not None]
    prices = [one.price_per_hour for one in choices if one.price_per_hour is not None]
    return Usage(
        vms=vms,
        gpus=vms * max(gpus, default=0),
        price_per_hour=vms * max(prices, default=Decimal(0)),
        unpriced_vms=vms if len(prices) < len(choices) else 0,
        uncounted_vms=vms if len(gpus) < len(choices) else 0,
    )


def exceeded(name: str, limits: Limits, held: Usage, more: Usage, currency: str) -> list[FieldError]:
    """Why a token that holds something may not have more: each limit that this would pass, or that cannot be compared."""
    total = held.plus(more)
    above = {one.field for one in passed(limits, total, currency)}
    unknown = {one.field: one.message for one in unchecked(limits, total)}
    if limits.gpus is not None and total.uncounted_vms:
        unknown["max_gpus"] = f"cannot be checked: how many GPUs {total.uncounted_vms} VMs have is not known"
    numbers: Sequence[tuple[str, Decimal | int | None, Decimal | int, Decimal | int, str]] = (
        ("max_vms", limits.vms, held.vms, more.vms, "VMs"),
        ("max_gpus", limits.gpus, held.gpus, more.gpus, "GPUs"),
        ("max_price_per_hour", limits.price_per_hour, held.price_per_hour, more.price_per_hour, f"{currency} an hour"),
    )
    found = []
    for field, limit, has, asks, unit in numbers:
        if limit is not None and field in above:
            text = (
                f"is {amount_text(limit)} {unit}: it has {amount_text(has)}, and this asks for {amount_text(asks)} more"
            )
            found.append(FieldError(f"token.{field}", f"of {name} {text}"))
        elif field in unknown:
            found.append(FieldError(f"token.{field}", f"of {name} {unknown[field]}"))
    return found
