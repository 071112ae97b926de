"""Handler of the state of the log, with which the record is proved."""

from datetime import datetime
from uuid import UUID

from aiohttp import web
from msgspec import to_builtins

from service.api.context import answer, reading, runtime
from service.audit import log_state, seal


async def show(request: web.Request) -> web.Response:
    """How far the log has come, and whether its last checkpoint is signed and is of the hashes that are stored."""
    issue = runtime(request).health.issues.get(seal.STOPPED)
    async with reading(request) as conn:
        found = await log_state.state(conn, issue=issue)
    return answer(to_builtins(found, builtin_types=(datetime, UUID)))
