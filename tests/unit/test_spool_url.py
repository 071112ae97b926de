"""The URL of a spool in NATS: what it may say, what it must not, and no secret in any message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.app.daemon import check_needs
from service.config import PREFIX, load
from service.errors import ConfigError
from service.receiver import spool_check
from service.spool_url import SpoolUrl


def test_a_whole_url():
    url = SpoolUrl.parse("nats://us%40er:p%2Fass@a:4222,b,[::1]:5/My_spool-1?replicas=5")
    assert url.servers == ("a:4222", "b:4222", "[::1]:5")
    assert (url.stream, url.replicas, url.tls) == ("My_spool-1", 5, False)
    assert url.user.get_secret_value() == "us@er"
    assert url.password.get_secret_value() == "p/ass"
    assert url.shown == "nats://a:4222,b:4222,[::1]:5/My_spool-1"
    assert "ass" not in repr(url)


def test_what_is_not_said_has_a_default():
    url = SpoolUrl.parse("tls://token@host/S")
    assert (url.servers, url.replicas, url.tls, url.password) == (("host:4222",), 3, True, None)
    assert url.user.get_secret_value() == "token"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http://a/S", "must begin with"),
        ("a:4222/S", "must begin with"),
        ("nats://a", "name of a stream"),
        ("nats://a/S.T", "name of a stream"),
        ("nats://a/S/T", "name of a stream"),
        ("nats:///S", "host:port"),
        ("nats://a,,b/S", "host:port"),
        ("nats://a:0/S", "host:port"),
        ("nats://a:70000/S", "host:port"),
        ("nats://a/S?replicas=2", "1, 3 or 5"),
        ("nats://a/S?replicas=3&replicas=1", "1, 3 or 5"),
        ("nats://a/S?replica=3", "no other option"),
    ],
)
def test_a_wrong_url_is_said_to_be_with_the_setting(monkeypatch, tmp_path, text, why):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"{PREFIX}SPOOL_URL", text)
    with pytest.raises(ConfigError) as caught:
        load()
    ((name, message),) = caught.value.field_errors
    assert name == f"{PREFIX}SPOOL_URL"
    assert why in message


@given(
    st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S"))), st.sampled_from(["", "[", "]", "/", "@"])
)
def test_no_error_quotes_what_may_be_a_password(text, around):
    secret, shown = "hunter2-hunter2", []
    try:
        url = SpoolUrl.parse(f"nats://user:{around}{secret}{around}@{text}")
        shown += [repr(url), url.shown]
    except ValueError as error:
        shown.append(repr(error))
    assert secret not in str(shown)


def test_the_extra_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = load(spool_url="nats://a/S", infrahub_api_key="key", public_url="https://rollcall.example.com")
    check_needs(settings)
    monkeypatch.setattr(spool_check, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'rollcall-fleet\[nats\]'"):
        check_needs(settings)
    check_needs(settings, "worker")  # it receives no callbacks
