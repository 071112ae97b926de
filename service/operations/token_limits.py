"""Compares what a submission asks for with what its API token may hold.

Within a transaction that adds VMs the comparison locks the token's rows, so that of two submissions at once the second
counts the first one's VMs, whichever daemons they reach.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.hardware import Hardware
from service.core.submission import SubmissionRequest
from service.core.token_limits import exceeded, usage_of
from service.errors import FieldError
from service.queries import holdings
from service.runtime.runtime import Runtime
from service.storage import tokens


async def check(
    rt: Runtime,
    conn: AsyncConnection,
    token_id: UUID | None,
    request: SubmissionRequest,
    hardware: Sequence[Hardware],
    *,
    lock: bool = True,
) -> list[FieldError]:
    """Each limit of a token that a request would pass. `hardware` is of each choice. Tokens of the settings have none."""
    token = None if token_id is None else await tokens.get(conn, token_id)
    if token is None or not token.limits.any:
        return []
    if lock:
        await tokens.lock_holdings(conn, token.name)
        token = await tokens.get(conn, token.token_id) or token  # it may have changed meanwhile
    known = await holdings.rates(conn, now=rt.clock.now())
    held = (await holdings.of_tokens(conn, [token.name], known))[token.name]
    more = usage_of(request.count, known.sizes_of(request.spec(), request.policy, hardware))
    return exceeded(token.name, token.limits, held, more, known.currency)
