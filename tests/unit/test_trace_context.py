"""The header `traceparent`, and ids that are derived from the record."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.trace_context import SpanRef, of_submission, of_vm, parse

VALID = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("header", "is_valid"),
    [
        (VALID, True),
        (f" {VALID} ", True),
        (VALID[:-1] + "0", True),
        ("01" + VALID[2:] + "-what-comes-later", True),
        (VALID + "-more", False),
        ("ff" + VALID[2:], False),
        (VALID.upper(), False),
        (VALID.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), False),
        (VALID.replace("b7ad6b7169203331", "0" * 16), False),
        ("", False),
    ],
)
def test_only_a_header_as_the_w3c_has_it_is_read(header: str, is_valid: bool) -> None:
    assert (parse(header) is not None) is is_valid


def test_the_flag_says_whether_the_caller_samples() -> None:
    assert parse(VALID) == SpanRef(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_sampled=True)
    assert parse(VALID[:-1] + "0").is_sampled is False


@given(st.text())
def test_no_text_raises(text: str) -> None:
    assert parse(text) is None or len(text.strip()) >= 55


@given(st.uuids(version=4), st.integers(1, 10**6))
def test_ids_are_those_of_the_record_and_never_zero(submission_id: UUID, vm_no: int) -> None:
    one = of_vm(submission_id, vm_no)
    assert one == of_vm(submission_id, vm_no)
    assert one != of_vm(submission_id, vm_no + 1)
    assert 0 < one.trace_id < 2**128
    assert 0 < one.span_id < 2**64
    assert of_submission(submission_id, None).trace_id == submission_id.int
    assert of_submission(submission_id, VALID).span_id == of_submission(submission_id, None).span_id
