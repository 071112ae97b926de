"""The errors: named after what their reader does next, and safe to show."""

import re

import pytest

from service import errors
from service.errors import ConfigError, FieldError, Invalid, ProviderError, RateLimited, ServiceError, StorageError


def every(kind=ServiceError):
    for sub in kind.__subclasses__():
        yield sub
        yield from every(sub)


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__))
    assert drawn == {kind.__name__ for kind in every()} - {"_Listing"}


@pytest.mark.parametrize(
    "kind", sorted(set(every()) - {errors._Listing, ConfigError, Invalid}, key=lambda kind: kind.__name__)
)
def test_the_first_line_of_the_docstring_is_the_default_message(kind):
    assert str(kind()) == kind.__doc__.strip().splitlines()[0]
    assert str(kind("what happened")) == "what happened"


@pytest.mark.parametrize("kind", [ConfigError, Invalid])
def test_every_mistake_is_in_the_message(kind):
    error = kind([FieldError("name", "is missing"), FieldError("count", "is 0")])
    assert str(error) == "name: is missing; count: is 0"
    assert [mistake.field for mistake in error.field_errors] == ["name", "count"]


def test_a_providers_message_is_cut():
    error = ProviderError("x" * 10_000, status=400, reason="bad_request")
    assert (len(str(error)), error.status, error.reason) == (500, 400, "bad_request")


def test_may_i_call_again_has_one_answer_for_every_error_of_the_provider():
    kinds = set(every(ProviderError))
    answers = {errors.TryLater, errors.Unconfirmed, errors.Refused}
    assert all(sum(issubclass(kind, answer) for answer in answers) == 1 for kind in kinds)


def test_a_rate_limit_says_when_to_return():
    assert (RateLimited().retry_after, RateLimited(retry_after=7).retry_after, RateLimited().status) == (60, 7, 429)


def test_errors_of_storage_and_provider_are_never_mistaken_for_each_other():
    assert not set(every(StorageError)) & set(every(ProviderError))
