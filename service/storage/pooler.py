"""Finds out whether a pooler stands between us and Postgres that mixes up the prepared statements of its clients."""

from contextlib import AsyncExitStack
from typing import Final

import asyncpg

from service.errors import ConfigError, FieldError
from service.storage.connecting import connection_to
from service.storage.database_url import parse
from service.storage.engine import translated

_NAME: Final = "rollcall_probe"
_CONNECTIONS: Final = 3
_ADVICE: Final = (
    "leads to a pooler in transaction mode, such as pgbouncer: add statement_cache_size=0 to it, so that no statement is "
    "prepared on a connection that others use"
)


async def refuse_mixed_statements(url: str) -> None:
    """Raise `ConfigError` if the database at `url` mixes up prepared statements, unless the URL says that we keep none.

    To Postgres itself each connection is a session, with names of its own. A pooler in transaction mode lends the same
    session to several. Raises `StorageUnavailable` if the database is away.
    """
    target = parse(url)
    if not target.prepares:
        return
    async with translated(), AsyncExitStack() as stack:
        try:
            for _ in range(_CONNECTIONS):
                connection = await connection_to(target)
                stack.callback(connection.terminate)
                # Run, since a pooler gives the session to the next client only when a statement is over.
                await (await connection.prepare("SELECT 1", name=_NAME)).fetchval()
        except (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError):
            raise ConfigError([FieldError("ROLLCALL_DATABASE_URL", _ADVICE)]) from None
