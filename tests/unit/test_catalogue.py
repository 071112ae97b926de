"""A request compared with what the provider offers."""

import pytest

from service.core.catalogue import Advice, Catalogue, Offer, advise
from service.core.hardware import Hardware
from service.core.submission import validate_submission

BODY = {
    "name": "vm",
    "environment_name": "test1",
    "flavor_name": "n3-A100x1",
    "image_name": "Ubuntu 22.04",
    "key_name": "ours",
    "count": 1,
}
KNOWN = Catalogue(
    flavors=[
        Offer("n3-A100x1", "CANADA-1", "A100-80G-PCIe", 1),
        Offer("n3-A100x4", "CANADA-1"),
        Offer("n3-H100x1", "NORWAY-1"),
    ],
    images=[Offer("Ubuntu 22.04", "CANADA-1"), Offer("Ubuntu 24.04", "NORWAY-1")],
    environments=[Offer("test1", "CANADA-1"), Offer("test2", "NORWAY-1"), Offer("test3", None)],
    keypairs=[Offer("ours", "test1"), Offer("theirs", "test2"), Offer("anyones", None)],
)


#: What is said of a request that fits.
FITS = Advice([], [], (Hardware("CANADA-1", "A100-80G-PCIe", 1),))


def advised(known: Catalogue = KNOWN, **changes: object) -> Advice:
    full = {**BODY, **changes}
    return advise(validate_submission({name: value for name, value in full.items() if value is not None}), known)


def test_what_the_provider_offers_is_not_remarked_on() -> None:
    assert advised() == FITS


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        (
            {"flavor_name": "n3-A100x2"},
            "flavor_name",
            'no "n3-A100x2" in CANADA-1; did you mean n3-A100x4 or n3-A100x1?',
        ),
        ({"flavor_name": "n3-H100x1"}, "flavor_name", "is in NORWAY-1, but the environment is in CANADA-1"),
        ({"image_name": "ubuntu 22.04"}, "image_name", "did you mean Ubuntu 22.04?"),
        ({"image_name": "Windows"}, "image_name", 'the provider has no "Windows" in CANADA-1'),
        ({"key_name": "our"}, "key_name", "did you mean ours?"),
        ({"environment_name": "tset1"}, "environment_name", "did you mean test1"),
    ],
)
def test_what_it_does_not_offer_is_a_mistake_with_near_misses(changes: dict, field: str, words: str) -> None:
    (mistake,) = advised(**changes).field_errors
    assert mistake.field == field
    assert words in mistake.message


def test_every_mistake_is_named_at_once() -> None:
    wrong = advised(flavor_name="a", image_name="b", key_name="c", environment_name="d")
    assert [mistake.field for mistake in wrong.field_errors] == [
        "environment_name",
        "flavor_name",
        "image_name",
        "key_name",
    ]


def test_an_environment_without_a_region_limits_nothing() -> None:
    assert advised(environment_name="test3", flavor_name="n3-H100x1", key_name="anyones").field_errors == []


def test_a_custom_flavor_and_a_volume_are_not_looked_for() -> None:
    custom = advised(flavor_name="mine", flavor={"cpu": 4}, image_name=None, volume_name="boot")
    assert (custom.field_errors, custom.warnings) == ([], [])


def test_a_keypair_of_another_environment_is_a_warning_only() -> None:
    advice = advised(key_name="theirs")
    assert advice.field_errors == []
    assert advice.warnings == ['the keypair "theirs" belongs to test2, but the environment is test1']


def test_what_could_not_be_read_is_a_warning_and_refuses_nothing() -> None:
    advice = advised(Catalogue(flavors=KNOWN.flavors), flavor_name="n3-H100x1", image_name="Windows")
    assert advice.field_errors == []
    assert advice.warnings == [
        "the provider's images, environments, keypairs could not be read, so the request was not compared with them"
    ]
