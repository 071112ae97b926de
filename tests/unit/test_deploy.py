"""What is in deploy/ is read by the software that reads it in earnest, and names only settings and files that exist."""

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import compose_spec
import kubernetes_validate
import pytest
import yaml

from service import config
from service.config import SECRETS, Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/rollcall"
SETTINGS = {f"ROLLCALL_{name.upper()}" for name in Settings.model_fields}
FILES = {f"ROLLCALL_{name.upper()}_FILE" for name in SECRETS}
#: What is no setting of the daemon: variables of Compose and Caddy, and those that only commands read.
OTHERS = {"ROLLCALL_IMAGE", "ROLLCALL_PROXY_SITE", "ROLLCALL_PROXY_UPSTREAM", config.API_URL, config.API_TOKEN}
VALUES = {"publicUrl": "https://rollcall.example.com", "settings": {"ROLLCALL_CALLS_PER_MINUTE": "400"}}
EVERYTHING = {
    **VALUES,
    "receiver": {"replicas": 3, "spool": {"storageClassName": "fast", "nats": True}},
    "worker": {"replicas": 2},
    "ingress": {"className": "nginx", "tlsSecretName": "tls", "annotations": {"a": "b"}},
    "networkPolicy": {"operatorFrom": [{"podSelector": {}}], "databaseTo": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "p"}},
    "prometheusRule": {"enabled": True},
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"a": "b"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
}  # fmt: skip
#: Helm's engine is a Go library: in a process of its own it cannot disturb other tests.
HELM = """
import json, sys
import helm_python as helm
def render(chart, values):
    try:
        chart.validate_schema(values)
        return {"pages": chart.render(values, name="fleet", namespace="gpu")}
    except helm.HelmError as error:
        return {"error": str(error)}
with helm.Chart.load(sys.argv[1]) as chart:
    print(json.dumps([render(chart, values) for values in json.load(sys.stdin)]))
"""
REFUSED = [
    ({}, "publicUrl"),
    ({"publicUrl": "https://Rollcall.example.com"}, "publicUrl"),
    ({**VALUES, "settings": {"PUBLIC_URL": "x"}}, "PUBLIC_URL"),
    ({**VALUES, "settings": {"ROLLCALL_CALLS_PER_MINUTE": 400}}, "ROLLCALL_CALLS_PER_MINUTE"),
    ({**VALUES, "receiver": {"replicas": 0}}, "replicas"),
]


def texts() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(DEPLOY.rglob("*")) if path.is_file()}


def compose() -> str:
    """The file, with its variables filled in as Compose does."""
    text = (DEPLOY / "compose/compose.yaml").read_text()
    text = re.sub(r"\$\{ROLLCALL_PROXY_SITE:\?[^}]*\}", "rollcall.example.com", text)
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@cache
def helm() -> list[dict[str, Any]]:
    """What Helm makes of the chart with each of the values: pages, or an error."""
    given = [VALUES, EVERYTHING, *(values for values, _ in REFUSED)]
    command = [sys.executable, "-c", HELM, str(CHART)]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    answer = helm()[[VALUES, EVERYTHING].index(values)]
    assert "pages" in answer, answer
    pages = sorted(answer["pages"].items())
    found = [one for name, text in pages if name.endswith(".yaml") for one in yaml.safe_load_all(text)]
    return [one for one in found if one is not None]


def resources(values: dict[str, Any], kind: str | None = None) -> list[dict[str, Any]]:
    return [one for one in rendered(values) if kind in {None, one["kind"]}]


