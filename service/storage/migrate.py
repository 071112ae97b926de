"""Migrates the database, with alembic, which is configured here and not in a file."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

import service
from service.errors import NotMigrated, TooNew, TooOld
from service.storage.engine import begin

#: Serializes the migrations of all daemons. Held by a transaction, not a session, so that it works behind a pooler.
_LOCK = 0x526F6C6C63616C6C
#: How long to wait for the migration of another daemon, and for a table that is in use.
_FOR_OTHERS = "60s"
_FOR_TABLES = "5s"


def config() -> Config:
    """Alembic's configuration. The scripts are in the installed package, or else in the source tree."""
    package = Path(service.__file__).parent
    installed = package / "_migrations"
    made = Config()
    made.set_main_option("script_location", str(installed if installed.exists() else package.parent / "migrations"))
    made.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return made


def head() -> str:
    """The revision that this code needs."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    if revision is None:
        raise AssertionError("there are no migrations")
    return revision


async def upgrade(engine: AsyncEngine, revision: str = "head") -> None:
    """Migrate to `revision` in one transaction, one daemon at a time. Does nothing if the database is there already.

    Raises `TooNew` if a later release has migrated the database, `NotMigrated` if our role may not migrate it, and
    `StorageUnavailable` if it is too busy: then nothing has changed, and it can be tried again.
    """

    def run(conn: Connection) -> None:
        # Another daemon's migration may take long. A table that is in use must not: whoever comes to it after us,
        # callbacks too, waits behind us for as long as we wait.
        conn.execute(text(f"SET LOCAL lock_timeout = '{_FOR_OTHERS}'"))
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        conn.execute(text(f"SET LOCAL lock_timeout = '{_FOR_TABLES}'"))
        _refuse_other_versions(conn)
        if not _is_at_head(conn):
            _require_ownership(conn)
        with_connection = config()
        with_connection.attributes["connection"] = conn
        command.upgrade(with_connection, revision)

    async with begin(engine) as conn:
        await conn.run_sync(run)


def _refuse_other_versions(conn: Connection) -> None:
    at = MigrationContext.configure(conn).get_current_revision()
    known = {one.revision for one in ScriptDirectory.from_config(config()).walk_revisions()}
    if at is not None and at.isdigit():
        raise TooOld(
            f"an earlier version of Rollcall made this database (revision {at}), and this version, {service.__version__}, "
            "starts anew: give it an empty database"
        )
    if at is not None and at not in known:
        raise TooNew(
            f"a later release has migrated it to {at}; this one, {service.__version__}, knows it up to {head()}: "
            "run that release, or a later one"
        )


def _is_at_head(conn: Connection) -> bool:
    return MigrationContext.configure(conn).get_current_revision() == head()


def _require_ownership(conn: Connection) -> None:
    owned = conn.execute(
        text("""
        SELECT coalesce(
            (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('alembic_version')),
            has_schema_privilege(current_schema(), 'CREATE'), false)
        """)
    ).scalar_one()
    if not owned:
        at = MigrationContext.configure(conn).get_current_revision() or "nothing"
        raise NotMigrated(
            f"it is at {at}, and this release needs {head()}, but the role of ROLLCALL_DATABASE_URL does not own the tables: "
            "run `rollcall migrate` as the role that does, then what `rollcall migrate --roles` prints"
        )


async def downgrade(engine: AsyncEngine, revision: str) -> None:
    """Migrate down to `revision`. Only for tests of the migrations."""

    def run(conn: Connection) -> None:
        with_connection = config()
        with_connection.attributes["connection"] = conn
        command.downgrade(with_connection, revision)

    async with begin(engine) as conn:
        await conn.run_sync(run)


async def current(engine: AsyncEngine) -> str | None:
    """The revision that the database is at; None when it is empty."""
    async with begin(engine) as conn:
        return await conn.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())
