"""Whatever is sent, what is left of it fits the columns of Postgres."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import storable
from service.core.observation import Observation
from service.provider import tolerant
from service.provider.decoding import cleaned

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=3000)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=20,
)


def fits(text: str | None) -> bool:
    return text is None or ("\0" not in text and len(text.encode()) > 0 and len(text) <= storable.LONGEST_TEXT)


@given(ANY_TEXT)
def test_a_text_is_clipped_to_what_postgres_takes(text: str) -> None:
    assert fits(storable.text(text))


def test_a_lone_surrogate_becomes_the_same_character_everywhere() -> None:
    lone = "a\ud800b"
    assert storable.text(lone) == tolerant.text(lone) == cleaned(lone) == "a\ufffdb"


@given(ANY_JSON)
def test_any_json_becomes_json_that_is_the_same_when_it_is_read_again(value: object) -> None:
    fitting = cleaned(value)
    written = orjson.dumps(fitting)
    assert orjson.loads(written) == fitting
    assert cleaned(fitting) == fitting


def test_json_that_is_nested_too_deeply_is_cut() -> None:
    deep: object = "the end"
    for _ in range(10_000):
        deep = [deep]
    assert orjson.dumps(cleaned(deep)).startswith(b"[[[")


@pytest.mark.parametrize(("number", "fitting"), [(2**31, None), (-(2**31), -(2**31)), (10**30, None), (8, 8)])
def test_a_number_out_of_range_is_dropped(number: int, fitting: int | None) -> None:
    assert storable.int4(number) == fitting


@given(ANY_TEXT, st.integers(), st.integers())
def test_every_field_of_an_observation_fits_its_column(text: str, count: int, contract: int) -> None:
    seen = Observation(
        provider_id=1, name=text, status=text, fixed_ip=text, floating_ip=text, region=text, gpu_model=text,
        flavor=text, environment=text, gpu_count=count, contract_id=contract,
    )  # fmt: skip
    texts = (seen.name, seen.status, seen.fixed_ip, seen.floating_ip, seen.region, seen.gpu_model, seen.flavor)
    assert all(map(fits, texts))
    assert storable.int4(seen.gpu_count) == seen.gpu_count
    assert storable.int8(seen.contract_id) == seen.contract_id
