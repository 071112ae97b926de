"""Any JSON from the provider: it is read as far as it can be, it can be stored, and it costs nothing else."""

import json
from collections.abc import Callable
from functools import partial

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import errors
from service.core.create_body import CreateBody
from service.provider import answers, calls, wire
from service.provider.decoding import decode, encode
from service.provider.wire import HttpResponse

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=12) | st.sampled_from(
    ["x \ud83d", "\0", "\udc00\ud800", "9" * 5000, "2026-13-45T99:99:99", "0001-01-01T00:00:00+23:59", "1e999"]
)
NUMBER = st.integers() | st.sampled_from([2**31, 2**63, 2**64, -(2**64), 10**4000]) | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted(
    {"id", "name", "status", "power_state", "vm_state", "environment", "flavor", "flavor_name", "gpu_count", "fixed_ip",
     "floating_ip", "floating_ip_status", "callback_url", "labels", "contract_id", "locked", "created_at"}
)  # fmt: skip
LIST = calls.list_vms(page=1, page_size=100)
BODY = CreateBody(name="n", environment_name="e", image_name="i", flavor_name="f", key_name="k", count=1)
PARSERS = [
    (calls.create(BODY), answers.created),
    (calls.get_vm(5), answers.vm),
    (LIST, answers.vm_page),
    (calls.vm_events(5), answers.history),
    (calls.contract(41), answers.contract),
    (calls.contracts(page=1, per_page=9), answers.contracts),
    (calls.flavors(), answers.flavors),
    (calls.images(), answers.images),
    (calls.stocks(), answers.stocks),
    (calls.pricebook(), answers.prices),
    (calls.name_availability("n", count=1), answers.name_availability),
]


def read(call, parse, document):
    # Python writes what it reads: lone surrogates as escapes, NaN and Infinity as words.
    return wire.read(call, HttpResponse(status=200, headers={}, body=dumps(document)), parse)


def dumps(document) -> bytes:
    return json.dumps(document).encode()


def error_of(read_: Callable[[], object]) -> str:
    """The message of the provider error that reading raises; empty if it raises none."""
    try:
        read_()
    except errors.ProviderError as found:
        return str(found)
    return ""


def storable(value: object) -> bool:
    """Whether Postgres takes a value, in a column of the kind that it goes into."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)
    return not isinstance(value, int) or abs(value) < 2**63


@pytest.mark.parametrize(("opening", "closing"), [('{"a":', "}"), ("[", "]"), ('[{"\\"]": ', "}]")])
@given(name=TEXT, depth=st.sampled_from([65, 1000, 1024, 5000, 100_000]))
@settings(max_examples=10)
def test_a_value_nested_however_deep_costs_only_its_field(opening, closing, name, depth):
    deep = dumps({"id": 2, "status": "ACTIVE", "name": "DEEP", "x": name}).replace(
        b'"DEEP"', (opening * depth + "1" + closing * depth).encode()
    )
    body = b'{"instances": [{"id": 1, "name": "a"}, ' + deep + b', {"id": 3, "name": "c"}], "count": 3}'
    page = wire.read(LIST, HttpResponse(status=200, headers={}, body=body), answers.vm_page)
    assert [(vm.provider_id, vm.name, vm.status) for vm in page.vms] == [
        (1, "a", None), (2, None, "ACTIVE"), (3, "c", None)
    ]  # fmt: skip
    assert page.count == 3


@pytest.mark.parametrize("body", [b"[" * 5000, b"]" * 5000, b'{"a":' * 5000 + b'"' + b'\\"' * 5000])
def test_brackets_that_do_not_match_are_no_json(body):
    assert decode(body) is None


@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_one_bad_vm_in_a_list_costs_that_vm_only_and_what_is_left_of_it_can_be_stored(fields):
    good = [{"id": 1, "name": "a", "status": "ACTIVE"}, {"id": 3, "name": "c", "status": "BUILD"}]
    page = read(LIST, answers.vm_page, {"instances": [good[0], {"id": 2} | fields, good[1]], "count": 3})
    found = {vm.provider_id: vm for vm in page.vms}
    assert {"ACTIVE", "BUILD"} <= {vm.status for vm in page.vms}
    assert {1, 3} <= found.keys()
    assert len(page.vms) + page.unreadable == 3
    for vm in page.vms:
        for value in (
            vm.name,
            vm.status,
            vm.flavor,
            vm.region,
            vm.fixed_ip,
            vm.floating_ip,
            vm.provider_id,
            *vm.labels,
        ):
            assert storable(value)
        assert abs(vm.contract_id or 0) < 2**31
        assert abs(vm.gpu_count or 0) < 2**31
        orjson.dumps(dict(vm.raw) | {"raw": None})


@given(item=JSON)
def test_what_has_no_readable_id_is_counted_so_that_nobody_concludes_an_absence(item):
    page = read(LIST, answers.vm_page, {"instances": [{"id": 1}, item]})
    assert len(page.vms) + page.unreadable == 2
    assert page.vms[0].provider_id == 1


@given(document=JSON, which=st.sampled_from(PARSERS))
def test_no_document_raises_anything_but_our_errors(document, which):
    call, parse = which
    assert storable(error_of(lambda: read(call, parse, document)))


@given(key=st.sampled_from(["instance", "instances", "contract", "contracts", "data", "images", "stocks", "instance_events",
                            "pricebook", "available", "message", "errors", "environments"]), value=JSON,
       status=st.sampled_from([200, 400, 404, 409, 500]), which=st.sampled_from(PARSERS))  # fmt: skip
def test_no_field_of_any_answer_raises_anything_but_our_errors(key, value, status, which):
    call, parse = which
    for document in ({key: [value, {"id": 7, key: value}]}, {key: value}):
        answer = HttpResponse(status=status, headers={}, body=dumps(document))
        assert storable(error_of(partial(wire.read, call, answer, parse)))


@given(entries=st.lists(st.dictionaries(TEXT, JSON, max_size=4), max_size=4))
def test_a_history_of_anything_can_be_written_as_events(entries):
    items = read(calls.vm_events(5), answers.history, {"instance_events": entries})
    assert len(items) == len(entries)
    assert all(encode(item.raw) for item in items)


@given(value=JSON)
def test_what_is_decoded_is_the_same_again_when_it_is_written_and_read(value):
    once = json.loads(encode({"value": decode(dumps(value))}))
    assert decode(encode(once)) == once


@pytest.mark.parametrize("body", [b"", b"{", b"<html>", b"\xff", b"\xef\xbb\xbf", b"nul", b"[" * 100_000])
def test_what_is_no_json_is_nothing(body):
    assert decode(body) is None
