"""How many VMs were in which state over the last hours: today's numbers, and the moves since, taken back one by one."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.lifecycle import ENDED, VmState
from service.storage.tables import transitions, vms

#: States before the provider knows a VM, and after: they are not drawn.
_NOT_THERE: Final = frozenset(map(str, ENDED | {VmState.REQUESTED}))


@dataclass(frozen=True, slots=True)
class StateCounts:
    """VMs at the provider by state, replaced ones included, as the record had them at `at`."""

    at: datetime
    by_state: Mapping[str, int]


async def over_time(conn: AsyncConnection, *, since: datetime, until: datetime, steps: int) -> list[StateCounts]:
    """`steps` + 1 moments from `since` to `until`, which is now. What is read grows with the moves in between."""
    step = (until - since) / steps
    counts = Counter(await _now(conn))
    moves = await _moves(conn, since=since, step=step)
    found = [StateCounts(until, drawn(counts))]
    for number in range(steps - 1, -1, -1):
        counts.subtract(moves[number])
        found.append(StateCounts(since + number * step, drawn(counts)))
    return found[::-1]


async def _now(conn: AsyncConnection) -> dict[str, int]:
    alive = select(vms.c.state, func.count()).where(vms.c.ended_at.is_(None)).group_by(vms.c.state)
    return {row[0]: row[1] for row in await conn.execute(alive)}


async def _moves(conn: AsyncConnection, *, since: datetime, step: timedelta) -> dict[int, Counter[str]]:
    """By the number of the step: how many VMs more each state had at its end."""
    bucket = func.floor(func.extract("epoch", transitions.c.at - since) / step.total_seconds())
    rows = await conn.execute(
        select(bucket, transitions.c.from_state, transitions.c.to_state, func.count())
        .where(transitions.c.at >= since, transitions.c.verdict == "moved")
        .group_by(bucket, transitions.c.from_state, transitions.c.to_state)
    )
    moves: dict[int, Counter[str]] = defaultdict(Counter)
    for number, from_state, to_state, vms_moved in rows:
        moves[int(number)].update({to_state: vms_moved})
        moves[int(number)].subtract({from_state: vms_moved})
    return moves


def drawn(counts: Mapping[str, int]) -> dict[str, int]:
    """Of counts by state, those that are drawn."""
    return {state: number for state, number in sorted(counts.items()) if number > 0 and state not in _NOT_THERE}
