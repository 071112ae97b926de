"""Which daemon a command calls, and with which token: from the options, the environment, .env or the settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

import typer

from service.cli.exits import CliError, Exit
from service.client.exchange import NO_RETRIES
from service.client.sync import Rollcall

if TYPE_CHECKING:
    from service.config import Settings

_OPTION: Final = "--api-token"


@dataclass(frozen=True)
class Target:
    """The options before the command. None means: look in .env and the settings."""

    url: str | None = None
    token: str | None = None
    token_source: str = _OPTION


def target(ctx: typer.Context, url: str | None, token: str | None) -> Target:
    """The target that the options and the environment name."""
    source = ctx.get_parameter_source("api_token")
    from_environment = source is not None and source.name == "ENVIRONMENT"
    return Target(url, token, "ROLLCALL_API_TOKEN" if from_environment else _OPTION)


def api_client(ctx: typer.Context, *, timeout: float | None = None) -> Rollcall:
    """A client of the daemon to call. `timeout` is in seconds for each request.

    Raises `CliError` if the settings are wrong, and `InvalidClientOption` if the URL or the token cannot be used.
    """
    given = ctx.find_object(Target) or _while_completing(ctx)
    url, token, source = given.url, given.token, given.token_source
    if not (url and token):
        from service.config import API_TOKEN, API_URL, variables  # noqa: PLC0415  slow to import

        # The options read the environment themselves, but not .env.
        known = variables()
        if not token and known.get(API_TOKEN):
            token, source = known[API_TOKEN], f"{API_TOKEN} in .env"
        url = url or known.get(API_URL)
    if url and token:
        return _client(url, token, source, timeout)
    found = settings()
    if not token:
        token, source = token_of(found)
    return _client(url or url_of(found.api_listen), token, source, timeout)


def _client(url: str, token: str | None, source: str, timeout: float | None) -> Rollcall:
    # A person repeats a command that failed, and is told at once that it did.
    return Rollcall(url, token, token_source=source, retries=NO_RETRIES, timeout=timeout)


def _while_completing(ctx: typer.Context) -> Target:
    """The options before the command: their callback, which would note them, is not called while a shell completes."""
    given = ctx.find_root().params
    return Target(given.get("api_url"), given.get("api_token"))


def settings(**given: object) -> "Settings":
    """The settings, with those from options. Raises `CliError` with every wrong one, one a line."""
    from service.config import load  # noqa: PLC0415  slow to import, and not needed where both options are given
    from service.errors import ConfigError  # noqa: PLC0415  as above

    try:
        return load(**given)
    except ConfigError as error:
        raise CliError(Exit.USAGE, [f"{one.field} {one.message}" for one in error.field_errors]) from error


def url_of(listen: str) -> str:
    """The URL of a listener on this machine. One that listens on all addresses is called on loopback."""
    host, _, port = listen.rpartition(":")
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]"}
    return f"http://{here.get(host, host)}:{port}"


def token_of(found: "Settings") -> tuple[str | None, str]:
    """The first token of the settings, or the one that the daemon made, and where it came from.

    Without any, None and the places that were searched.
    """
    for name, secret in found.callers.items():
        return secret.get_secret_value(), f"ROLLCALL_API_TOKENS ({name})"
    path = found.data_dir / "api-token"
    token = _read_token(path)
    if token:
        return token, str(path)
    return None, f"looked in {_OPTION}, ROLLCALL_API_TOKEN, ROLLCALL_API_TOKENS and {path}"


def _read_token(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CliError(Exit.USAGE, f"the API token in {path} cannot be read: {why}") from None


def submission_id(client: Rollcall, ref: str | None) -> str | None:
    """The id of the submission that `ref` names: an id, a unique prefix of one, or a name."""
    if ref is None:
        return None
    try:
        return str(UUID(ref))
    except ValueError:
        return client.submission(ref)["submission_id"]
