"""Opens connections. If the URL names several hosts, a silent one holds up nobody, and one that is promoted is found at once."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import asyncpg

from service.storage.database_url import ConnectionTarget
from service.storage.sqlstates import SqlOutcome, outcome_of

Connection: TypeAlias = "asyncpg.Connection[Any]"

#: The longest that a statement may take.
_COMMAND_SECONDS: Final = 60
#: Seconds after which a host that refused is asked again, while another has not answered yet.
_AGAIN: Final = 0.5
#: Open connections: where each leads, and when it was opened.
_OPEN: Final[WeakKeyDictionary[Connection, tuple[ConnectionTarget, float]]] = WeakKeyDictionary()


async def connection_to(target: ConnectionTarget) -> Connection:
    """A new connection of the driver's. Raises its errors."""
    began = time.monotonic()
    connection = await _to_any_host(target)
    with ExitStack() as unless_ready:
        unless_ready.callback(connection.terminate)
        await connection.execute(target.first_statement)
        unless_ready.pop_all()
    _OPEN[connection] = target, began
    return connection


def abandon(target: ConnectionTarget, before: float) -> int:
    """Break this process's connections to `target` that were opened before then (`time.monotonic`), also those in use.

    Returns how many. Whoever waits for a statement gets a connection error, as if the server had closed it.
    """
    old = [one for one, (where, at) in _OPEN.items() if where == target and at < before and not one.is_closed()]
    for one in old:
        # Not terminate(): it takes the driver's protocol from under a statement that is between two messages.
        one._transport.abort()  # type: ignore[attr-defined]  # noqa: SLF001  the driver has no other way to break a connection as the network does
    return len(old)


async def _to_any_host(target: ConnectionTarget) -> Connection:
    if len(target.hosts) < 2:
        return await _to_one(target)
    wanted = target.parameters.get("target_session_attrs", "read-write")
    if wanted != "prefer-standby":
        return await _race(_each_host(target, wanted))
    try:
        return await _race(_each_host(target, "standby"))
    except (OSError, asyncpg.PostgresError):  # TimeoutError is an OSError
        return await _race(_each_host(target, "any"))


def _each_host(target: ConnectionTarget, wanted: str) -> list[ConnectionTarget]:
    parameters = {**target.parameters, "target_session_attrs": wanted}
    places = zip(target.hosts, target.ports, strict=True)
    return [replace(target, hosts=(host,), ports=(port,), parameters=parameters) for host, port in places]


async def _to_one(target: ConnectionTarget) -> Connection:
    try:
        connection: Connection = await asyncpg.connect(**target.connect_arguments(), command_timeout=_COMMAND_SECONDS)
    except asyncpg.TargetServerAttributeNotMatched:
        raise asyncpg.ReadOnlySQLTransactionError("no host of the database can be written to") from None
    return connection


async def _race(hosts: Sequence[ConnectionTarget]) -> Connection:
    """The first connection that some host gives. Each host gets the whole time to connect in, not a share of it.

    A host that refuses is asked again until the others have answered: it may have been promoted meanwhile.
    """
    attempts = {asyncio.create_task(_to_one(host)): number for number, host in enumerate(hosts)}
    errors: dict[int, BaseException] = {}
    chosen: asyncio.Task[Connection] | None = None
    try:
        while len(errors) < len(hosts):
            done, _ = await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
            failed = {attempt: error for attempt in done if (error := attempt.exception()) is not None}
            if chosen := next(iter(done - failed.keys()), None):
                return chosen.result()
            for attempt, error in failed.items():
                number = attempts.pop(attempt)
                errors[number] = error
                attempts[asyncio.create_task(_later(hosts[number]))] = number
        raise min(errors.values(), key=_rank)
    finally:
        for attempt in attempts.keys() - {chosen}:
            attempt.cancel()
            attempt.add_done_callback(_discard)


async def _later(host: ConnectionTarget) -> Connection:
    await asyncio.sleep(_AGAIN)
    return await _to_one(host)


def _discard(attempt: asyncio.Task[Connection]) -> None:
    """Close what nobody waits for any more."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()


def _rank(error: BaseException) -> int:
    """Of the hosts' errors the one to raise: as long as one of them may be overcome by waiting, that one."""
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return 0
    if isinstance(error, OSError):
        return 1
    may_pass = isinstance(error, asyncpg.PostgresError) and outcome_of(error.sqlstate or "") is SqlOutcome.RETRY
    return 2 if may_pass else 3
