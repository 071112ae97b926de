"""From a libpq connection URL to what the driver takes. No I/O but a look whether the named files can be read.

Source: the Postgres documentation, "Database Connection Control Functions". No message holds a part of the URL other
than the names of parameters.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from sqlalchemy.engine import URL

from service.errors import ConfigError, FieldError

_SETTING: Final = "ROLLCALL_DATABASE_URL"
_DEFAULT_PORT: Final = "5432"
_CONNECT_SECONDS: Final = 5.0
_MOST_CONNECT_SECONDS: Final = 60.0
_FORM: Final = re.compile(r"(postgres|postgresql)(\+\w+)?://([^/?#]*)(?:/([^?#]*))?(?:\?(.*))?", re.DOTALL)
#: Settings of each connection, unless the URL's `options` say otherwise. Our own timeouts are shorter: the server's are for a
#: daemon that froze or lost its network, and would hold its locks and its transaction open.
_SESSION: Final[Mapping[str, str]] = {
    "jit": "off",
    "statement_timeout": "'90s'",
    "idle_in_transaction_session_timeout": "'5min'",
}
_DELIMITERS: Final = frozenset("[],@")
_NAME: Final = re.compile(r"[A-Za-z_]{1,40}")

#: Parameters that hold where and as whom to connect.
_PLACE: Final = frozenset({"host", "port", "user", "password", "dbname"})
_FILES: Final = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile"})
#: Parameters that asyncpg reads itself.
_OF_THE_DRIVER: Final = _FILES | {
    "gsslib",
    "krbsrvname",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "target_session_attrs",
}
#: Parameters that we read.
_OURS: Final = frozenset(
    {"application_name", "connect_timeout", "fallback_application_name", "options", "statement_cache_size"}
)
_TLS: Final = frozenset({"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"})
_CHOICES: Final[Mapping[str, frozenset[str]]] = {
    "statement_cache_size": frozenset({"0"}),
    "channel_binding": frozenset({"disable", "prefer"}),  # the driver has none, so it cannot be required
    "gssencmode": frozenset({"disable", "prefer"}),
    "gsslib": frozenset({"gssapi", "sspi"}),
    "client_encoding": frozenset({"utf8", "UTF8", "utf-8", "UTF-8", "auto"}),
    "sslmode": frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}),
    "sslnegotiation": frozenset({"postgres", "direct"}),
    "ssl_min_protocol_version": _TLS,
    "ssl_max_protocol_version": _TLS,
    "target_session_attrs": frozenset({"any", "primary", "standby", "read-write", "read-only", "prefer-standby"}),
}
_KNOWN: Final = _PLACE | _OF_THE_DRIVER | _OURS | _CHOICES.keys()


@dataclass(frozen=True, slots=True)
class ConnectionTarget:
    """Hosts to try in order, and how to connect. `parameters` are libpq's, as given."""

    hosts: tuple[str, ...]
    ports: tuple[str, ...]
    user: str | None
    password: str | None
    database: str | None
    parameters: Mapping[str, str]

    def __repr__(self) -> str:
        return "ConnectionTarget(…)"

    @property
    def prepares(self) -> bool:
        """Whether statements are prepared and kept; `statement_cache_size=0` says that a pooler would mix them up."""
        return "statement_cache_size" not in self.parameters

    @property
    def url(self) -> URL:
        """The same as SQLAlchemy's URL; `parse` of its text gives an equal target."""
        query = dict(self.parameters)
        if self.hosts:
            query |= {"host": ",".join(map(_bracketed, self.hosts)), "port": ",".join(self.ports)}
        user = self.user or ("" if self.password else None)
        return URL.create("postgresql+asyncpg", user, self.password, database=self.database, query=query)

    def connect_arguments(self) -> dict[str, Any]:
        """Arguments of `asyncpg.connect`: a DSN, seconds to connect within, startup parameters, perhaps no cache."""
        query = {name: value for name, value in self.parameters.items() if name in _OF_THE_DRIVER}
        place = {"user": self.user, "password": self.password, "dbname": self.database}
        query |= {name: value for name, value in place.items() if value}
        if self.hosts:
            query |= {"host": ",".join(map(_bracketed, self.hosts)), "port": ",".join(self.ports)}
        if len(self.hosts) > 1:
            # Among several hosts only one can be written to.
            query.setdefault("target_session_attrs", "read-write")
        return {
            "dsn": f"postgresql://?{urlencode(query, quote_via=quote)}" if query else "postgresql://",
            "timeout": float(self.parameters.get("connect_timeout") or 0) or _CONNECT_SECONDS,
            "server_settings": self._startup(),
            **({} if self.prepares else {"statement_cache_size": 0}),
        }

    @property
    def first_statement(self) -> str:
        """What each new connection runs first. A setting at startup would be simpler, and pgbouncer refuses those."""
        given = self.parameters.get("options", "")
        return "; ".join(f"SET {name} = {value}" for name, value in _SESSION.items() if name not in given)

    def _startup(self) -> dict[str, str]:
        given = self.parameters
        name = given.get("application_name") or given.get("fallback_application_name") or "rollcall"
        startup = {"application_name": name}
        if "options" in given:
            startup["options"] = given["options"]
        return startup


