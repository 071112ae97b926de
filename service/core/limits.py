"""Limits on what an owner may have at once and spend in all, compared with its usage. Pure.

An owner is whatever has VMs: a submission, an API token, a fleet. Amounts are in one currency.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from msgspec import Struct
from msgspec.structs import astuple

from service.core.duration import text_of
from service.core.submission import Policy
from service.errors import FieldError

_HOUR: Final = Decimal(3600)
#: The share of a limit at which somebody is told.
_NEAR: Final = Decimal("0.8")


class Limits(Struct, frozen=True):
    """What an owner may have at once, and spend in all. None is no limit."""

    vms: int | None = None
    gpus: int | None = None
    price_per_hour: Decimal | None = None
    cost: Decimal | None = None

    @property
    def of_money(self) -> bool:
        return self.price_per_hour is not None or self.cost is not None

    @property
    def any(self) -> bool:
        return self != Limits()


class Usage(Struct, frozen=True):
    """What an owner has, and has spent: at least that much, if VMs or seconds have no known price."""

    vms: int = 0
    gpus: int = 0
    price_per_hour: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)
    unpriced_vms: int = 0
    unpriced_seconds: Decimal = Decimal(0)
    uncounted_vms: int = 0  #: VMs whose number of GPUs is not known

    def plus(self, other: "Usage") -> "Usage":
        return Usage(*(mine + more for mine, more in zip(astuple(self), astuple(other), strict=True)))


def limits_of(policy: Policy) -> Limits:
    """The limits of a submission."""
    return Limits(price_per_hour=policy.max_price_per_hour, cost=policy.max_cost)


def passed(limits: Limits, usage: Usage, currency: str) -> list[FieldError]:
    """Each limit that a usage is above, with both numbers."""
    compared: Sequence[tuple[str, Decimal | int | None, Decimal | int, str]] = (
        ("max_vms", limits.vms, usage.vms, "VMs"),
        ("max_gpus", limits.gpus, usage.gpus, "GPUs"),
        ("max_price_per_hour", limits.price_per_hour, usage.price_per_hour, f"{currency} an hour"),
        ("max_cost", limits.cost, usage.cost, currency),
    )
    return [
        FieldError(name, f"is {amount_text(limit)} {unit}, and {amount_text(used)} {unit} is more than that")
        for name, limit, used, unit in compared
        if limit is not None and used > limit
    ]


def nearly_spent(limits: Limits, usage: Usage) -> bool:
    """Whether most of what an owner may spend in all is spent. A rate that is near its limit is as was asked for."""
    return limits.cost is not None and usage.cost >= limits.cost * _NEAR


def unchecked(limits: Limits, usage: Usage) -> list[FieldError]:
    """Each limit of money that cannot be compared, because a price is not known."""
    found = []
    if limits.price_per_hour is not None and usage.unpriced_vms:
        found.append(
            FieldError("max_price_per_hour", f"cannot be checked: no price is known for {usage.unpriced_vms} VMs")
        )
    if limits.cost is not None and (usage.unpriced_seconds or usage.unpriced_vms):
        missing = (
            f"{text_of(round(usage.unpriced_seconds))} of VM time"
            if usage.unpriced_seconds
            else f"{usage.unpriced_vms} VMs"
        )
        found.append(FieldError("max_cost", f"cannot be checked: no price is known for {missing}"))
    return found


def planned(count: int, price: Decimal | None, lifetime: float | None) -> Usage:
    """What VMs of a price per hour will cost at once, and in their lifetime if that is known."""
    if price is None:
        return Usage(vms=count, unpriced_vms=count)
    per_hour = price * count
    cost = Decimal(0) if lifetime is None else per_hour * Decimal(lifetime) / _HOUR
    return Usage(vms=count, price_per_hour=per_hour, cost=cost)


def check_planned(
    policy: Policy, usage: Usage, currency: str, *, alternative: bool = False
) -> tuple[list[FieldError], list[str]]:
    """Why a request, or an alternative of it, is refused for its limits of money; else when one will be reached."""
    limits = limits_of(policy)
    found = [*passed(limits, usage, currency), *unchecked(limits, usage)]
    errors = [FieldError(f"policy.{one.field}", one.message) for one in found]
    if alternative:
        errors = [FieldError("flavor_name", f"{one.field} {one.message}") for one in found]
    if errors or limits.cost is None or usage.cost or not usage.price_per_hour:
        return errors, []
    reached = text_of(round(limits.cost / usage.price_per_hour * _HOUR))
    rate = f"at {amount_text(usage.price_per_hour)} {currency} an hour"
    return [], [
        f"{rate}, max_cost of {amount_text(limits.cost)} {currency} is reached in {reached}; then: {policy.on_limit}"
    ]


def check_alternative(limit: Decimal | None, price: Decimal | None, currency: str) -> list[FieldError]:
    """Why an alternative could not be used: a VM of it costs more than it allows, or no price of it is known."""
    if limit is None or (price is not None and price <= limit):
        return []
    name = "max_price_per_hour"
    if price is None:
        return [FieldError(name, "cannot be checked: no price is known for a VM of it")]
    return [
        FieldError(
            name, f"is {amount_text(limit)} {currency}, and a VM of it costs {amount_text(price)} {currency} an hour"
        )
    ]


def amount_text(amount: Decimal | int) -> str:
    """A count, or an amount of money with two decimal places."""
    return f"{amount:,}" if isinstance(amount, int) else f"{amount:,.2f}"
