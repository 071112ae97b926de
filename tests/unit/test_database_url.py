"""The database's URL: libpq's parameters, several hosts, and errors that hold no secret."""

from typing import Any

import pytest
from asyncpg import connect_utils
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ConfigError
from service.storage.database_url import parse

SECRET = "hunter2"


def understood(url: str) -> tuple[Any, Any]:
    """Where the driver connects by a URL of ours, as the driver itself reads it."""
    arguments = parse(url).connect_arguments()
    return connect_utils._parse_connect_dsn_and_args(
        dsn=arguments["dsn"],
        server_settings=arguments["server_settings"],
        **dict.fromkeys(
            [
                "host",
                "port",
                "user",
                "password",
                "passfile",
                "database",
                "ssl",
                "service",
                "servicefile",
                "direct_tls",
                "target_session_attrs",
                "krbsrvname",
                "gsslib",
            ]
        ),
    )


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("postgresql://u:p@db/x", [("db", 5432)]),
        ("postgres://u:p@db:6432/x", [("db", 6432)]),
        ("postgresql+asyncpg://u:p@db:6432/x", [("db", 6432)]),
        ("postgresql://u:p@h1:5432,h2:5433/x", [("h1", 5432), ("h2", 5433)]),
        ("postgresql://u:p@h1,h2,h3/x", [("h1", 5432), ("h2", 5432), ("h3", 5432)]),
        ("postgresql://u:p@/x?host=h1,h2&port=1,2", [("h1", 1), ("h2", 2)]),
        ("postgresql://u:p@/x?host=h1,h2&port=7", [("h1", 7), ("h2", 7)]),
        ("postgresql://u:p@/x?host=h1:4,h2:5", [("h1", 4), ("h2", 5)]),
        ("postgresql://u:p@/x?host=/run/p g", ["/run/p g/.s.PGSQL.5432"]),
        ("postgresql://u:p@:6000/x?host=/run", ["/run/.s.PGSQL.6000"]),
        ("postgresql://u:p@%2Frun%2Fpg/x", ["/run/pg/.s.PGSQL.5432"]),
        ("postgresql://u:p@[::1]:6432/x", [("::1", 6432)]),
        ("postgresql://h/x?user=u&password=p", [("h", 5432)]),
        ("postgresql://h?dbname=x&user=u&password=p", [("h", 5432)]),
    ],
)
def test_every_form_of_a_place_leads_there_and_survives_being_written_again(url: str, addresses: list[Any]):
    for text in (url, parse(url).url.render_as_string(hide_password=False)):
        found, parameters = understood(text)
        assert found == addresses
        assert (parameters.user, parameters.password, parameters.database) == ("u", "p", "x")


def test_parameters_of_libpq_reach_the_driver(tmp_path):
    for name in ("root", "cert", "key"):
        (tmp_path / name).touch()
    url = (
        "postgresql://u@h/x?sslmode=verify-full&connect_timeout=7&application_name=mine&options=-c%20jit%3Don"
        f"&channel_binding=prefer&sslrootcert={tmp_path}/root&sslcert={tmp_path}/cert&sslkey={tmp_path}/key"
    )
    arguments = parse(url).connect_arguments()
    assert arguments["timeout"] == 7
    assert arguments["server_settings"] == {"application_name": "mine", "options": "-c jit=on"}
    assert "jit" not in parse(url).first_statement
    assert "SET jit = off" in parse("postgresql://u@h/x").first_statement
    assert all(part in arguments["dsn"] for part in ("sslmode=verify-full", "sslrootcert=", "sslcert=", "sslkey="))
    assert not any(part in arguments["dsn"] for part in ("channel_binding", "connect_timeout", "options"))


def test_among_several_hosts_one_that_can_be_written_to_is_chosen_unless_another_is_asked_for():
    assert "target_session_attrs" not in parse("postgresql://u@h/x").connect_arguments()["dsn"]
    assert "target_session_attrs=read-write" in parse("postgresql://u@h1,h2/x").connect_arguments()["dsn"]
    asked = parse("postgresql://u@h1,h2/x?target_session_attrs=any").connect_arguments()["dsn"]
    assert "target_session_attrs=any" in asked


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u@h/x", "must begin with postgresql://"),
        ("a text", "is not a URL"),
        ("postgresql://u@h/x?keepalives=1&pool_size=0", "not supported: keepalives, pool_size"),
        ("postgresql://u@h/x?statement_cache_size=10", "statement_cache_size must be one of 0"),
        ("postgresql://u@h/x?channel_binding=require", "channel_binding must be one of disable, prefer"),
        ("postgresql://u@h/x?sslmode=on&target_session_attrs=best", "sslmode must be one of"),
        ("postgresql://u@h/x?connect_timeout=1e9", "connect_timeout must be"),
        ("postgresql://u@h/x?sslrootcert=/not/there", "the file that sslrootcert names cannot be read"),
        ("postgresql://u@h:99999/x", "port"),
        ("postgresql://u@h:x/x", "port"),
        ("postgresql://u@h1,h2/x?port=1,2,3", "a port for each"),
        ("postgresql://u@h/x?nonsense", "name=value"),
        ("postgresql://u:hunter2?hunter2=x@h/x", "not supported"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_error_without_a_secret(url: str, message: str):
    with pytest.raises(ConfigError, match="ROLLCALL_DATABASE_URL") as caught:
        parse(url)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)


pieces = st.sampled_from(
    ["postgresql://", "u", ":", "@", "h", "/", "?", "&", "=", ",", "[", "]", "%", "%00", "+", "#", "5432"]
)


@given(st.one_of(st.text(), st.lists(pieces | st.text(max_size=3)).map(lambda parts: "postgresql://" + "".join(parts))))
def test_any_text_is_a_url_or_a_clear_error(text: str):
    try:
        target = parse(text)
    except ConfigError as error:
        assert error.field_errors[0].field == "ROLLCALL_DATABASE_URL"  # noqa: PT017  either is right
    else:
        assert parse(target.url.render_as_string(hide_password=False)) == target
        assert repr(target) == "ConnectionTarget(…)"
