"""Which daemon a command speaks to, and with which token: from the options, the environment, or the settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from service.cli.exits import CliError, Exit
from service.client.http import ApiClient

if TYPE_CHECKING:
    from service.config import Settings


@dataclass(frozen=True)
class Target:
    """What the options before the command said; None is for the settings to fill."""

    url: str | None = None
    token: str | None = None


def daemon(ctx: typer.Context) -> ApiClient:
    """The daemon to speak to. Raises `CliError` where the settings cannot tell which."""
    given = ctx.find_object(Target) or Target()
    url, token = given.url, given.token
    if not (url and token):
        from service.config import API_TOKEN, API_URL, variables  # noqa: PLC0415  slow to import

        # The options know the environment by themselves, and .env they do not.
        kept = variables()
        url, token = url or kept.get(API_URL), token or kept.get(API_TOKEN)
    if url and token:
        return ApiClient(url, token)
    found = settings()
    return ApiClient(url or url_of(found.api_listen), token or token_of(found))


def settings(**given: object) -> "Settings":
    """The settings, with those that options gave. Raises `CliError` with every mistake, one a line."""
    from service.config import load  # noqa: PLC0415  slow to import, and not needed where both options are given
    from service.errors import ConfigError  # noqa: PLC0415  as above

    try:
        return load(**given)
    except ConfigError as error:
        raise CliError(Exit.USAGE, [f"{one.field} {one.message}" for one in error.field_errors]) from error


def url_of(listen: str) -> str:
    """The URL of a listener on this machine; one that listens everywhere is asked here."""
    host, _, port = listen.rpartition(":")
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]"}
    return f"http://{here.get(host, host)}:{port}"


def token_of(found: "Settings") -> str | None:
    """The first token of the settings, or the one that the daemon made; None where it has made none yet."""
    for token in found.callers.values():
        return token.get_secret_value()
    return _kept(found.data_dir / "api-token")


def _kept(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CliError(Exit.USAGE, f"the API token in {path} cannot be read: {error.strerror}") from error
