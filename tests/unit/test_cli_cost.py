"""The lines about a VM's money, for whoever pays: what is not known is said to be unknown, and never shown as 0."""

from typing import Any

import pytest

from service.cli.cost_views import vm

PRICE = {
    "resource": "A100-80G-PCIe", "read_at": "2026-03-01T12:00:00Z", "value": "1.350", "currency": "USD", "source": "pricebook",
}  # fmt: skip
DISCOUNT = PRICE | {"contract_id": 41, "kind": "percent", "value": "20"}
SUMS = {
    "estimate": "34.560000", "billed_seconds": "11520", "unknown_seconds": "0", "off_contract_seconds": "0",
    "off_contract_unknown_seconds": "0", "off_contract_estimate": "0",
}  # fmt: skip


def lines(found: dict[str, Any], cost: dict[str, Any], **sums: str) -> dict[str, object]:
    known = {"state": "ACTIVE", "assignment": "none", "contract_requested": None}
    plain = {"billed": "full", "per_hour": "10.8", "per_hour_on_contract": None, "price": PRICE, "discount": None}
    return vm(known | found, plain | cost | {"total": SUMS | sums})


def test_a_vm_off_its_contract_says_what_it_costs_and_what_it_would_cost() -> None:
    found = lines(
        {"assignment": "retrying", "contract_requested": 41},
        {"per_hour_on_contract": "8.64", "discount": DISCOUNT},
        off_contract_seconds="7200",
        off_contract_estimate="21.6",
    )
    assert found == {
        "contract": "not on contract 41, which was requested: it runs on demand; on the contract it would cost 8.64 per hour",
        "costs now": "10.80 per hour",
        "list price": "1.35 per hour for each A100-80G-PCIe, from the provider's price book, read 2026-03-01 12:00:00Z",
        "so far": "34.56 for 3.2h of billed time",
        "off contract": "21.60 of it, for 2.0h on demand",
        "price unknown": None,
    }


@pytest.mark.parametrize(
    ("found", "cost", "expected"),
    [
        ({}, {}, "none was requested: it runs on demand"),
        (
            {"contract_requested": 41, "assignment": "assigned"},
            {"discount": DISCOUNT},
            "on contract 41, 20% below the list price",
        ),
        (
            {"contract_requested": 41, "assignment": "assigned"},
            {"discount": DISCOUNT | {"kind": "flat", "value": "0.50"}},
            "on contract 41, 0.5 per hour below the list price of each A100-80G-PCIe",
        ),
        ({"contract_requested": 41, "assignment": "assigned"}, {}, "on contract 41, whose discount is not known"),
        (
            {"contract_requested": 41, "assignment": "wanted"},
            {},
            "contract 41 was requested; the provider has not shown yet whether it is on it",
        ),
        (
            {"contract_requested": 41, "assignment": "given_up"},
            {},
            "not on contract 41, which was requested: it runs on demand",
        ),
    ],
)
def test_the_contract_of_a_vm_is_said_in_a_sentence(found: Any, cost: Any, expected: str) -> None:
    assert lines(found, cost)["contract"] == expected


def test_what_is_free_partly_billed_or_unknown_is_said_in_words() -> None:
    assert lines({"state": "BUILD"}, {"billed": "free"})["costs now"] == "nothing: BUILD is not billed"
    hibernated = lines({"state": "HIBERNATED"}, {"billed": "partial"})["costs now"]
    assert hibernated == "HIBERNATED is billed for storage and address, at prices that are not known"
    unknown = lines({}, {"per_hour": None, "price": None}, unknown_seconds="600")
    assert unknown["costs now"] == "a price that is not known"
    assert unknown["list price"] == "not known"
    assert unknown["price unknown"] == "10m of VM time, in no estimate"
