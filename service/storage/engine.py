"""Connections to Postgres. The driver's errors become ours here, and nowhere else."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import asyncpg
import orjson
from asyncpg.cursor import Cursor
from sqlalchemy import event, text
from sqlalchemy.engine import Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from service.errors import AppendOnly, StorageError, StorageUnavailable, Unstorable
from service.storage.connecting import connection_to
from service.storage.database_url import ConnectionTarget, parse
from service.storage.sqlstates import READ_ONLY, SqlOutcome, breaks_connection, outcome_of

Value = TypeVar("Value")

#: How long a connection may be idle before it is tested at its next use.
_RESTS: Final = 1.0
_ERRORS: Final[Mapping[SqlOutcome, type[StorageError]]] = {
    SqlOutcome.RETRY: StorageUnavailable,
    SqlOutcome.UNSTORABLE: Unstorable,
    SqlOutcome.APPEND_ONLY: AppendOnly,
    SqlOutcome.FAILED: StorageError,
}


class ConnectionPolicy:
    """Tests the connections of a pool before they are used again."""

    def __init__(self, engine: AsyncEngine, *, pre_ping: bool) -> None:
        self._pre_ping = pre_ping
        self._dialect = engine.dialect
        self._retired_before = 0.0
        event.listen(engine.sync_engine, "connect", self._connected)
        event.listen(engine.sync_engine, "checkin", self._given_back)
        event.listen(engine.sync_engine, "checkout", self._taken)

    def retire(self) -> None:
        """Replace every existing connection when it is used next: a reconnect may find another server."""
        self._retired_before = time.monotonic()

    def _connected(self, _: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        entry.info["connected_at"] = time.monotonic()

    def _given_back(self, _: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        entry.info["rests_since"] = time.monotonic()

    def _taken(self, connection: DBAPIConnection, entry: ConnectionPoolEntry, _: PoolProxiedConnection) -> None:
        if entry.info["connected_at"] < self._retired_before:
            raise DisconnectionError
        if not self._works(connection, entry):
            raise InvalidatePoolError  # the others are probably broken too

    def _works(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> bool:
        """Test a connection that was idle for a while.

        SQLAlchemy's pre-ping would cost three round trips at every checkout. For a connection that was just used the
        test is useless: if the server closed it, the driver knows already.
        """
        rests_since = entry.info.get("rests_since")  # None if the connection is new
        if rests_since is None or not self._pre_ping:
            return True
        if _closed(entry.driver_connection):
            return False
        try:
            return time.monotonic() - rests_since <= _RESTS or self._dialect.do_ping(connection)
        except self._dialect.loaded_dbapi.Error:
            return False


_POLICIES: Final[WeakKeyDictionary[Engine, ConnectionPolicy]] = WeakKeyDictionary()


def create_engine(url: str, *, pool_size: int = 10, pre_ping: bool = True, pool_timeout: float = 10.0) -> AsyncEngine:
    """An engine with timeouts and orjson. `url` is a libpq URL; `pre_ping` tests idle connections before use.

    Raises `ConfigError` if the URL cannot be used; the message holds no secret.
    """
    return _engine_to(parse(url), pool_size=pool_size, pre_ping=pre_ping, pool_timeout=pool_timeout)


def create_replica_engine(url: str) -> AsyncEngine:
    """An engine to read from a standby. Among several hosts, a standby is preferred."""
    target = parse(url, setting="ROLLCALL_READ_DATABASE_URL")
    parameters = {"target_session_attrs": "prefer-standby", **target.parameters}
    return _engine_to(replace(target, parameters=parameters), pool_size=5, pre_ping=True, pool_timeout=2.0)


def _engine_to(target: ConnectionTarget, *, pool_size: int, pre_ping: bool, pool_timeout: float) -> AsyncEngine:
    async def connect(*_: object, **__: object) -> "asyncpg.Connection[Any]":
        return await connection_to(target)

    engine = create_async_engine(
        target.url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout,
        pool_use_lifo=True,  # the connection used last has prepared statements
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        hide_parameters=True,  # parameters may hold secrets, and errors end in logs
        connect_args={"async_creator_fn": connect} | ({} if target.prepares else {"prepared_statement_cache_size": 0}),
    )
    _POLICIES[engine.sync_engine] = ConnectionPolicy(engine, pre_ping=pre_ping)
    return engine


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
        raise _of_state(_sqlstate(error), _first_line(error)) from error
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError) as error:
        raise StorageUnavailable(f"{type(error).__name__}: {_first_line(error)}") from error


@asynccontextmanager
async def begin(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction that commits at the end and rolls back on any error."""
    async with translated(), engine.begin() as conn:
        try:
            yield conn
        except (DBAPIError, asyncpg.PostgresError) as error:
            await _drop_broken(engine, conn, _sqlstate(error))
            raise


