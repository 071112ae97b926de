"""The table `provider_circuits`: circuit breakers for each kind of call, shared by all daemons of a scope.

Without a row, or without failures, a circuit is closed: calls are made. A failure opens it for a while; then a few calls
may try, and the first success closes it.
"""

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct
from sqlalchemy import and_, case, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.rows import from_rows
from service.storage.tables import provider_circuits


class Circuit(Struct, frozen=True):
    """One row of `provider_circuits`: `failures` in a row; no calls before `open_until` unless that is 0."""

    scope: str
    operation: str
    failures: int
    open_until: datetime
    error: str


async def read(conn: AsyncConnection, scope: str) -> Mapping[str, Circuit]:
    """The circuits of a scope that are not closed, by the kind of call."""
    rows = await conn.execute(
        select(provider_circuits).where(provider_circuits.c.scope == scope, provider_circuits.c.failures > 0)
    )
    return {one.operation: one for one in await from_rows(Circuit, rows)}


async def get(conn: AsyncConnection, scope: str, operation: str) -> Circuit | None:
    """The circuit of a kind of call, or None if it is closed."""
    rows = await conn.execute(
        select(provider_circuits).where(
            provider_circuits.c.scope == scope,
            provider_circuits.c.operation == operation,
            provider_circuits.c.failures > 0,
        )
    )
    found = await from_rows(Circuit, rows)
    return found[0] if found else None


async def take_probe(conn: AsyncConnection, circuit: Circuit, *, now: datetime, until: datetime) -> bool:
    """Whether the caller may try an open circuit now. If so nobody else may before `until`, and it counts as a failure
    until a success closes the circuit: a try that hangs must not let the others through.
    """
    done = await conn.execute(
        update(provider_circuits)
        .where(provider_circuits.c.scope == circuit.scope, provider_circuits.c.operation == circuit.operation)
        .where(provider_circuits.c.failures > 0, provider_circuits.c.open_until <= now)
        .values(failures=provider_circuits.c.failures + 1, open_until=until)
    )
    return done.rowcount > 0


async def record_failure(
    conn: AsyncConnection, scope: str, operation: str, *, now: datetime, until: datetime, error: str
) -> None:
    """Open the circuit of a kind of call until `until`. One that is open already stays as it is, save for the text:
    calls that run at the same time fail together, and count once.
    """
    row = {"scope": scope, "operation": operation, "failures": 1, "open_until": until, "error": error}
    new, old = insert(provider_circuits).values(row), provider_circuits.c
    is_open = and_(old.failures > 0, old.open_until > now)
    await conn.execute(
        new.on_conflict_do_update(
            constraint="provider_circuits_pkey",
            set_={
                "failures": case((is_open, old.failures), else_=old.failures + 1),
                "open_until": case((is_open, old.open_until), else_=new.excluded.open_until),
                "error": new.excluded.error,
            },
        )
    )


async def close(conn: AsyncConnection, scope: str, operation: str) -> None:
    """Close the circuit of a kind of call: one was answered."""
    await conn.execute(
        update(provider_circuits)
        .where(provider_circuits.c.scope == scope, provider_circuits.c.operation == operation)
        .where(provider_circuits.c.failures > 0)
        .values(failures=0)
    )
