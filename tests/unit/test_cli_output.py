"""What people see: ages, counts, tables, help."""

from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from service.cli import views
from service.cli.as_of import moment
from service.cli.exits import CliError, Exit
from service.cli.main import app
from service.cli.output import age_of, counts, span, table, time_of

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


def test_a_table_in_a_pipe_cuts_nothing_off(capsys: pytest.CaptureFixture[str]) -> None:
    table([{"a": "x" * 150, "b": "[bold]y"}], [("a", lambda r: r["a"]), ("b", lambda r: r["b"])], nothing="none")
    printed = capsys.readouterr().out
    assert "x" * 150 in printed
    assert "[bold]y" in printed


def test_a_table_without_rows_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    table([], [("a", str)], nothing="no such VMs")
    assert capsys.readouterr().out == "no such VMs\n"


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