def pods(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod of each part."""
    owners = [*resources(values, "StatefulSet"), *resources(values, "Deployment")]
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]["template"] for one in owners}


def test_every_setting_that_is_named_exists():
    pages = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "docs/howto").glob("*.md")}
    named = {
        (name, variable)
        for name, text in {**texts(), **pages}.items()
        for variable in re.findall(r"ROLLCALL_[A-Z_]*[A-Z]", text)
    }
    assert len(named) > 60
    assert {one for one in named if one[1] not in SETTINGS | FILES | OTHERS} == set()


def test_compose_reads_its_file_and_what_it_names_is_there():
    compose_spec.PyCompose.from_yaml(compose()).validate()
    given = yaml.safe_load(compose())
    for service in given["services"].values():
        assert set(service.get("secrets", ())) <= given["secrets"].keys()
        assert set(service["networks"]) <= given["networks"].keys()
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (DEPLOY / "compose" / source).is_file() if source.startswith(".") else source in given["volumes"]


def test_what_compose_sets_is_enough_for_the_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    shutil.copytree(DEPLOY / "compose", tmp_path / "compose")
    script = tmp_path / "compose/make-secrets.sh"
    for _ in range(2):  # the second time it changes nothing
        subprocess.run([script], input="the-key\n", text=True, check=True, capture_output=True)
    secrets = tmp_path / "compose/secrets"
    given = yaml.safe_load(compose())
    assert {path.name for path in secrets.iterdir()} == given["secrets"].keys()
    assert secrets.stat().st_mode & 0o077 == 0
    for name, value in given["services"]["rollcall"]["environment"].items():
        monkeypatch.setenv(name, value.replace("/run/secrets", str(secrets)))
    monkeypatch.chdir(tmp_path)
    settings = config.load()
    assert settings.infrahub_api_key.get_secret_value() == "the-key"
    assert list(settings.callers) == ["ops"]
    password = (secrets / "postgres-password").read_text()
    assert settings.database_url.get_secret_value() == f"postgresql://rollcall:{password}@postgres/rollcall"


def test_the_daemons_container_cannot_change_itself():
    daemon = yaml.safe_load(compose())["services"]["rollcall"]
    assert daemon["read_only"]
    assert daemon["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in daemon["ports"])


@pytest.mark.parametrize("version", ["1.25", "1.37"])
@pytest.mark.parametrize("values", [VALUES, EVERYTHING], ids=["few values", "every value"])
def test_kubernetes_accepts_what_the_chart_renders(values: dict[str, Any], version: str):
    for one in resources(values):
        if not one["apiVersion"].startswith("monitoring.coreos.com/"):
            kubernetes_validate.validate(one, version, strict=True)
    assert {one["kind"] for one in resources(EVERYTHING)} == {
        "Deployment", "Ingress", "NetworkPolicy", "PodDisruptionBudget", "PrometheusRule", "Service", "ServiceMonitor",
        "StatefulSet",
    }  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_the_chart_refuses_values_that_cannot_work(number: int):
    assert REFUSED[number][1] in helm()[2 + number]["error"]


def test_each_part_runs_hardened_with_the_settings_that_it_needs():
    parts = pods(EVERYTHING)
    assert parts.keys() == {"receiver", "worker", "api"}
    for part, pod in parts.items():
        (container,) = pod["spec"]["containers"]
        assert container["args"] == ["serve", "--only", part]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        given = {one["name"]: one["value"] for one in container["env"]}
        assert given["ROLLCALL_CALLS_PER_MINUTE"] == "400"
        # Only what calls the provider has its key.
        assert ("ROLLCALL_INFRAHUB_API_KEY_FILE" in given) == (part != "receiver")
        # And only what spools knows where to.
        assert ("ROLLCALL_SPOOL_URL_FILE" in given) == (part == "receiver")
        (secret,) = [one["secret"] for one in pod["spec"]["volumes"] if "secret" in one]
        paths = {f"/run/secrets/rollcall/{item['path']}" for item in secret["items"]}
        assert paths == {value for name, value in given.items() if name.endswith("_FILE")}
        mounted = {one["mountPath"] for one in container["volumeMounts"]}
        assert {"/data", "/tmp", "/run/secrets/rollcall"} == mounted
        assert pod["spec"]["terminationGracePeriodSeconds"] > Settings.model_fields["stop_seconds"].default + 5


def test_only_a_receiver_that_spools_to_nats_may_connect_to_it():
    for values, parts in ((VALUES, set()), (EVERYTHING, {"receiver"})):
        open_to = {
            policy["metadata"]["labels"]["app.kubernetes.io/component"]
            for policy in resources(values, "NetworkPolicy")
            if {"port": 4222} in [port for rule in policy["spec"]["egress"] for port in rule["ports"]]
        }
        assert open_to == parts


def test_selectors_select_the_pods_of_their_part():
    labels = {part: pod["metadata"]["labels"] for part, pod in pods(EVERYTHING).items()}
    for one in resources(EVERYTHING):
        part = one["metadata"]["labels"].get("app.kubernetes.io/component")
        spec = one["spec"]
        selector = spec.get("selector") or spec.get("podSelector") or {}
        wanted = selector.get("matchLabels", selector) if one["kind"] != "Ingress" else {}
        chosen = [name for name, given in labels.items() if wanted.items() <= given.items()]
        if wanted:
            assert chosen == ([part] if part else list(labels)), one["metadata"]["name"]


def test_a_budget_protects_only_parts_with_more_than_one_pod():
    def budgets(values):
        return [
            one["metadata"]["labels"]["app.kubernetes.io/component"] for one in resources(values, "PodDisruptionBudget")
        ]

    assert budgets(VALUES) == ["receiver"]
    assert budgets(EVERYTHING) == ["receiver", "worker"]


def test_nobody_reaches_the_operators_listener_unless_named():
    for values, open_to in ((VALUES, None), (EVERYTHING, [{"podSelector": {}}])):
        for policy in resources(values, "NetworkPolicy"):
            rules = policy["spec"]["ingress"]
            operator = [rule.get("from") for rule in rules if {"port": "operator"} in rule["ports"]]
            assert operator == ([open_to] if open_to else [])
            assert all(rule.get("from") for rule in rules)


def test_the_ingress_leads_to_the_callback_listener_alone():
    (ingress,) = resources(VALUES, "Ingress")
    (rule,) = ingress["spec"]["rules"]
    assert rule["host"] == "rollcall.example.com"
    assert [one["path"] for one in rule["http"]["paths"]] == ["/callbacks/", "/livez"]
    assert {one["backend"]["service"]["port"]["name"] for one in rule["http"]["paths"]} == {"callbacks"}


def test_the_chart_carries_the_alert_rules():
    (rule,) = resources(EVERYTHING, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())


def units() -> list[Path]:
    return sorted((DEPLOY / "systemd").glob("*.service"))


def analyzed(unit: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    name = unit.name.replace("@.", "@receiver.")
    (folder / name).write_text(unit.read_text().replace("/opt/rollcall/bin/rollcall", sys.executable))
    return subprocess.run(
        ["systemd-analyze", *command, str(folder / name)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("unit", units(), ids=lambda unit: unit.name)
def test_a_unit_keeps_secrets_out_of_the_environment(unit: Path):
    lines = [line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line and not line.startswith("#")]
    loaded = {value.partition(":")[0] for name, value in lines if name == "LoadCredential"}
    files = dict(value.split("=", 1) for name, value in lines if name == "Environment" and "_FILE=" in value)
    assert {value.removeprefix("%d/") for value in files.values()} == loaded
    assert files.keys() <= FILES
    values = dict(lines)
    assert values["ExecStart"].startswith("/opt/rollcall/bin/rollcall serve")
    assert int(values["TimeoutStopSec"]) > Settings.model_fields["stop_seconds"].default + 10


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed; to run these: apt-get install --no-install-recommends systemd",
)
@pytest.mark.parametrize("unit", units(), ids=lambda unit: unit.name)
def test_systemd_accepts_a_unit_and_finds_it_well_confined(unit: Path, tmp_path: Path):
    verified = analyzed(unit, tmp_path, "verify", "--man=no")
    assert (verified.returncode, verified.stderr) == (0, ""), verified.stderr
    confined = analyzed(unit, tmp_path, "security", "--offline=true", "--threshold=20")
    assert confined.returncode == 0, confined.stdout[-300:]


def test_the_image_runs_as_a_number_without_pip_or_compiler():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    final = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM ")) :]
    (user,) = [line for line in final if line.startswith("USER ")]
    assert re.fullmatch(r"USER [1-9]\d+:[1-9]\d+", user)
    # The environment that goes into the image comes whole from the first stage, so nothing installs into it here.
    assert not [line for line in final if re.search(r"pip install|apt-get|ensurepip --", line)]
    (health,) = [line for line in final if line.startswith("HEALTHCHECK ")]
    assert "livez.py" in health
    assert "--require-hashes" in "\n".join(lines)
