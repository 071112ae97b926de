"""What people see: ages, counts, tables, help."""

import io
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from service.cli import views
from service.cli.as_of import moment
from service.cli.exits import CliError, Exit
from service.cli.main import app
from service.cli.output import Column, Layout, age_of, as_json, counts, escape, facts, say, span, table, time_of
from service.cli.output import _width as output_width

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59, "59s"), (90, "2m"), (5400, "1.5h"), (200000, "2.3d")])
def test_a_span_is_told_in_its_largest_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_an_age_is_counted_from_a_time_of_the_api() -> None:
    assert age_of("2026-03-02T11:59:30.5Z", NOW) == "30s"
    assert age_of("2026-03-02T12:00:05Z", NOW) == "0s"
    assert age_of(None, NOW) == ""


def test_a_time_keeps_its_zone() -> None:
    assert time_of("2026-03-02T11:59:30.123456Z") == "2026-03-02 11:59:30Z"
    assert time_of(None) == ""


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ("2026-03-01", "2026-03-01T00:00:00Z"),
        ("2026-11-01T12:00Z", "2026-11-01T12:00:00Z"),
        (" 2026-11-01t12:00:30.5z ", "2026-11-01T12:00:30.500000Z"),
        ("2026-11-01 12:00+01:00", "2026-11-01T11:00:00Z"),
        (None, None),
    ],
)
def test_a_time_that_is_typed_becomes_one_of_the_api(typed: str | None, asked: str | None) -> None:
    assert moment("--at", typed) == asked


@pytest.mark.parametrize(
    "typed", ["2026-11-01T12:00", "2026-13-01", "20260301", "noon", "", "2026-02-30", "0001-01-01T00:00+12:00"]
)
def test_a_time_that_could_be_anywhere_or_is_none_is_wrong_usage(typed: str) -> None:
    with pytest.raises(CliError) as refused:
        moment("--since", typed)
    assert refused.value.code is Exit.USAGE
    assert refused.value.lines[0].startswith("--since: ")


def test_counts_make_a_line() -> None:
    assert counts({"ACTIVE": 12, "BUILD": 8}) == "12 ACTIVE, 8 BUILD"
    assert counts({}) == "none"


A = Column("a", lambda row: row["a"])
B = Column("b", lambda row: row["b"])


