"""The cost report over HTTP and on the command line: JSON, CSV, pages, errors, and gauges."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from clock import NOON
from operator_api import TOKEN, Api, serving
from sqlalchemy import text
from structlog.testing import capture_logs

from service.cli.main import main
from service.core.money import ListPrice
from service.runtime.runtime import Runtime
from service.storage import prices
from service.storage.engine import begin

PERIOD = "since=2026-03-02T12:00:00Z&until=2026-03-02T13:00:00Z"
FORMULA = "=HYPERLINK(1)"


@pytest.fixture
async def api(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    with capture_logs():
        async with serving(runtime) as api:
            monkeypatch.setenv("ROLLCALL_API_URL", api.url)
            monkeypatch.setenv("ROLLCALL_API_TOKEN", TOKEN)
            yield api


@pytest.fixture
async def submission(api: Api, runtime: Runtime) -> dict[str, Any]:
    """A submission of two VMs that were ACTIVE from noon on, of which one has a price; an hour later."""
    made = await api.submit(count=2, flavor_name="n1-cpu-small", labels=[FORMULA, "team-a"])
    async with begin(runtime.engine) as conn:
        await prices.insert_changed_prices(
            conn,
            [ListPrice(resource="N1-CPU-small", read_at=NOON, value=Decimal("0.05"), currency="USD", source="test")],
        )
        for vm_no in (1, 2):
            await become_active(conn, made["submission_id"], vm_no)
        await conn.execute(text("UPDATE vms SET flavor = 'of no known price' WHERE vm_no = 2"))
    runtime.clock.advance(3600)
    return made


async def become_active(conn: Any, submission_id: str, vm_no: int) -> None:
    key = {"id": UUID(submission_id), "no": vm_no}
    await conn.execute(
        text(
            "INSERT INTO transitions (submission_id, vm_no, seq, at, from_state, to_state, verdict, evidence, evidence_at)"
            " VALUES (:id, :no, 1, '2026-03-02T12:00:00Z', 'REQUESTED', 'ACTIVE', 'moved', 'answer',"
            " '2026-03-02T12:00:00Z')"
        ),
        key,
    )
    await conn.execute(
        text(
            "UPDATE vms SET state = 'ACTIVE', seq = 1, next_refresh_at = '2026-03-02T14:00:00Z'"
            " WHERE submission_id = :id AND vm_no = :no"
        ),
        key,
    )


async def test_a_report_names_its_estimate_its_currency_and_what_is_unknown(
    api: Api, submission: dict[str, Any]
) -> None:
    found = await api.get(f"/v1/cost?by=submission&{PERIOD}")
    row = {
        "key": submission["submission_id"],
        "vms": 2,
        "billed_seconds": "3600.000000",
        "unknown_seconds": "3600.000000",
        "estimate": "0.050000",
        "off_contract_seconds": "0",
        "off_contract_unknown_seconds": "0",
        "off_contract_estimate": "0.000000",
    }
    assert found == {
        "by": "submission",
        "since": "2026-03-02T12:00:00Z",
        "until": "2026-03-02T13:00:00Z",
        "currency": "USD",
        "total": row | {"key": "total"},
        "items": [row],
        "next": None,
    }


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("label", [FORMULA, "team-a"]),
        ("caller", ["tests"]),
        ("contract", ["none"]),
        ("region", ["none"]),
        ("flavor", ["n1-cpu-small", "of no known price"]),
        ("day", ["2026-03-02"]),
    ],
)
async def test_a_report_by_each_key_can_be_paged(
    api: Api, submission: dict[str, Any], by: str, keys: list[str]
) -> None:
    assert submission
    assert [row["key"] for row in await api.every(f"/v1/cost?by={by}&{PERIOD}&limit=1")] == keys
    rows = await api.every(f"/v1/cost?by=vm&{PERIOD}&limit=1&submission_id={submission['submission_id']}")
    assert [row["key"] for row in rows] == [f"{submission['submission_id']}.{no}" for no in (1, 2)]


@pytest.mark.parametrize(("query", "accept"), [("&format=csv", "*/*"), ("", "text/csv"), ("", "text/csv;q=0.9, */*")])
async def test_csv_is_safe_to_open_in_a_spreadsheet(
    api: Api, submission: dict[str, Any], query: str, accept: str
) -> None:
    assert submission
    answer = await api.request("GET", f"/v1/cost?by=label&{PERIOD}{query}", Accept=accept)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    header, first, second = csv.reader(io.StringIO(answer.json))
    assert (header[0], header[-1]) == ("label", "currency")
    assert (first[0], second[0]) == (f"'{FORMULA}", "team-a")
    assert dict(zip(header, second, strict=True))["estimate"] == "0.050000"
    assert "Link" not in answer.headers
    page = await api.request("GET", f"/v1/cost?by=label&limit=1&{PERIOD}&format=csv")
    assert 'rel="next"' in page.headers["Link"]
    following = await api.request("GET", page.headers["Link"].partition(">")[0][1:])
    assert "team-a" in following.json
    assert "HYPERLINK" not in following.json


async def test_json_can_be_asked_for_whatever_is_accepted(api: Api) -> None:
    answer = await api.request("GET", f"/v1/cost?format=json&since={at(-60)}", Accept="text/csv")
    assert answer.json["items"] == []


def at(seconds: float) -> str:
    return (NOON + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (f"until={at(9)}", ["until"]),
        (f"since={at(-5)}&until={at(-5)}", ["since"]),
        ("since=yesterday", ["since"]),
        ("since=2026-03-01T12:00:00", ["since"]),
        ("by=color", ["by"]),
        ("by=vm&cursor=nonsense", ["body"]),
        ("by=submission&cursor=none", ["body"]),
        ("limit=0", ["limit"]),
        ("colour=red", ["colour"]),
    ],
)
async def test_what_is_wrong_with_a_query_is_named(api: Api, query: str, fields: list[str]) -> None:
    answer = await api.request("GET", f"/v1/cost?{query}")
    assert answer.status == 422
    assert [one["field"] for one in answer.json["errors"]] == fields


async def test_a_submission_that_is_not_on_record_costs_nothing_because_it_is_an_error(api: Api) -> None:
    assert (await api.request("GET", f"/v1/cost?submission_id={UUID(int=9)}")).status == 404


async def test_the_metrics_show_the_cost_per_hour_and_what_is_unknown(api: Api, submission: dict[str, Any]) -> None:
    assert submission
    shown = (await api.request("GET", "/metrics")).json
    assert 'rollcall_cost_per_hour{assignment="on_demand",currency="USD"} 0.05' in shown
    assert 'rollcall_cost_per_hour{assignment="contract",currency="USD"} 0.0' in shown
    assert "rollcall_vms_price_unknown 1.0" in shown


async def test_the_money_of_a_vm_names_its_price_and_where_it_is_from(api: Api, submission: dict[str, Any]) -> None:
    priced, unpriced = [await api.get(f"/v1/vms/{submission['submission_id']}.{no}/cost") for no in (1, 2)]
    assert priced["price"] == {
        "resource": "N1-CPU-small",
        "read_at": "2026-03-02T12:00:00Z",
        "value": "0.05",
        "currency": "USD",
        "source": "test",
    }
    assert (priced["billed"], priced["per_hour"], priced["total"]["estimate"]) == ("full", "0.05", "0.050000")
    assert (priced["discount"], priced["per_hour_on_contract"]) == (None, None)
    assert (unpriced["price"], unpriced["per_hour"], unpriced["total"]["unknown_seconds"]) == (
        None,
        None,
        "3600.000000",
    )
    assert (await api.request("GET", f"/v1/vms/{UUID(int=9)}.1/cost")).status == 404


async def test_the_command_prints_a_table_of_80_columns_json_and_csv(
    api: Api,
    submission: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert api.url
    monkeypatch.chdir(tmp_path)

    async def run(*arguments: str) -> tuple[int, str]:
        def ended() -> tuple[int, str]:
            with pytest.raises(SystemExit) as raised:
                main(["cost", "--since", "2026-03-02T12:00Z", "--until", "2026-03-02T13:00Z", *arguments])
            return int(raised.value.code or 0), capsys.readouterr().out

        return await asyncio.to_thread(ended)

    for by in ("vm", "submission", "contract", "label", "caller", "flavor", "region", "day"):
        code, shown = await run("--by", by)
        assert code == 0
        assert max(map(len, shown.splitlines())) <= 80
        assert "0.05" in shown
    assert f"{submission['submission_id']}.1" in (await run("--by", "vm"))[1]
    assert "estimate for the whole period, in USD" in shown
    assert "1.0h of VM time, in no estimate" in shown
    code, shown = await run("--by", "flavor", "--json")
    assert [row["key"] for row in json.loads(shown)["items"]] == ["n1-cpu-small", "of no known price"]
    code, shown = await run("--by", "label", "--csv", "--all")
    assert [row["label"] for row in csv.DictReader(io.StringIO(shown))] == [f"'{FORMULA}", "team-a"]
    assert (await run("--csv", "--json"))[0] == 2
