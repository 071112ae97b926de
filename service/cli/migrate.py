"""`rollcall migrate`: bring the database to the version of the code, or check that it is there."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.api_client import settings
from service.cli.exits import CliError, Exit
from service.cli.output import say

if TYPE_CHECKING:
    from service.config import Settings


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="migrate nothing; exit 1 if the database is behind, or does not exist")
    ] = False,
    roles: Annotated[
        bool,
        typer.Option(
            "--roles", help="print the SQL that lets the role `rollcall` run the daemon without owning the tables"
        ),
    ] = False,
    restored: Annotated[
        bool,
        typer.Option(
            "--restored",
            help="also say that the database was restored from a copy of its files, which nothing in it shows",
        ),
    ] = False,
) -> None:
    """Migrate the database. The daemon does the same when it starts; use this to do it before."""
    from service.errors import ConfigError, StorageError  # noqa: PLC0415  slow to import
    from service.storage.roles import script  # noqa: PLC0415  as above

    if roles:
        typer.echo(script(), nl=False)
        return
    try:
        before, after = asyncio.run(_migrate(settings(), check=check, restored=restored))
    except ConfigError as error:
        raise CliError(Exit.USAGE, [f"{one.field} {one.message}" for one in error.field_errors]) from error
    except StorageError as error:
        raise CliError(Exit.FAILED, f"the database: {error}") from error
    if before == after:
        say(f"the database is at {after}, which this Rollcall needs")
        return
    if check:
        raise CliError(Exit.FAILED, f"the database is at {before or 'nothing'}, and this Rollcall needs {after}")
    say(f"migrated from {before or 'nothing'} to {after}")


async def _migrate(found: "Settings", *, check: bool, restored: bool) -> tuple[str | None, str]:
    """The revision before, and the one that this release needs."""
    from service.app.database import opened  # noqa: PLC0415  slow to import
    from service.storage import migrate as migrations  # noqa: PLC0415  as above
    from service.storage import record_origin  # noqa: PLC0415  as above
    from service.storage.embedded import is_made  # noqa: PLC0415  as above
    from service.storage.engine import begin  # noqa: PLC0415  as above

    if check and found.database_url is None and not is_made(found.data_dir / "postgres"):
        raise CliError(
            Exit.FAILED,
            [
                f"there is no database: ROLLCALL_DATABASE_URL is not set, and no embedded Postgres is in {found.data_dir}",
                "`rollcall migrate` or `rollcall serve` makes one",
            ],
        )
    async with opened(found) as engine:
        before = await migrations.current(engine)
        if not check:
            await migrations.upgrade(engine)
        if restored and not check:
            async with begin(engine) as conn:
                await record_origin.forget(conn)
    return before, migrations.head()
