"""The alert rules, the Grafana dashboard and the page of metrics name only metrics, labels and values that exist."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from service.core.lifecycle import EvidenceKind, VerdictKind, VmState
from service.errors import ProviderError
from service.operations.provider_calls import _outcome
from service.receiver import responses
from service.runtime.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
BOARD = ROOT / "deploy/grafana/rollcall.json"
PROMTOOL = shutil.which("promtool")
#: What Prometheus adds to each sample, and its own series.
TARGET_LABELS = {"job", "instance"}
OF_PROMETHEUS = {"up": ("up", set()), "ALERTS": ("ALERTS", {"alertname", "alertstate", "severity"})}
VARIABLES = {"$__rate_interval": "5m", "$job": "rollcall"}


def subclasses(kind: type) -> Iterator[type]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


#: The values of labels, as far as the code says which there are.
VALUES = {
    ("rollcall_callbacks", "answer"): {one.name for one in responses.ALL},
    ("rollcall_events_applied", "verdict"): {str(one) for one in VerdictKind},
    ("rollcall_dead_letters", "kind"): {"unreadable", "unknown_vm", "failed"},
    ("rollcall_transitions", "to"): {str(one) for one in VmState},
    ("rollcall_transitions", "evidence"): {str(one) for one in EvidenceKind},
    ("rollcall_vms", "state"): {str(one) for one in VmState},
    ("rollcall_provider_calls", "outcome"): {_outcome(None), *(_outcome(one("")) for one in subclasses(ProviderError))},
    ("rollcall_job_runs", "outcome"): {"ok", "failed", "storage_unavailable"},
}


def series() -> dict[str, tuple[str, set[str]]]:
    """Each series that `/metrics` may have: the name of its metric, and its labels."""
    found = {}
    metrics = Metrics()
    for metric in vars(metrics).values():
        if metric is metrics.registry:
            continue
        (family,) = metric.collect()
        labels = set(metric._labelnames)
        names = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for name in names:
            found[family.name + name] = (family.name, labels | ({"le"} if name == "_bucket" else set()))
    return found


SERIES = {**OF_PROMETHEUS, **series()}


def wrong(query: str) -> list[str]:
    """What a query names that does not exist. Raises ValueError for what is no PromQL."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    selected, grouped = list[Any](), set[str]()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            selected.append(node)
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            grouped.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(query), visit)
    found = [finding for selector in selected for finding in wrong_in(selector)]
    known = TARGET_LABELS.union(*(SERIES[one.name][1] for one in selected if one.name in SERIES))
    return found + [f"nothing is labelled {name}" for name in sorted(grouped - known)]


def wrong_in(selector: Any) -> Iterator[str]:
    metric, labels = SERIES.get(selector.name, (None, set()))
    if metric is None:
        yield f"{selector.name} is no metric"
        return
    for one in selector.matchers.matchers:
        if one.name not in labels | TARGET_LABELS:
            yield f"{selector.name} has no label {one.name}"
        values = VALUES.get((metric, one.name), set(one.value.split("|")))
        yield from (f"{one.name} is never {value}" for value in one.value.split("|") if value not in values)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    board = json.loads(BOARD.read_text())
    for panel in board["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))
    yield from ((one["name"], one["expr"]) for one in board["annotations"]["list"])


@pytest.mark.parametrize(
    ("query", "finding"),
    [
        ("sum(rollcall_callback_total)", "rollcall_callback_total is no metric"),
        ("rollcall_vms{status='ACTIVE'}", "rollcall_vms has no label status"),
        ("rollcall_vms{state='ACTVE'}", "state is never ACTVE"),
        ("sum by (state) (rollcall_vms_stuck)", "nothing is labelled state"),
        ('rollcall_callbacks_total{answer=~"not_stored|bussy"}', "answer is never bussy"),
    ],
)
def test_a_query_that_names_what_does_not_exist_is_found(query, finding):
    assert wrong(query) == [finding]


def test_every_alert_names_what_exists_and_says_what_it_means():
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) > 15
    for rule in rules():
        assert wrong(rule["expr"]) == [], rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description"}
        for text in rule["annotations"].values():
            for page in re.findall(r"docs/\S+\.md", text):
                assert (ROOT / page).exists()


def test_every_query_of_the_dashboard_names_what_exists():
    found = {title: wrong(query) for title, query in queries()}
    assert len(found) > 20
    assert not any(found.values()), found


def test_every_metric_is_on_the_dashboard():
    text = BOARD.read_text()
    assert [name for name, (metric, _) in series().items() if metric not in text] == []


def test_the_dashboards_panels_have_ids_of_their_own_and_do_not_overlap():
    panels = json.loads(BOARD.read_text())["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    assert {one["type"] for one in panels} == {"row", "stat", "timeseries"}
    cells = [
        (x, y)
        for place in (one["gridPos"] for one in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_page_of_alerts_names_each_alert_and_no_other():
    page = (ROOT / "docs/howto/alerts.md").read_text()
    assert set(re.findall(r"`(Rollcall\w+)`", page)) == {rule["alert"] for rule in rules()}


def test_the_page_of_metrics_lists_each_with_its_type_labels_and_meaning():
    page = (ROOT / "docs/reference/metrics.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    listed = {name.strip("`"): rest for name, *rest in rows}
    expected = {}
    for metric in vars(Metrics()).values():
        if hasattr(metric, "_labelnames"):
            (family,) = metric.collect()
            name = family.name + ("_total" if family.type == "counter" else "")
            expected[name] = (family.type, metric._labelnames, family.documentation)
    assert {
        name: (kind.removesuffix(", record"), tuple(re.findall(r"`(\w+)`:", labels)), meaning)
        for name, (kind, labels, meaning, _) in listed.items()
    } == expected
    assert all(worry for *_, worry in listed.values())


def test_no_metric_has_a_label_that_prometheus_gives_to_what_it_scrapes():
    assert [name for name, (_, labels) in series().items() if labels & TARGET_LABELS] == []


@pytest.mark.skipif(
    PROMTOOL is None,
    reason="promtool is not installed; to run this: apt-get install --no-install-recommends prometheus",
)
@pytest.mark.parametrize("command", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")])
def test_promtool_accepts_the_alerts_and_their_tests(command: tuple[str, ...]):
    done = subprocess.run(
        [str(PROMTOOL), *command], cwd=ALERTS.parent, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
