"""`rollcall serve`: run the daemon."""

from typing import Annotated, Literal

import typer

from service.cli.api_client import settings
from service.cli.exits import CliError, Exit


def serve(
    only: Annotated[
        Literal["receiver", "api", "worker"] | None,
        typer.Option(help="run only this part; several processes can share the work"),
    ] = None,
    accept_settings: Annotated[
        bool,
        typer.Option(
            "--accept-settings",
            help="start although settings that all daemons must share differ from those of the other daemons",
        ),
    ] = False,
) -> None:
    """Run the daemon until SIGTERM. Its settings are environment variables, or lines of .env: ROLLCALL_..."""
    from service.app.daemon import run  # noqa: PLC0415  slow to import
    from service.errors import ConfigError, StorageError  # noqa: PLC0415  as above

    try:
        run(settings(), only=only, accept=accept_settings)
    except ConfigError as error:
        raise CliError(Exit.USAGE, [f"{one.field} {one.message}" for one in error.field_errors]) from error
    except (StorageError, OSError) as error:
        # At the start only, such as an address in use: once it serves, the daemon survives these.
        raise CliError(Exit.FAILED, f"the daemon stopped: {error}") from error
