"""CSV of a cost report: any reader of RFC 4180 gets the keys back, and no spreadsheet takes one for a formula."""

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from service.core.cost_csv import COLUMNS, to_csv


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=5))
def test_every_key_comes_back_and_none_begins_as_a_formula(keys: list[str]) -> None:
    rows = [dict.fromkeys(COLUMNS, "1.50") | {"key": key} for key in keys]
    written = to_csv("label", "USD", rows)
    header, *read = csv.reader(io.StringIO(written, newline=""))
    assert header == ["label", *COLUMNS[1:], "currency"]
    assert [row[0].removeprefix("'") for row in read] == [key.removeprefix("'") for key in keys]
    assert not any(row[0].startswith(("=", "+", "-", "@", "\t", "\r")) for row in read)
    assert all(row[1:] == ["1.50"] * (len(COLUMNS) - 1) + ["USD"] for row in read)
