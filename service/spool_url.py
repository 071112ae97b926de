"""The URL of a spool in NATS JetStream: nats://[user:password@]host:port,.../STREAM[?replicas=3], or tls://."""

import re
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import parse_qs, unquote

from pydantic import SecretStr

_PORT: Final = 4222
_REPLICAS: Final = 3
_STREAM: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOST: Final = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class SpoolUrl:
    """Servers, each as host:port, and the stream. With a user and no password, the user is a token. No repr shows them."""

    servers: tuple[str, ...]
    stream: str
    tls: bool = False
    user: SecretStr | None = field(default=None, repr=False)
    password: SecretStr | None = field(default=None, repr=False)
    replicas: int = _REPLICAS

    @property
    def shown(self) -> str:
        """It without its secrets."""
        return f"{'tls' if self.tls else 'nats'}://{','.join(self.servers)}/{self.stream}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError with a message that holds no secret."""
        scheme, _, rest = text.partition("://")
        if scheme not in {"nats", "tls"}:
            raise ValueError("must begin with nats:// or tls://, such as nats://a:4222,b:4222,c:4222/ROLLCALL")
        # Not by urlsplit, whose errors may quote a password.
        authority, _, after = rest.partition("/")
        userinfo, _, hosts = authority.rpartition("@")
        user, colon, password = userinfo.partition(":")
        stream, _, query = after.partition("?")
        if not _STREAM.fullmatch(stream):
            raise ValueError("must end in the name of a stream: letters, digits, - and _, such as /ROLLCALL")
        return cls(
            servers=tuple(map(_server, hosts.split(","))),
            stream=stream,
            tls=scheme == "tls",
            user=SecretStr(unquote(user)) if user else None,
            password=SecretStr(unquote(password)) if colon else None,
            replicas=_replicas(query),
        )


def _server(text: str) -> str:
    found = _HOST.fullmatch(text)
    port = int(found["port"] or _PORT) if found else 0
    if found is None or not 0 < port <= 65535:
        raise ValueError("must name servers as host:port, with commas between them")
    return f"{found['host']}:{port}"


def _replicas(query: str) -> int:
    given = parse_qs(query, keep_blank_values=True)
    if set(given) - {"replicas"}:
        raise ValueError("knows no other option than ?replicas=")
    number = given.get("replicas", [str(_REPLICAS)])
    if number not in (["1"], ["3"], ["5"]):
        raise ValueError("has replicas that are not 1, 3 or 5")
    return int(number[0])
