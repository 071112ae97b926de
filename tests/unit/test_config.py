"""The settings: read from the environment and files, every mistake at once, and no secret in sight."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.config import PREFIX, RENAMED, SECRETS, Settings, host_and_port, load, unknown
from service.errors import ConfigError

LONG = "a secret of thirty-two characters"
#: Those whose value is the secret itself. That of `notify` is JSON with secrets in it.
PLAIN = [name for name in SECRETS if name != "notify"]


@pytest.fixture(autouse=True)
def _nothing_else_is_set(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def env(monkeypatch):
    def put(**values):
        for name, value in values.items():
            monkeypatch.setenv(PREFIX + name.upper(), value)

    return put


def field_errors(**overrides):
    with pytest.raises(ConfigError) as caught:
        load(**overrides)
    return {mistake.field.removeprefix(PREFIX): mistake.message for mistake in caught.value.field_errors}


def test_nothing_has_to_be_set():
    settings = load()
    assert settings.database_url is None
    assert settings.callers == {}
    assert settings.callback_listen == "127.0.0.1:8080"


def test_names_are_read_from_the_environment_and_a_dotenv_file(env, tmp_path):
    (tmp_path / ".env").write_text("ROLLCALL_LOOKUP_WINDOW_SECONDS=7\nROLLCALL_LOG_LEVEL=debug\nUNRELATED=1\n")
    env(log_level="error")
    settings = load()
    assert (settings.lookup_window_seconds, settings.log_level) == (7, "error")


def test_every_mistake_is_named_at_once(env, tmp_path):
    env(
        database_url="postgresql://user:hunter2@db/rollcall",
        calls_per_minute="many",
        callback_secrets=f"{LONG},too short",
        api_tokens="short",
        callback_listen="8080",
        api_listen="127.0.0.1:99999",
        infrahub_url="ftp://nowhere",
        public_url="https://UPPER.example",
        reassign_path="/contracts",
        lookup_window_seconds="-1",
        log_level="loud",
        infrahub_api_key_file=str(tmp_path / "not-there"),
    )
    found = field_errors()
    assert set(found) == {
        "CALLS_PER_MINUTE",
        "CALLBACK_SECRETS",
        "API_TOKENS",
        "CALLBACK_LISTEN",
        "API_LISTEN",
        "INFRAHUB_URL",
        "PUBLIC_URL",
        "REASSIGN_PATH",
        "LOOKUP_WINDOW_SECONDS",
        "LOG_LEVEL",
        "INFRAHUB_API_KEY_FILE",
    }
    assert all(found.values())


def test_no_secret_is_in_what_is_said_of_a_mistake(env):
    secret = "hunter2-hunter2"
    env(callback_secrets=f"{LONG},{secret}", api_tokens=f"{secret[:5]},{secret[5:]}", database_url=f"pg://u:{secret}@x")
    with pytest.raises(ConfigError) as caught:
        load()
    chain = [caught.value, caught.value.__cause__]
    assert not any("hunter" in f"{error!r}{error}" for error in chain)


def test_no_secret_shows_in_the_settings(env):
    env(
        database_url="postgresql://u:hunter2@db/rollcall",
        infrahub_api_key="hunter2",
        callback_secrets=f"hunter2 {LONG}",
        api_tokens="ops=hunter2-hunter2-hunter2",
        spool_url="nats://u:hunter2@a:4222/ROLLCALL",
    )
    settings = load()
    shown = (
        repr(settings),
        str(settings),
        settings.model_dump_json(),
        repr(settings.callers),
        repr(settings.spool),
        repr(settings.model_dump()),
    )
    assert not any("hunter2" in text for text in shown)


@pytest.mark.parametrize("name", PLAIN)
def test_a_secret_may_be_given_as_a_file(env, tmp_path, name):
    urls = {
        "database_url": "postgresql://u@db/rollcall",
        "infrahub_proxy": "http://u:p@proxy:3128",
        "seal_keys": "0f" * 32,
        "spool_url": "nats://u:p@a:4222/ROLLCALL",
    }
    value = urls.get(name, LONG)
    path = tmp_path / "secret"
    path.write_text(f"{value}\n")
    env(**{f"{name}_file": str(path)}, **({"callback_secrets": LONG} if name == "database_url" else {}))
    found = getattr(load(), name)
    assert (found[0] if isinstance(found, tuple) else found).get_secret_value() == value


def test_a_secret_may_be_given_as_a_file_that_dotenv_names(env, tmp_path):
    (tmp_path / "secret").write_text("from-the-file\n")
    (tmp_path / "other").write_text("from-another\n")
    (tmp_path / ".env").write_text("rollcall_infrahub_api_key_file=secret\n")
    assert load().infrahub_api_key.get_secret_value() == "from-the-file"
    env(infrahub_api_key_file="other")
    assert load().infrahub_api_key.get_secret_value() == "from-another"
    env(infrahub_api_key="from-the-environment")
    assert set(field_errors()) == {"INFRAHUB_API_KEY_FILE"}


@pytest.mark.parametrize("name", ["data_dir", "events_export_dir", "seal_publish_dir"])
def test_a_folder_may_begin_with_the_home_directory(env, monkeypatch, tmp_path, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".env").write_text(f"ROLLCALL_{name.upper()}=~/x\n")
    assert getattr(load(), name) == tmp_path / "x"
    env(**{name: "~no-such-user-of-tests/x"})
    assert set(field_errors()) == {name.upper()}


def test_a_variable_that_nobody_reads_is_named_with_the_nearest_and_without_its_value(env, tmp_path):
    (tmp_path / ".env").write_text("ROLLCALL_EVENT_DROP=hunter2\nrollcall_nothing_of_the_kind=hunter2\nOTHER=hunter2\n")
    env(
        callback_secret="hunter2",
        api_url="http://x",
        api_token="hunter2",
        lookup_window_seconds="7",
        api_tokens_file="hunter2",
        log_level_file="hunter2",
    )
    assert {one.field: one.message for one in unknown()} == {
        "ROLLCALL_CALLBACK_SECRET": "is no setting and changes nothing; did you mean ROLLCALL_CALLBACK_SECRETS?",
        "ROLLCALL_EVENT_DROP": "is no setting and changes nothing; did you mean ROLLCALL_EVENTS_DROP?",
        "ROLLCALL_LOG_LEVEL_FILE": "is no setting and changes nothing; did you mean ROLLCALL_LOG_LEVEL?",
        "ROLLCALL_NOTHING_OF_THE_KIND": "is no setting and changes nothing",
    }


@given(st.sampled_from(sorted(Settings.model_fields)), st.text("abcxyz_", min_size=1, max_size=3))
def test_no_setting_is_taken_for_one_that_nobody_reads_and_what_is_added_to_it_is(name, more):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"ROLLCALL_{name}".upper(), "1")
        patch.setenv(f"ROLLCALL_{name}{more}y".upper(), "1")
        assert [one.field for one in unknown()] == [f"ROLLCALL_{name}{more}y".upper()]


def test_a_secret_that_is_given_twice_is_a_mistake(env, tmp_path):
    path = tmp_path / "secret"
    path.write_text("from-the-file")
    env(infrahub_api_key="from-the-environment", infrahub_api_key_file=str(path))
    assert set(field_errors()) == {"INFRAHUB_API_KEY_FILE"}


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_a_mistake(env, tmp_path, content):
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    env(infrahub_api_key_file=str(path))
    assert "cannot be read" in field_errors()["INFRAHUB_API_KEY_FILE"]


def test_daemons_on_one_database_have_to_share_their_secrets(env):
    env(database_url="postgresql://u@db/rollcall")
    assert set(field_errors()) == {"CALLBACK_SECRETS"}
    env(callback_secrets=LONG)
    assert load().callback_secrets[0].get_secret_value() == LONG


def test_who_says_how_long_events_are_kept_has_to_say_where_they_go(env):
    env(events_keep_months="6")
    assert field_errors() == {
        "EVENTS_KEEP_MONTHS": "needs ROLLCALL_EVENTS_EXPORT_DIR, or ROLLCALL_EVENTS_DROP=true to keep no copy"
    }
    assert load(events_drop=True).events_keep_months == 6
    assert load(events_export_dir="there").events_keep_months == 6


def test_tokens_have_names_and_the_first_without_one_is_default(env):
    env(api_tokens="ops=0123456789abcdef, fedcba9876543210")
    assert {name: token.get_secret_value() for name, token in load().callers.items()} == {
        "ops": "0123456789abcdef",
        "default": "fedcba9876543210",
    }


def test_a_token_without_a_name_may_end_as_base64_does(env):
    env(api_tokens="c2VjcmV0LXNlY3JldA==")
    assert {name: token.get_secret_value() for name, token in load().callers.items()} == {
        "default": "c2VjcmV0LXNlY3JldA=="
    }


@pytest.mark.parametrize("tokens", ["0123456789abcdef,fedcba9876543210", "a=0123456789abcdef,a=fedcba9876543210"])
def test_two_tokens_of_one_name_are_a_mistake(env, tokens):
    env(api_tokens=tokens)
    assert set(field_errors()) == {"API_TOKENS"}


@pytest.mark.parametrize(
    "url", ["https://rollcall.example.com/", "http://10.0.0.1:8080", "https://x.example/below/a/path"]
)
def test_a_public_url_may_be_any_address_in_lower_case(url):
    assert load(public_url=url).public_url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "rollcall.example.com",
        "ftp://x",
        "https://",
        "https://x/?a=1",
        "https://x/#a",
        "https://X.example",
        f"https://{'a' * 162}",
    ],
)
def test_a_public_url_that_would_not_make_a_callback_url_is_a_mistake(url):
    assert set(field_errors(public_url=url)) == {"PUBLIC_URL"}


def test_an_empty_reassign_path_is_none():
    assert load(reassign_path=None).reassign_path is None
    assert load(reassign_path="/vms/{vm_id}/contract").reassign_path == "/vms/{vm_id}/contract"


def test_settings_do_not_change():
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.lookup_window_seconds = 1


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("localhost:0", ("localhost", 0)), ("[::1]:65535", ("::1", 65535))],
)
def test_addresses_are_host_and_port(address, expected):
    assert host_and_port(address) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        ":8080",
        "host:",
        "host:-1",
        "host:65536",
        "host:\uff18\uff10",
        "host:\u00b2",
        "host:80a",
        "host 80",
        "1.2.3.4:1_0",
    ],
)
def test_what_is_no_address_is_said_to_be_none(text):
    with pytest.raises(ValueError, match="host:port"):
        host_and_port(text)


@given(st.text(max_size=20))
def test_any_text_is_an_address_or_a_mistake_that_says_so(text):
    with suppress(ValueError):
        host, port = host_and_port(text)
        assert isinstance(host, str)
        assert 0 <= port <= 65535


def test_every_setting_says_what_it_is_or_has_a_name_that_does():
    unsaid = {name for name, field in Settings.model_fields.items() if not field.description}
    assert unsaid <= {"create_timeout", "call_timeout", "reassign_method", "log_level", "log_format"}


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_former_name_of_a_setting_is_refused_with_the_new_one(monkeypatch, old, new):
    monkeypatch.setenv(f"ROLLCALL_{old}", "7")
    with pytest.raises(ConfigError, match=f"ROLLCALL_{old}: is now called ROLLCALL_{new}; set that instead"):
        load()


NUMBERS = [
    name for name, field in Settings.model_fields.items() if field.annotation in {int, float, int | None, float | None}
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e12", "1e300", "9" * 30, "-1"])
def test_every_number_has_bounds(env, name, value):
    env(**{name: value, "events_drop": "true"})
    assert set(field_errors()) == {name.upper()}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252"])
def test_a_dotenv_that_is_not_utf_8_is_named_with_its_line(tmp_path, encoding):
    (tmp_path / ".env").write_bytes(b"ROLLCALL_LOG_LEVEL=debug\n" + "# für alle hunter2\n".encode(encoding))
    for read in (load, unknown):
        with pytest.raises(ConfigError) as caught:
            read()
        assert str(caught.value) == ".env: is not UTF-8 in line 2; save it as UTF-8"


def test_a_dotenv_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / ".env").write_text("ROLLCALL_LOG_LEVEL=debug\n", encoding="utf-8-sig")
    assert load().log_level == "debug"


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_nothing_in_a_dotenv_value_refers_to_another(env, tmp_path, quote):
    (tmp_path / ".env").write_text(f"a=oops\nROLLCALL_INFRAHUB_API_KEY={quote}x${{a}}y$a{quote}\n")
    assert load().infrahub_api_key.get_secret_value() == "x${a}y$a"


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("bad", ["\x00", "\x1b]0;x\x07", "\r\n", "\x7f", "é", "\u202e"])
def test_a_secret_with_control_characters_is_refused_and_not_printed(tmp_path, env, name, bad):
    (tmp_path / "secret").write_text(f"postgresql://hunter2{bad}hunter2hunter2hunter2hunter2hunter2", newline="")
    env(**{f"{name}_file": str(tmp_path / "secret")})
    with pytest.raises(ConfigError) as caught:
        load()
    assert "hunter" not in f"{caught.value!r}{caught.value}"
    assert any("control characters" in one.message for one in caught.value.field_errors)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_the_line_end_of_a_secret_file_is_trimmed(tmp_path, env, newline):
    (tmp_path / "secret").write_text(LONG + newline, newline="")
    env(api_tokens_file=str(tmp_path / "secret"), infrahub_api_key=f"key{newline}")
    settings = load()
    assert settings.callers["default"].get_secret_value() == LONG
    assert settings.infrahub_api_key.get_secret_value() == "key"
