"""Notices that the database is another server than before, or is back, on a connection of its own.

A server that froze or whose network was lost closes nothing: who waits for it would wait for a minute, although another has
taken its place.
"""

import asyncio
import time
from contextlib import suppress
from typing import Final

from sqlalchemy.engine import URL

from service.errors import StorageError, StorageUnavailable
from service.storage.connecting import Connection, abandon, connection_to
from service.storage.database_url import parse
from service.storage.engine import translated

#: How long a server that works may take to answer.
_ANSWER_SECONDS: Final = 2.0
_SERVER: Final = """
SELECT CASE WHEN NOT current_setting('transaction_read_only')::bool
    THEN concat_ws(' ', pg_postmaster_start_time(), inet_server_addr(), inet_server_port()) END
"""


class ServerWatch:
    """Looks at the server from time to time. `close` it at the end."""

    def __init__(self, url: URL) -> None:
        self._target = parse(url.render_as_string(hide_password=False))
        self._connection: Connection | None = None
        self._server: str | None = None
        self._was_away = False

    async def look(self) -> bool:
        """Whether the server is back, or another one, since the last look. Raises `StorageError` if there is none.

        If it is another one, all connections to the former one are broken: whatever waits for it is told.
        """
        if await self._answers():
            return False
        began = time.monotonic()
        before, away = self._server, self._was_away
        self._was_away = True
        async with translated():
            self._connection = await connection_to(self._target)
            if not await self._answers():
                raise StorageUnavailable("the server does not answer")
        self._was_away = False
        replaced = before not in {None, self._server}
        if replaced:
            abandon(self._target, began)
        return away or replaced

    def close(self) -> None:
        """Close the connection; a later look opens another."""
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None

    async def _answers(self) -> bool:
        """Whether the connection works and its server takes writes; if not, it is closed."""
        if self._connection is None:
            return False
        server = None
        with suppress(StorageError):
            async with translated(), asyncio.timeout(_ANSWER_SECONDS):
                server = await self._connection.fetchval(_SERVER)
        if server is None:
            self.close()
            return False
        self._server = server
        return True
