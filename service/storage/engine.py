"""Connections to Postgres, and the one place where the driver's errors become ours."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, TypeVar

import asyncpg
import orjson
from sqlalchemy import event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from service.errors import AppendOnly, ConfigError, FieldError, StorageError, StorageUnavailable, Unstorable

Value = TypeVar("Value")

#: SQLSTATEs after which the same transaction may simply be run again: serialization, deadlock, shutdown, connection,
#: too many connections, a lock or statement that took too long, a standby that was just promoted or is read-only yet.
_RETRYABLE: Final = ("40001", "40P01", "57P0", "57014", "08", "53", "55P03", "25006")
#: Classes of SQLSTATEs that are the values' own fault: their form, a constraint, a limit of the database.
_UNSTORABLE: Final = ("22", "23", "54")
_APPEND_ONLY: Final = "RC001"  # raised by the triggers of the migrations
#: How long a connection may rest in the pool and be used again without being asked first whether it still works.
_RESTS: Final = 1.0


def database_url(text: str) -> URL:
    """The URL in the form that SQLAlchemy needs. Raises `ConfigError`; the message holds no part of the URL."""
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigError(
            [FieldError("ROLLCALL_DATABASE_URL", "is not a URL like postgresql://user@host/db")]
        ) from None
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise ConfigError([FieldError("ROLLCALL_DATABASE_URL", "must begin with postgresql://")])
    # libpq's name for it is the one that people have in their URLs; the driver's is another.
    query = dict(url.query)
    if "sslmode" in query and "ssl" not in query:
        query["ssl"] = query.pop("sslmode")
    return url.set(drivername="postgresql+asyncpg", query=query)


def create_engine(url: str, *, pool_size: int = 10, pre_ping: bool = True, pool_timeout: float = 10.0) -> AsyncEngine:
    """An engine whose connections time out rather than hang. JSON goes through orjson.

    `pre_ping` says whether connections that have rested are asked first whether they still work.
    """
    engine = create_async_engine(
        database_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout,
        pool_use_lifo=True,  # the connection used last has its statements prepared and planned
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        hide_parameters=True,  # parameters may hold callback bodies and user data, and errors end in logs
        connect_args={
            "timeout": 5,
            "command_timeout": 60,
            "server_settings": {"application_name": "rollcall", "jit": "off"},
        },
    )
    if pre_ping:
        _ping_the_rested(engine)
    return engine


def _ping_the_rested(engine: AsyncEngine) -> None:
    """Have the pool replace connections that do not work any more, before they are used.

    SQLAlchemy's own pre-ping would do so at every checkout, for three round trips each time. One that was used a
    moment ago is asked nothing here: if the server has closed it, the driver knows already.
    """
    dialect = engine.dialect

    def given_back(_: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        entry.info["rests_since"] = time.monotonic()

    def taken(connection: DBAPIConnection, entry: ConnectionPoolEntry, _: PoolProxiedConnection) -> None:
        rests_since = entry.info.get("rests_since")  # nothing where the connection is new
        if rests_since is None:
            return
        try:
            works = not _closed(entry.driver_connection)
            if works and time.monotonic() - rests_since > _RESTS:
                works = dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error:
            works = False
        if not works:
            raise InvalidatePoolError  # what ended this one has ended the others too

    event.listen(engine.sync_engine, "checkin", given_back)
    event.listen(engine.sync_engine, "checkout", taken)


def _closed(connection: object) -> bool:
    return isinstance(connection, asyncpg.Connection) and connection.is_closed()


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn the driver's errors into `StorageUnavailable` (run it again), `AppendOnly` or `StorageError`."""
    try:
        yield
    except DBAPIError as error:
        raise _ours(error) from error
    except SQLAlchemyError as error:  # the pool's own: no connection within pool_timeout
        raise StorageUnavailable(_first_line(error)) from error
    except asyncpg.PostgresError as error:
        raise _of_state(error.sqlstate, _first_line(error)) from error
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError) as error:
        raise StorageUnavailable(f"{type(error).__name__}: {_first_line(error)}") from error


@asynccontextmanager
async def begin(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction that commits at the end and rolls back on any error."""
    async with translated(), engine.begin() as conn:
        yield conn


async def transact(
    engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[Value]], *, tries: int = 5
) -> Value:
    """Run `work` in a transaction of its own, again if Postgres broke it off (deadlock, serialization).

    `work` must be fit to be run again: it may read and write the record and do nothing else.
    """
    for left in range(tries - 1, -1, -1):
        try:
            async with begin(engine) as conn:
                return await work(conn)
        except StorageUnavailable:
            if not left:
                raise
            await asyncio.sleep(0)  # let the one we collided with go first
    raise AssertionError("unreachable: the loop returns or raises")


async def server_time(conn: AsyncConnection) -> datetime:
    """The database's time, aware, at the moment of asking."""
    now: datetime = (await conn.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return now


async def driver(conn: AsyncConnection) -> "asyncpg.Connection[Any]":
    """The asyncpg connection underneath, for set-based statements on the hot paths. It is in conn's transaction."""
    raw = await conn.get_raw_connection()
    connection = raw.driver_connection
    if connection is None:
        raise StorageUnavailable("the connection was lost")
    if not isinstance(connection, asyncpg.Connection):
        raise StorageError(f"the driver is {type(connection).__name__}, not asyncpg")
    if not connection.is_in_transaction():
        # SQLAlchemy begins with the first statement it sees itself; without one, each of ours would commit alone.
        await conn.exec_driver_sql("SELECT 1")
    return connection


def _ours(error: DBAPIError) -> StorageError:
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return StorageUnavailable(_first_line(error))
    return _of_state(getattr(error.orig, "sqlstate", None) or "", _first_line(error))


def _of_state(sqlstate: str, message: str) -> StorageError:
    if sqlstate == _APPEND_ONLY:
        return AppendOnly(message)
    if not sqlstate or sqlstate.startswith(_RETRYABLE):
        return StorageUnavailable(f"{sqlstate} {message}".strip())
    if sqlstate.startswith(_UNSTORABLE):
        return Unstorable(f"{sqlstate} {message}")
    return StorageError(f"{sqlstate} {message}")


def _first_line(error: BaseException) -> str:
    # The rest of SQLAlchemy's text is the statement and a link; the first line is Postgres's own.
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