class Terminal(io.StringIO):
    """Standard output on a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Terminal]:
    """Make standard output a terminal of a width."""

    def make(columns: int) -> Terminal:
        output = Terminal()
        monkeypatch.setattr("sys.stdout", output)
        monkeypatch.setenv("COLUMNS", str(columns))
        return output

    return make


def plain(text: str) -> str:
    return re.sub("\x1b\\[[0-9;]*m", "", text)


def test_a_pipe_is_never_folded_or_cut(capsys: pytest.CaptureFixture[str]) -> None:
    table([{"a": "word " * 150, "b": "[bold]y"}], [A._replace(wraps=True), B._replace(wide=True)], nothing="none")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "word " * 150 in lines[1]
    assert lines[1].endswith("[bold]y")


def test_a_table_without_rows_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    table([], [A], nothing="no such VMs")
    assert capsys.readouterr().out == "no such VMs\n"


SUBMISSION_ID = "0198c0de-0000-7000-8000-000000000000"
EXAMPLES: dict[str, tuple[tuple[Column, ...], dict[str, Any]]] = {
    "submissions": (
        views.SUBMISSIONS,
        {
            "submission_id": SUBMISSION_ID,
            "name": "a-long-name-of-a-submission-that-goes-on",
            "state": "cancelled",
            "ready": 10_000,
            "count": 100_000,
            "on_contract": 100_000,
            "on_demand": 100_000,
            "created_at": "2026-03-01T12:00:00Z",
            "counts": {"ACTIVE": 10_000, "BUILD": 80_000, "ERROR": 10_000, "HIBERNATED": 3},
        },
    ),
    "vms": (
        views.VMS,
        {
            "corroboration": "contradicted",
            "ref": f"{SUBMISSION_ID}.100000",
            "submission_id": SUBMISSION_ID,
            "vm_no": 100_000,
            "provider_id": 507_279,
            "name": "a-long-name-of-a-submission-that-goes-on-100000",
            "state": "HIBERNATING",
            "state_since": "2026-03-01T12:00:00Z",
            "ready": True,
            "contract_requested": 41,
            "contract_id": None,
            "assignment": "on_demand",
            "floating_ip": "203.0.113.255",
            "fixed_ip": None,
            "region": "CANADA-1",
            "reason": "the provider says a lot " * 9,
            "deletion_reason": None,
        },
    ),
    "orphans": (
        views.ORPHANS,
        {
            "provider_id": 507_279,
            "name": "a-long-name-of-a-submission-that-goes-on-100000",
            "state": "suspected",
            "found_at": "2026-03-01T12:00:00Z",
            "submission_id": SUBMISSION_ID,
            "reason": "it carries our ownership tag, and no creation waits for it",
        },
    ),
    "timeline": (
        views.TIMELINE,
        {
            "at": "2026-03-01T12:00:00.123456Z",
            "text": "the provider answered with 200 and a list of twenty VMs, " * 3,
            "evidence": {"kind": "transition", "id": "x" * 36},
        },
    ),
    "vms as of": (
        views.VMS_AS_OF,
        {
            "corroboration": "contradicted",
            "ref": f"{SUBMISSION_ID}.100000",
            "submission_id": SUBMISSION_ID,
            "vm_no": 100_000,
            "provider_id": 507_279,
            "name": "a-long-name-of-a-submission-that-goes-on-100000",
            "state": "HIBERNATING",
            "since": "2026-03-01T12:00:00Z",
            "contract_requested": 41,
            "contract_outcome": "on_demand",
            "off_contract": True,
            "evidence": {"kind": "event", "id": SUBMISSION_ID},
            "region": "CANADA-1",
        },
    ),
    "off contract": (
        views.OFF_CONTRACT,
        {
            "ref": f"{SUBMISSION_ID}.100000",
            "submission_id": SUBMISSION_ID,
            "vm_no": 100_000,
            "provider_id": 507_279,
            "name": "a-long-name-of-a-submission-that-goes-on-100000",
            "gpu_count": 10,
            "gpu_model": "A100-80G-PCIe-NVLink",
            "flavor": "n3-A100x10",
            "contract_requested": 12_345,
            "since": "2026-03-01T12:00:00Z",
            "until": None,
            "seconds": 99_999.0,
        },
    ),
    "events": (
        views.EVENTS,
        {
            "received_at": "2026-03-01T12:00:00.123456Z",
            "event_id": SUBMISSION_ID,
            "submission_id": SUBMISSION_ID,
            "creation_no": 5000,
            "provider_id": 507_279,
            "operation": "createVM",
            "status": "ACTIVE",
            "dead_letter": {"kind": "unknown_vm", "reason": "no VM of this creation has that id"},
            "waiting": True,
        },
    ),
    "calls": (
        views.CALLS,
        {
            "begun_at": "2026-03-01T12:00:00.123456Z",
            "call_id": SUBMISSION_ID,
            "operation": "assign contract",
            "submission_id": SUBMISSION_ID,
            "creation_no": 5000,
            "provider_id": None,
            "ms": 180_000,
            "status": 503,
            "outcome": "unconfirmed",
            "error": "no answer within 180 s, and the connection was lost",
        },
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_table_fits_80_columns_and_breaks_no_word(name: str, terminal: Callable[[int], Terminal]) -> None:
    columns, row = EXAMPLES[name]
    output = terminal(80)
    table([row, row], columns, nothing="none")
    lines = plain(output.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    wrapped = {word for column in columns if column.wraps and not column.wide for word in str(column.read(row)).split()}
    assert wrapped <= {word for line in lines for word in line.split()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_wide_prints_every_column_whole(name: str, terminal: Callable[[int], Terminal]) -> None:
    columns, row = EXAMPLES[name]
    output = terminal(80)
    table([row], columns, nothing="none", layout=Layout(wide=True))
    heading, line = plain(output.getvalue()).splitlines()
    for column in columns:
        assert column.name in heading
        value = column.read(row)
        assert ("yes" if value is True else str(value).strip()) in line


@given(
    st.lists(st.tuples(st.text("ab \u591c\u0301", max_size=60), st.text("xy z", max_size=90)), min_size=1, max_size=5),
    st.integers(60, 200),
)
def test_any_rows_fit_if_their_words_do(rows: list[tuple[str, str]], width: int) -> None:
    output = Terminal()
    columns = [Column("a", itemgetter(0), clips=True), Column("words", itemgetter(1), wraps=True)]
    fits = max(len(word) for _, text in [*rows, ("", "words")] for word in [*text.split(), ""]) <= 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", output)
        patch.setenv("COLUMNS", str(width))
        table(rows, columns, nothing="none")
    lines = plain(output.getvalue()).splitlines()
    assert not fits or max(map(output_width, lines)) <= width
    assert " ".join(lines).split().count("words") == 1


def test_columns_are_chosen_and_ordered_by_name(terminal: Callable[[int], Terminal]) -> None:
    output = terminal(80)
    rows = [EXAMPLES["vms"][1]]
    table(rows, views.VMS, nothing="none", layout=Layout(columns="State, provider id"))
    assert [line.split() for line in plain(output.getvalue()).splitlines()] == [
        ["state", "provider", "id"],
        ["HIBERNATING", "507279"],
    ]
    with pytest.raises(CliError, match="there is no column 'colour'; use ref, provider id") as raised:
        table([], views.VMS, nothing="none", layout=Layout(columns="colour"))
    assert raised.value.code is Exit.USAGE


def test_a_table_of_thousands_of_rows_takes_less_than_a_second(terminal: Callable[[int], Terminal]) -> None:
    columns, row = EXAMPLES["vms"]
    output = terminal(80)
    began = time.process_time()
    table([row] * 2408, columns, nothing="none")
    assert time.process_time() - began < 1
    assert len(output.getvalue().splitlines()) == 2409


UNPRINTABLE = "\x1b]0;x\x07\x9b31m\u202e\u2066\u200b\x7f\r\n\t\x00"


@given(st.text(st.characters(categories=("Cc", "Cf", "Zl", "Zp", "L", "Sm"))))
def test_nothing_unprintable_reaches_the_terminal(text: str) -> None:
    for hostile in (text, UNPRINTABLE + text):
        assert escape(hostile).isprintable()
        with pytest.MonkeyPatch.context() as patch:
            out, err = Terminal(), Terminal()
            patch.setattr("sys.stdout", out)
            patch.setattr("sys.stderr", err)
            table([{"a": hostile, "b": 1}], [A, B], nothing="none")
            facts(hostile, {hostile: hostile})
            say(hostile)
        assert plain(out.getvalue()).replace("\n", "").isprintable()
        assert err.getvalue().rstrip("\n").isprintable()


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_keeps_every_character_and_prints_only_printable_ones(value: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        output = io.StringIO()
        patch.setattr("sys.stdout", output)
        as_json([value, UNPRINTABLE])
    assert json.loads(output.getvalue()) == [value, UNPRINTABLE]
    assert output.getvalue().replace("\n", "").isprintable()


def test_escapes_are_readable() -> None:
    assert escape("a\x1b[31m\u202eb\n\U000e0001") == "a\\x1b[31m\\u202eb\\x0a\\U000e0001"
    assert escape("\u00e9\u591c [bold]") == "\u00e9\u591c [bold]"


def test_markup_is_text(terminal: Callable[[int], Terminal]) -> None:
    output = terminal(80)
    table([{"a": "[red]x[/red]", "b": ":smile:"}], [A, B], nothing="none")
    facts("[bold]t", {"[b]": "[link=x]y"})
    assert all(text in output.getvalue() for text in ("[red]x[/red]", ":smile:", "[bold]t", "[b]", "[link=x]y"))


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"contract_requested": None}, ""),
        ({"contract_requested": 41, "contract_id": 41, "assignment": "assigned"}, "41"),
        ({"contract_requested": 41, "contract_id": None, "assignment": "on_demand"}, "41 on demand"),
    ],
)
def test_a_contract_is_told_with_how_it_stands(facts: dict, text: str) -> None:
    assert views._contract(facts) == text


@pytest.mark.parametrize("command", [one.name for one in app.registered_commands])
def test_every_command_has_help_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"rollcall {command}" in shown.output.partition("Example:")[2].replace("\n", " ")


def test_the_exit_codes_are_in_the_help() -> None:
    assert "3 no daemon answers" in " ".join(CliRunner().invoke(app, ["--help"]).output.split())
