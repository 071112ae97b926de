"""What `rollcall submit` makes of its flags and its file."""

import io
import json
from pathlib import Path

import pytest

from service.cli import body
from service.cli.exits import CliError, Exit


def test_flags_alone_make_a_body_of_what_was_said() -> None:
    assert body.of(None, {"name": "a", "count": 3, "labels": None}, {"on_stuck": None}) == {"name": "a", "count": 3}


def test_one_vm_is_asked_for_where_nothing_says_how_many() -> None:
    assert body.of(None, {"name": "a"}, {})["count"] == 1


def test_flags_go_over_the_file_and_policies_are_merged(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text(json.dumps({"name": "a", "count": 7, "policy": {"on_orphan": "delete", "on_stuck": "report"}}))
    made = body.of(str(file), {"name": "b", "count": None}, {"on_stuck": "replace"})
    assert made == {"name": "b", "count": 7, "policy": {"on_orphan": "delete", "on_stuck": "replace"}}


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"name": "a"}'))
    assert body.of("-", {}, {}) == {"name": "a", "count": 1}


@pytest.mark.parametrize(
    ("content", "words"), [(b"{", "is not JSON"), (b"[]", "a JSON object"), (b"\xff", "not text"), (None, "be read")]
)
def test_a_file_that_is_no_json_object_is_wrong_usage(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "spec.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CliError, match=words) as raised:
        body.of(str(file), {}, {})
    assert raised.value.code is Exit.USAGE


@pytest.mark.parametrize(
    ("text", "ports", "ethertype", "network"),
    [
        ("tcp:22:203.0.113.0/24", (22, 22), "IPv4", "203.0.113.0/24"),
        ("udp:5000-5010:0.0.0.0/0", (5000, 5010), "IPv4", "0.0.0.0/0"),
        ("tcp:443:2001:db8::/32", (443, 443), "IPv6", "2001:db8::/32"),
        ("icmp::0.0.0.0/0", (None, None), "IPv4", "0.0.0.0/0"),
    ],
)
def test_a_security_rule_is_read_from_a_word(text: str, ports: tuple, ethertype: str, network: str) -> None:
    (rule,) = body.security_rules([text])
    assert (rule.get("port_range_min"), rule.get("port_range_max")) == ports
    assert (rule["direction"], rule["ethertype"], rule["remote_ip_prefix"]) == ("ingress", ethertype, network)


def test_an_alternative_is_read_from_a_word() -> None:
    (one, other) = body.alternatives(
        ["flavor=f,environment=e,contract=42,max-price=1.5", "flavor=f,environment=e,image=i,contract=none"]
    )
    assert one == {"flavor_name": "f", "environment_name": "e", "contract_id": 42, "max_price_per_hour": "1.5"}
    assert other == {"flavor_name": "f", "environment_name": "e", "image_name": "i", "on_demand": True}


@pytest.mark.parametrize("text", ["", "flavor", "flavour=f", "flavor=f;environment=e,count"])
def test_an_alternative_that_cannot_be_read_is_wrong_usage(text: str) -> None:
    with pytest.raises(CliError, match="--alternative") as raised:
        body.alternatives([text])
    assert raised.value.code is Exit.USAGE


@pytest.mark.parametrize("text", ["tcp", "tcp:22", "tcp:ssh:0.0.0.0/0", "tcp:1-x:0.0.0.0/0", "tcp:22:"])
def test_a_security_rule_that_cannot_be_read_is_wrong_usage(text: str) -> None:
    with pytest.raises(CliError, match="--security-rule") as raised:
        body.security_rules([text])
    assert raised.value.code is Exit.USAGE
