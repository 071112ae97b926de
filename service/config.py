"""The settings, read from the environment and `.env`. All errors are reported at once."""

# longer than 350 lines because this is the only place that reads the environment

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from service.dot_env import DotEnv
from service.errors import ConfigError, FieldError
from service.notify_rules import NotifyTarget
from service.spool_url import SpoolUrl

PREFIX: Final = "ROLLCALL_"
INFRAHUB: Final = "https://infrahub-api.nexgencloud.com/v1"
_MIN_SECRET: Final = 32
_MIN_TOKEN: Final = 16
#: What follows the public URL: "/callbacks/" and a token of 70 characters, within the provider's 250.
_MAX_PUBLIC_URL: Final = 250 - len("/callbacks/") - 70

#: Settings whose value may be in a file: NAME_FILE is its path.
SECRETS: Final = (
    "database_url",
    "read_database_url",
    "infrahub_api_key",
    "infrahub_proxy",
    "callback_secrets",
    "api_tokens",
    "seal_keys",
    "notify",
    "spool_url",
)
#: Former names, which are refused: ignoring a setting could cost money.
RENAMED: Final[Mapping[str, str]] = {
    "QUIET_SECONDS": "LOOKUP_WINDOW_SECONDS",
    "LOOK_FIRST_SECONDS": "LOOKUP_FIRST_SECONDS",
    "SWEEP_SECONDS": "RESYNC_SECONDS",
    "BUDGET_SCOPE": "RATE_LIMIT_SCOPE",
}
#: Read by commands that call a daemon, not by the daemon.
API_URL: Final = f"{PREFIX}API_URL"
API_TOKEN: Final = f"{PREFIX}API_TOKEN"