async def transact(
    engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[Value]], *, tries: int = 5
) -> Value:
    """Run `work` in a transaction of its own, again if Postgres aborted it (deadlock, serialization).

    `work` may run several times, so it must only read and write the database.
    """
    for left in range(tries - 1, -1, -1):
        try:
            async with begin(engine) as conn:
                return await work(conn)
        except StorageUnavailable:
            if not left:
                raise
            await asyncio.sleep(0)  # let the other transaction finish
    raise AssertionError("unreachable: the loop returns or raises")


async def _drop_broken(engine: AsyncEngine, conn: AsyncConnection, sqlstate: str) -> None:
    """Close a connection on which no further transaction would work; if its server is read-only, also the others."""
    if not breaks_connection(sqlstate):
        return
    if sqlstate == READ_ONLY and (policy := _POLICIES.get(engine.sync_engine)):
        policy.retire()
    if not conn.invalidated:
        await conn.invalidate()


async def check_writable(conn: AsyncConnection) -> None:
    """Return if the database takes writes. Raises `StorageUnavailable` if it is read-only, such as a standby."""
    if (await conn.execute(text("SELECT current_setting('transaction_read_only')::bool"))).scalar_one():
        raise asyncpg.ReadOnlySQLTransactionError("the database is read-only")


async def server_time(conn: AsyncConnection) -> datetime:
    """The database's time, aware."""
    now: datetime = (await conn.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return now


async def driver(conn: AsyncConnection) -> "asyncpg.Connection[Any]":
    """The asyncpg connection of `conn`, in its transaction, for set-based statements on the hot paths."""
    raw = await conn.get_raw_connection()
    connection = raw.driver_connection
    if connection is None:
        raise StorageUnavailable("the connection was lost")
    if not isinstance(connection, asyncpg.Connection):
        raise StorageError(f"the driver is {type(connection).__name__}, not asyncpg")
    if not connection.is_in_transaction():
        # SQLAlchemy begins the transaction with the first statement of its own; without one, each of ours would autocommit.
        await conn.exec_driver_sql("SELECT 1")
    return connection


async def cursor(conn: AsyncConnection, query: str, *values: object) -> "Cursor[Any]":
    """A cursor of the server over the rows of a query, in the transaction of `conn`.

    The statement is prepared by itself: the driver gives that of a bare cursor a name, also behind a pooler.
    """
    prepared = await (await driver(conn)).prepare(query)
    return await prepared.cursor(*values)


def _ours(error: DBAPIError) -> StorageError:
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return StorageUnavailable(_first_line(error))
    return _of_state(_sqlstate(error), _first_line(error))


def _of_state(sqlstate: str, message: str) -> StorageError:
    outcome = outcome_of(sqlstate) if sqlstate else SqlOutcome.RETRY
    return _ERRORS[outcome](f"{sqlstate} {message}".strip())


def _sqlstate(error: DBAPIError | asyncpg.PostgresError) -> str:
    return getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlstate", None) or ""


def _first_line(error: BaseException) -> str:
    # The first line is Postgres's message; the rest is the statement and a link.
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
