"""Log lines: JSON on standard error, and no secret in them."""

import json
from uuid import UUID

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from service.core.api_token import RANDOM, mint_api_token
from service.core.token import CreationRef, mint
from service.runtime.logs import configure_logs, logger, redact_secrets
from service.runtime.metrics import Metrics

TOKEN = mint(CreationRef(UUID("0198c0de-0000-7000-8000-00000000beef"), 7), b"a secret of thirty-two characters")


def struck(**line):
    return redact_secrets(None, "info", line)


@pytest.fixture
def restored():
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "key",
    [
        "api_key",
        "apikey",
        "API_KEY",
        "infrahub_api_key",
        "secret",
        "callback_secrets",
        "password",
        "Authorization",
        "token",
    ],
)
def test_a_key_that_names_a_secret_is_struck_out(key):
    assert struck(**{key: "hunter2"}) == {key: "…"}


def test_a_lease_token_is_struck_out_too_and_ordinary_keys_are_not():
    assert struck(lease_token="x", action="submit", tokens=3) == {"lease_token": "…", "action": "submit", "tokens": 3}


@pytest.mark.parametrize("cut", [0, 20])
def test_an_api_token_is_struck_out_of_any_text(cut):
    token = mint_api_token(bytes(range(RANDOM)))[: -cut or None]
    assert struck(event=f"sent Bearer {token}, twice {token}") == {"event": "sent Bearer rollcall_…, twice rollcall_…"}


@pytest.mark.parametrize("spelling", [str, str.upper])
def test_the_mac_of_a_callback_url_is_struck_out_of_any_text(spelling):
    line = struck(
        event=f"posted to https://x.example/callbacks/{spelling(TOKEN)}", error=f"bad token {spelling(TOKEN)}"
    )
    for text in line.values():
        assert TOKEN[38:] not in text.lower()
        assert TOKEN[:38] in text.lower()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://rollcall:hunter2@db:5432/rollcall", "postgresql://rollcall:…@db:5432/rollcall"),
        ("postgresql+asyncpg://:hunter2@/x", "postgresql+asyncpg://:…@/x"),
        ("could not reach http://a:hunter2@b/ at all", "could not reach http://a:…@b/ at all"),
        ("https://rollcall.example.com:8080/x", "https://rollcall.example.com:8080/x"),
    ],
)
def test_the_password_of_a_url_is_struck_out(text, expected):
    assert struck(error=text) == {"error": expected}


@given(st.dictionaries(st.text(max_size=10), st.none() | st.integers() | st.text(max_size=40), max_size=4))
def test_no_line_raises_and_none_loses_a_key(line):
    assert set(redact_secrets(None, "info", dict(line))) == set(line)


def test_lines_are_json_with_level_and_time_and_without_secrets(capsys, restored):
    configure_logs("info", "json")
    logger(job="submit").warning("call failed", action="create", api_key="hunter2", url=f"https://x/callbacks/{TOKEN}")
    logger().debug("not at this level")
    written = capsys.readouterr()
    line = json.loads(written.err)
    assert written.out == ""
    assert (line["event"], line["level"], line["action"], line["job"]) == (
        "call failed",
        "warning",
        "create",
        "submit",
    )
    assert line["timestamp"].endswith("Z")
    assert "hunter2" not in written.err
    assert TOKEN[38:] not in written.err


def test_a_traceback_in_a_line_holds_no_secret_either(capsys, restored):
    configure_logs("info", "json")
    try:
        raise RuntimeError(f"postgresql://u:hunter2@db and {TOKEN}")
    except RuntimeError:
        logger().exception("pass failed", action="apply")
    written = capsys.readouterr().err
    assert "RuntimeError" in written
    assert "hunter2" not in written
    assert TOKEN[38:] not in written


def test_lines_may_also_be_for_people(capsys, restored):
    configure_logs("debug", "console")
    logger().debug("hello", action="greet")
    assert "hello" in capsys.readouterr().err


def test_two_processes_worth_of_metrics_do_not_meet():
    one, other = Metrics(), Metrics()
    one.orphans.inc()
    assert one.registry.get_sample_value("rollcall_orphans_total") == 1
    assert other.registry.get_sample_value("rollcall_orphans_total") == 0