def parse(text: str, *, setting: str = _SETTING) -> ConnectionTarget:
    """Read the URL of a setting. Raises `ConfigError` with everything that is wrong with it, and no part of its values."""
    try:
        return _parse(text)
    except ConfigError as error:
        raise ConfigError([FieldError(setting, one.message) for one in error.field_errors]) from None


def _parse(text: str) -> ConnectionTarget:
    found = _FORM.fullmatch(text)
    if found is None or "\x00" in unquote(text) or not text.isprintable():
        raise _wrong(_not_a_url(text))
    _, driver, authority, path, query = found.groups()
    # A plus sign is itself, as libpq has it; in a URL that SQLAlchemy wrote, which names a driver, it is a space.
    parameters = _parameters((query or "") if driver else (query or "").replace("+", "%2B"))
    credentials, at, places = authority.rpartition("@")
    user, colon, password = credentials.partition(":")
    hosts, ports = _places(places, parameters)
    _check(parameters)
    return ConnectionTarget(
        hosts=hosts,
        ports=ports,
        user=(unquote(user) if at else "") or parameters.get("user"),
        password=(unquote(password) if colon else "") or parameters.get("password"),
        database=unquote(path or "") or parameters.get("dbname"),
        parameters={name: value for name, value in parameters.items() if name not in _PLACE},
    )


def _not_a_url(text: str) -> str:
    if "://" in text and not text.startswith(("postgres://", "postgresql://", "postgresql+")):
        return "must begin with postgresql://"
    return "is not a URL like postgresql://user@host/db; percent-encode special characters in the password"


def _parameters(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise _wrong(
            "has a query that is not name=value&…; percent-encode special characters in the password"
        ) from None
    parameters = {{"ssl": "sslmode", "database": "dbname"}.get(name, name): value for name, value in pairs}
    unknown = sorted(parameters.keys() - _KNOWN)
    if unknown:
        # A password with a bare "?" in it would make a part of itself the name of a parameter.
        named = "@" not in query and all(_NAME.fullmatch(name) for name in unknown)
        raise _wrong(
            f"has parameters that are not supported: {', '.join(unknown) if named else 'they are not named here'}"
        )
    return {name: value for name, value in parameters.items() if value}


def _places(places: str, parameters: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Hosts and their ports: those before the path, or else those of the query."""
    given = [_host_and_port(unquote(one)) for one in places.split(",")] if places else []
    if not any(host for host, _ in given):
        port_alone = given[0][1] if given else ""
        given = [_host_and_port(one) for one in parameters["host"].split(",")] if "host" in parameters else []
        given = [(host, port or port_alone) for host, port in given]
    shared = parameters.get("port", "").split(",")
    if len(shared) not in {1, len(given)} or any(not host or set(host) & _DELIMITERS for host, _ in given):
        raise _wrong("must name hosts with a port for each, or one for all")
    if len(shared) == 1:
        shared *= len(given)
    ports = tuple(own or other or _DEFAULT_PORT for (_, own), other in zip(given, shared, strict=True))
    if not all(port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536 for port in ports):
        raise _wrong("has a port that is not a number from 1 to 65535")
    return tuple(host for host, _ in given), ports


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("/"):  # the folder of a Unix socket
        return text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return host, port.removeprefix(":")
    host, _, port = text.partition(":") if text.count(":") <= 1 else (text, "", "")
    return host, port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("/") else host


def _check(parameters: Mapping[str, str]) -> None:
    wrong = [
        f"{name} must be one of {', '.join(sorted(choices))}"
        for name, choices in _CHOICES.items()
        if name in parameters and parameters[name] not in choices
    ]
    wrong += [
        f"the file that {name} names cannot be read"
        for name in sorted(_FILES & parameters.keys())
        if not os.access(parameters[name], os.R_OK)
    ]
    seconds = parameters.get("connect_timeout", "0")
    if not (seconds.isascii() and seconds.isdigit() and int(seconds[:9]) <= _MOST_CONNECT_SECONDS):
        wrong.append(f"connect_timeout must be a whole number of seconds, at most {_MOST_CONNECT_SECONDS:g}")
    if wrong:
        raise _wrong("; ".join(wrong))


def _wrong(message: str) -> ConfigError:
    return ConfigError([FieldError(_SETTING, message)])