class Settings(BaseSettings):
    """The daemon's settings. Each is read as `ROLLCALL_<NAME>` from the environment or `.env`; use `load` to do so.

    Times are in seconds, and every number has bounds. No repr shows a secret.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True, allow_inf_nan=False
    )

    # Where things are.
    database_url: SecretStr | None = Field(default=None, description="Postgres 14 or later; unset: an embedded one")
    read_database_url: SecretStr | None = Field(
        default=None, description="a streaming replica, which statistics, costs, the past and the audit pages read from"
    )
    data_dir: Path = Field(default=Path(".data"), description="the spool, the embedded Postgres, generated secrets")
    infrahub_url: str = Field(default=INFRAHUB, description="the provider's API")
    infrahub_api_key: SecretStr | None = Field(default=None, description="the provider's API key")
    infrahub_proxy: SecretStr | None = Field(
        default=None,
        description="HTTP proxy for calls to the provider, http://[user:password@]host:port; HTTPS_PROXY is not read",
    )
    public_url: str | None = Field(
        default=None, description="the URL at which the provider reaches the callback listener"
    )
    callback_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="comma-separated, 32 characters or more each; the first signs, all verify"
    )
    callback_listen: str = Field(default="127.0.0.1:8080", description="host:port of the callback listener")
    api_listen: str = Field(default="127.0.0.1:8081", description="host:port of the operator listener")
    api_tokens: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="comma-separated, each `token` or `name=token`"
    )

    # Calls to the provider.
    calls_per_minute: int = Field(
        default=495, ge=1, le=100_000, description="calls a minute for all daemons of a scope; the provider allows 500"
    )
    rate_limit_scope: str = Field(default="default", description="daemons that share a source IP share a scope")
    create_timeout: float = Field(default=180.0, gt=0, le=3600)
    call_timeout: float = Field(default=30.0, gt=0, le=3600)
    lease_margin_seconds: float = Field(
        default=60.0, gt=0, le=86_400, description="how much longer than its call may take a row is leased"
    )
    create_concurrency: int = Field(default=8, ge=1, le=64, description="create calls at the same time")
    reassign_method: Literal["PUT", "POST", "PATCH"] = "PUT"
    reassign_path: str | None = Field(
        default=None, description="path of a call that changes a VM's contract, with {vm_id}"
    )

    # Times.
    lookup_window_seconds: float = Field(
        default=300.0,
        gt=0,
        le=86_400,
        description="how long to look for the VMs of an unconfirmed creation before it is sent again",
    )
    lookup_first_seconds: float = Field(default=2.0, gt=0, le=86_400, description="when to look for them first")
    overdue_seconds: float = Field(
        default=120.0, gt=0, le=86_400, description="how long a VM may stay in a transient state before it is refreshed"
    )
    again_seconds: float = Field(
        default=10.0,
        gt=0,
        le=86_400,
        description="the first wait between refreshes of a VM that change nothing; it doubles",
    )
    history_seconds: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="how long to wait for late callbacks before a VM's events history is read",
    )
    resync_seconds: float = Field(
        default=600.0, gt=0, le=86_400, description="every VM is refreshed at least this often"
    )
    retry_first_seconds: float = Field(default=2.0, gt=0, le=3600, description="the first wait after a failed call")
    retry_cap_seconds: float = Field(default=120.0, gt=0, le=86_400, description="the longest wait after a failed call")
    newborn_seconds: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="how long a 404 means nothing for a new VM, since reads may lag behind creates",
    )
    stop_seconds: float = Field(
        default=25.0, ge=0, le=3600, description="how long jobs and calls may take to finish when the daemon stops"
    )
    poll_seconds: float = Field(default=0.5, gt=0, le=60, description="how often to check which jobs are due")

    job_stalled_seconds: float = Field(
        default=600.0, ge=1, le=86_400, description="a job that has not succeeded for this long is a health issue"
    )
    inbox_overdue_seconds: float = Field(
        default=60.0, ge=1, le=86_400, description="a callback not applied for this long is a health issue"
    )
    creation_overdue_seconds: float = Field(
        default=1800.0, ge=1, le=2_592_000, description="a creation unconfirmed for this long is a health issue"
    )
    deletion_overdue_seconds: float = Field(
        default=1800.0, ge=1, le=2_592_000, description="a deletion that takes this long is a health issue"
    )

    # Limits of the callback listener.
    callback_max_bytes: int = Field(
        default=262_144, ge=1024, le=16 * 2**20, description="the largest body of a callback"
    )
    callback_max_connections: int = Field(default=1000, ge=1, le=100_000, description="connections at the same time")
    head_timeout_seconds: float = Field(
        default=10.0, gt=0, le=600, description="how long a callback's headers may take"
    )
    body_timeout_seconds: float = Field(default=20.0, gt=0, le=600, description="how long a callback's body may take")
    idle_timeout_seconds: float = Field(default=75.0, gt=0, le=3600, description="how long a connection may be idle")
    intake_max_waiting: int = Field(default=10_000, ge=1, le=1_000_000, description="callbacks that wait to be written")
    intake_max_bytes: int = Field(
        default=64 * 2**20, ge=2**20, le=4 * 2**30, description="bytes of callbacks in flight"
    )
    spool_after_seconds: float = Field(
        default=2.0,
        gt=0,
        le=60,
        description="how long Postgres may take to store callbacks before the spool takes them",
    )
    spool_url: SecretStr | None = Field(
        default=None,
        description="NATS servers and a JetStream stream for the spool: docs/howto/spool.md; unset: on disk, in the data directory",
    )
    spool_max_bytes: int = Field(default=2**30, ge=2**20, le=2**40, description="the largest size of the spool")

    # Retention of old callbacks.
    events_keep_months: int | None = Field(
        default=None,
        ge=1,
        le=1200,
        description="whole months of events to keep besides the current one; unset: all",
    )
    events_export_dir: Path | None = Field(
        default=None, description="folder to which a month of events is exported before it is dropped"
    )
    events_drop: bool = Field(default=False, description="drop months of events without exporting them")

    # How the record is sealed.
    seal_interval_seconds: float = Field(
        default=60.0, gt=0, le=86_400, description="how often what was recorded is sealed and signed"
    )
    seal_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="comma-separated, 64 hexadecimal digits each; all of them sign. Unset: derived from the callback secrets",
    )
    seal_publish_dir: Path | None = Field(
        default=None,
        description="where each signed checkpoint is written to; best out of reach of the database's administrator",
    )
    seal_publish_command: str | None = Field(
        default=None, description="run for each signed checkpoint, which is its standard input; no shell"
    )

    # Notifications.
    notify: Annotated[tuple[NotifyTarget, ...], NoDecode] = Field(
        default=(), description="who is told of what, as JSON: docs/howto/notifications.md; unset: the log, of failures"
    )
    notify_private: bool = Field(
        default=False, description="let webhooks lead to private and loopback addresses; never to link-local ones"
    )
    notify_window_seconds: float = Field(
        default=5.0, gt=0, le=3600, description="events of one kind within this time become one message"
    )
    notify_timeout_seconds: float = Field(
        default=15.0, gt=0, le=120, description="how long a target may take to answer"
    )
    notify_give_up_seconds: float = Field(
        default=259_200.0,
        gt=0,
        le=2_592_000,
        description="how long to try to deliver a message before it is a dead letter",
    )
    notify_keep_seconds: int = Field(
        default=2_592_000,
        ge=3600,
        le=315_360_000,
        description="how long messages are kept that were delivered, or given up",
    )

    # Logs.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over `.env`."""
        given = dotenv_settings.env_file if isinstance(dotenv_settings, DotEnvSettingsSource) else None
        return init_settings, env_settings, DotEnv(settings_cls, env_file=given), file_secret_settings

    @field_validator(
        "database_url", "read_database_url", "infrahub_api_key", "infrahub_proxy", "spool_url", mode="before"
    )
    @classmethod
    def _trim(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value

    @field_validator("callback_secrets", "api_tokens", "seal_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("notify", mode="before")
    @classmethod
    def _as_json(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value) if value.strip() else []
        except ValueError:
            raise ValueError("is not JSON") from None  # its message would quote a secret

    @field_validator("notify")
    @classmethod
    def _targets_named_once(cls, value: tuple[NotifyTarget, ...]) -> tuple[NotifyTarget, ...]:
        names = [one.name for one in value]
        if len(set(names)) < len(names):
            raise ValueError("two targets have the same name")
        return value

    @field_validator(*SECRETS)
    @classmethod
    def _is_printable(cls, value: object) -> object:
        # Otherwise a library would refuse it later, and print it.
        for secret in value if isinstance(value, tuple) else [value]:
            if isinstance(secret, SecretStr) and not _is_clean(secret.get_secret_value()):
                raise ValueError("has control characters, or others that are not printable ASCII")
        return value

    @field_validator("callback_secrets")
    @classmethod
    def _long_enough(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        short = [i for i, secret in enumerate(value, 1) if len(secret.get_secret_value()) < _MIN_SECRET]
        if short:
            raise ValueError(f"secret number {short[0]} is shorter than {_MIN_SECRET} characters")
        return value

    @field_validator("seal_keys")
    @classmethod
    def _are_keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(value, 1):
            if not re.fullmatch(r"[0-9a-fA-F]{64}", key.get_secret_value()):
                raise ValueError(
                    f"key number {number} is not 64 hexadecimal digits; make one with `rollcall audit new-key`"
                )
        return value

    @field_validator("api_tokens")
    @classmethod
    def _named_once(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        names = [_token(secret)[0] for secret in value]
        if any(len(_token(secret)[1]) < _MIN_TOKEN for secret in value):
            raise ValueError(f"each token must have {_MIN_TOKEN} characters or more")
        if len(set(names)) < len(names):
            raise ValueError("two tokens have the same name; write them as name=token")
        return value

    @field_validator("data_dir", "events_export_dir", "seal_publish_dir")
    @classmethod
    def _is_at_home(cls, value: Path | None) -> Path | None:
        # Only here, so that all parts of a daemon agree on the folder.
        try:
            return value.expanduser() if value is not None else None
        except RuntimeError:
            raise ValueError("names an unknown home directory; write the whole path") from None

    @field_validator("callback_listen", "api_listen")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        host_and_port(value)
        return value

    @field_validator("infrahub_url", "public_url")
    @classmethod
    def _is_a_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = urlsplit(value)
        if url.scheme not in {"http", "https"} or not url.hostname or url.query or url.fragment:
            raise ValueError("must be a URL like https://rollcall.example.com, without query or fragment")
        return value.rstrip("/")

    @field_validator("infrahub_proxy")
    @classmethod
    def _is_a_proxy(cls, value: SecretStr | None) -> SecretStr | None:
        url = urlsplit(value.get_secret_value()) if value is not None else None
        if url is not None and (url.scheme != "http" or not url.hostname or url.path.strip("/") or url.query):
            raise ValueError("must be a URL like http://proxy.example.com:3128")
        return value

    @field_validator("spool_url")
    @classmethod
    def _is_a_spool(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            SpoolUrl.parse(value.get_secret_value())
        return value

    @field_validator("public_url")
    @classmethod
    def _leaves_room(cls, value: str | None) -> str | None:
        # The provider takes callback URLs of at most 250 characters (infrahub-api.md section 1.1), and may lowercase them.
        if value and (len(value) > _MAX_PUBLIC_URL or value.lower() != value):
            raise ValueError(f"must be lower case and at most {_MAX_PUBLIC_URL} characters long")
        return value

    @field_validator("reassign_path")
    @classmethod
    def _names_the_vm(cls, value: str | None) -> str | None:
        if value is not None and ("{vm_id}" not in value or not value.startswith("/")):
            raise ValueError("must be a path with {vm_id} in it, such as /core/virtual-machines/{vm_id}/contract")
        return value or None

    @model_validator(mode="after")
    def _shared_database_shares_secrets(self) -> Self:
        # A generated secret is in one daemon's data directory, but all daemons on a database must have the same.
        if self.database_url is not None and not self.callback_secrets:
            raise ValueError(
                f"callback_secrets: must be set if {PREFIX}DATABASE_URL is, so that all daemons have the same"
            )
        return self

    @model_validator(mode="after")
    def _says_where_old_events_go(self) -> Self:
        # Never lose events just because a time is set.
        if self.events_keep_months is not None and self.events_export_dir is None and not self.events_drop:
            raise ValueError(
                f"events_keep_months: needs {PREFIX}EVENTS_EXPORT_DIR, or {PREFIX}EVENTS_DROP=true to keep no copy"
            )
        return self

    @property
    def origin(self) -> str:
        """What the names of our logs begin with."""
        return (urlsplit(self.public_url).hostname if self.public_url else None) or "rollcall"

    @property
    def proxy(self) -> str | None:
        """The URL of the proxy for calls to the provider, in clear."""
        return self.infrahub_proxy.get_secret_value() if self.infrahub_proxy else None

    @property
    def spool(self) -> SpoolUrl | None:
        """The spool in NATS, if there is one."""
        return SpoolUrl.parse(self.spool_url.get_secret_value()) if self.spool_url else None

    @property
    def callers(self) -> Mapping[str, SecretStr]:
        """The API tokens by name; the first without a name is `default`."""
        return {name: SecretStr(token) for name, token in map(_token, self.api_tokens)}


def load(**overrides: Any) -> Settings:
    """The settings from the environment, `.env` and `overrides`. Raises `ConfigError` with every error."""
    from_files, field_errors = _files()
    field_errors += _renamed()
    try:
        settings = Settings(**{**from_files, **overrides})
    except ValidationError as error:
        raise ConfigError(
            [*field_errors, *map(_field_error, error.errors(include_url=False, include_input=False))]
        ) from None
    if field_errors:
        raise ConfigError(field_errors)
    return settings


def _renamed() -> list[FieldError]:
    given = variables()
    return [
        FieldError(f"{PREFIX}{old}", f"is now called {PREFIX}{new}; set that instead")
        for old, new in RENAMED.items()
        if f"{PREFIX}{old}" in given
    ]


def variables() -> dict[str, str]:
    """Every variable with our prefix, from `.env` and the environment, which wins. Names are upper case."""
    from_file = DotEnv(Settings).env_vars
    both = [*from_file.items(), *os.environ.items()]
    return {name.upper(): value for name, value in both if name.upper().startswith(PREFIX) and value is not None}


@dataclass(frozen=True, slots=True)
class Tracing:
    """Whether traces are exported, and how, by the standard variables of OpenTelemetry. Its SDK reads the rest of them."""

    is_on: bool
    protocol: str


def tracing() -> Tracing:
    """On if a collector is named and nothing turns it off."""
    given = os.environ
    named = any(given.get(f"OTEL_EXPORTER_OTLP_{one}ENDPOINT") for one in ("", "TRACES_"))
    is_off = given.get("OTEL_SDK_DISABLED", "").lower() == "true" or given.get("OTEL_TRACES_EXPORTER") == "none"
    protocol = given.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or given.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    return Tracing(named and not is_off, protocol or "http/protobuf")


def unknown() -> list[FieldError]:
    """The variables with our prefix that are no settings, each with the name that was probably meant; never a value.

    They are no error, since another release may know them.
    """
    known = {
        API_URL,
        API_TOKEN,
        *map(_variable, Settings.model_fields),
        *(f"{_variable(name)}_FILE" for name in SECRETS),
    }
    return [FieldError(name, _is_not_read(name, known)) for name in sorted(variables().keys() - known)]


def _is_not_read(name: str, known: Iterable[str]) -> str:
    # Without the prefix, which would make all names look similar.
    near = difflib.get_close_matches(name.removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in known], n=1)
    return "is no setting and changes nothing" + (f"; did you mean {PREFIX}{near[0]}?" if near else "")


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of `host:port`. Raises ValueError with a message for people."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError("must be host:port, such as 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def _is_clean(secret: str) -> bool:
    return secret.isascii() and secret.strip().isprintable()


def _token(secret: SecretStr) -> tuple[str, str]:
    # A token without a name may end in "=", as base64 does, so it is only a name if a long enough token follows.
    name, _, token = secret.get_secret_value().partition("=")
    return (name, token) if name and len(token) >= _MIN_TOKEN else ("default", secret.get_secret_value())


def _files() -> tuple[dict[str, str], list[FieldError]]:
    given = variables()
    values, field_errors = {}, []
    for name in SECRETS:
        variable = f"{_variable(name)}_FILE"
        path = given.get(variable)
        if not path:
            continue
        if given.get(_variable(name)):
            field_errors.append(FieldError(variable, f"is set as well as {_variable(name)}; keep one"))
        try:
            values[name] = Path(path).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            field_errors.append(FieldError(variable, f"cannot be read: {type(error).__name__}"))
    return values, field_errors


def _field_error(error: Any) -> FieldError:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        field, _, message = message.partition(": ")
    else:
        field, *inside = map(str, error["loc"])
        if field == "notify" and inside:  # which target, and what of it
            message = f"{'.'.join(inside)}: {message}"
    return FieldError(_variable(field), message)
