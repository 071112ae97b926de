"""The rules of notifications: every error at once, none with a secret in it, and what they match."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from service.config import load
from service.errors import ConfigError
from service.notify_rules import (
    BUILT_IN,
    KINDS,
    NotifyTarget,
    is_key,
    shown,
    wanted_kinds,
    webhook_errors,
    with_built_in,
)

KEY = "whsec_" + "a" * 32


@pytest.fixture(autouse=True)
def _nothing_else_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def errors(monkeypatch: pytest.MonkeyPatch, value: Any) -> list[str]:
    monkeypatch.setenv("ROLLCALL_NOTIFY", value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(ConfigError) as caught:
        load()
    assert "hunter2" not in f"{caught.value!r}{caught.value}"
    return [one.message for one in caught.value.field_errors if one.field == "ROLLCALL_NOTIFY"]


def test_every_error_is_told_at_once_with_its_place_and_without_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    found = errors(
        monkeypatch,
        [
            {"name": "Bad Name", "to": "https://example.com/hunter2", "secrets": [KEY]},
            {"name": "no-key", "to": "https://example.com/hunter2"},
            {
                "name": "bad-key",
                "to": "https://u:hunter2@example.com/",
                "secrets": [KEY, "hunter2"],
                "events": ["vm.gone"],
            },
            {"name": "log", "to": "slack://hunter2"},
            {"name": "chat", "to": "slack://hunter2", "secrets": ["hunter2"]},
            {"name": "more", "to": "hunter2", "frequency": 3},
            "hunter2",
        ],
    )
    assert [one.partition(":")[0] for one in found] == ["0.name", "1", "2", "3", "4", "5.frequency", "6"]
    assert "to must hold no user name and no password" in found[2]
    assert "vm.gone is no kind of event; such are submission.ready," in found[2]
    assert "secrets: number 2 is not whsec_" in found[2]


@pytest.mark.parametrize("value", ["{", "hunter2", "3", '{"name": "hunter2"}'])
def test_what_is_no_list_of_targets_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert len(errors(monkeypatch, value)) == 1


def test_names_are_not_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors(monkeypatch, [{"name": "a", "to": "slack://x"}] * 2) == ["two targets have the same name"]


def test_the_rules_may_be_in_a_file_and_no_repr_shows_what_is_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "rules.json").write_text(
        json.dumps([{"name": "ops", "to": "https://example.com/hunter2", "secrets": [KEY]}])
    )
    monkeypatch.setenv("ROLLCALL_NOTIFY_FILE", str(tmp_path / "rules.json"))
    found = load()
    (ops,) = found.notify
    assert (ops.sort, ops.shown) == ("webhook", "https://example.com/…")
    assert "hunter2" not in f"{found!r}{ops!r}{ops}"
    assert KEY not in f"{found!r}"


def test_nothing_set_is_the_log_and_what_is_set_may_replace_it() -> None:
    assert with_built_in(()) == (BUILT_IN,)
    silent = NotifyTarget(name="log", to=SecretStr("log"), events=())
    assert with_built_in((silent,)) == (silent,)
    assert wanted_kinds((silent,)) == []
    assert set(wanted_kinds((BUILT_IN,))) < set(KINDS)


def test_a_rule_matches_kinds_and_any_of_its_labels() -> None:
    rule = NotifyTarget(name="a", to=SecretStr("slack://x"), events=("vm.*", "health.raised"), labels=("x", "y"))
    assert rule.wants("vm.lost", ["y", "z"])
    assert not rule.wants("vm.lost", ["z"])
    assert not rule.wants("vm.lost")
    assert not rule.wants("submission.ready", ["x"])
    assert NotifyTarget(name="a", to=SecretStr("slack://x")).wants("health.resolved")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("log", "log"),
        ("https://example.com/a/hunter2?b=hunter2", "https://example.com/…"),
        ("https://example.com?x=hunter2", "https://example.com/…"),
        ("http://[::1]:8443/", "http://[::1]:8443"),
        ("slack://hunter2/hunter2", "slack://…"),
        ("mailto://u:hunter2@example.com", "mailto://…"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, text: str) -> None:
    assert shown(url) == text


@given(st.text(max_size=80))
def test_any_text_is_judged_and_never_quoted_whole(url: str) -> None:
    for error in webhook_errors(url):
        assert len(url) < 12 or url not in error
    with suppress(ValidationError):
        NotifyTarget(name="a", to=SecretStr(url), secrets=(SecretStr(KEY),))


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_ä", "whsec_" + "a" * 28, "whsec_" + "a" * 33, "a" * 32, "whsec_" + "a" * 96]
)
def test_a_key_has_the_form_and_the_size_that_standard_webhooks_asks_for(secret: str) -> None:
    assert not is_key(secret)
    assert is_key(KEY)
