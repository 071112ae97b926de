"""Which due rows to claim next, fair between submissions (docs/decisions/0030): one of each in turn, not the oldest first.

A submission's rows that are under way count as its first turns, so a submission with seven calls under way gets its eighth
only when no other waits for its first to seventh. Each submission costs one index lookup, not a scan of its rows.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Integer, TableValuedAlias, bindparam, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as UUID_
from sqlalchemy.ext.asyncio import AsyncConnection

#: Of each submission, how many rows more than are wanted are looked at: those that others hold are passed over.
_MORE: Final = 64
#: More turns than a submission can have.
NO_BOUND: Final = 2**31

# The submissions that have something due are found by skipping from one to the next in the index.
_DUE: Final = """
WITH RECURSIVE waiting AS (
    (SELECT submission_id FROM {table} WHERE {pending} ORDER BY submission_id LIMIT 1)
    UNION ALL
    SELECT (SELECT submission_id FROM {table} WHERE {pending} AND submission_id > waiting.submission_id
            ORDER BY submission_id LIMIT 1)
    FROM waiting WHERE waiting.submission_id IS NOT NULL
)
SELECT due.submission_id, due.number FROM waiting CROSS JOIN LATERAL (
    SELECT submission_id, number, due_at, free, row_number() OVER (ORDER BY free, due_at, number) AS turn FROM (
        {rows}
    ) AS candidates
) AS due
WHERE waiting.submission_id IS NOT NULL AND due.free AND due.turn <= CAST(:most AS bigint)
ORDER BY due.turn, due.due_at, due.submission_id, due.number
LIMIT :limit
"""

_CREATIONS: Final = _DUE.format(
    table="creations",
    pending="state IN ('due', 'calling')",
    rows="""
        (SELECT submission_id, creation_no AS number, due_at, false AS free FROM creations
         WHERE submission_id = waiting.submission_id AND state = 'calling' ORDER BY due_at LIMIT :some)
        UNION ALL
        (SELECT creations.submission_id, creation_no, due_at, true FROM creations
         JOIN submissions ON submissions.submission_id = creations.submission_id AND submissions.state <> 'cancelled'
         WHERE creations.submission_id = waiting.submission_id AND creations.state = 'due'
           AND due_at <= CAST(:now AS timestamptz) ORDER BY due_at, creation_no LIMIT :some)
    """,
)

_DELETIONS: Final = _DUE.format(
    table="vms",
    pending="delete_due_at IS NOT NULL",
    rows="""
        SELECT submission_id, vm_no AS number, delete_due_at AS due_at,
               lease_token IS NULL OR lease_until < CAST(:now AS timestamptz) AS free
        FROM vms
        WHERE submission_id = waiting.submission_id AND delete_due_at <= CAST(:now AS timestamptz)
        ORDER BY delete_due_at, vm_no LIMIT :some
    """,
)

_CONTRACTS: Final = _DUE.format(
    table="vms",
    pending="contract_due_at IS NOT NULL",
    rows="""
        SELECT submission_id, vm_no AS number, contract_due_at AS due_at,
               desired_state = 'present' AND (lease_token IS NULL OR lease_until < CAST(:now AS timestamptz)) AS free
        FROM vms
        WHERE submission_id = waiting.submission_id AND contract_due_at <= CAST(:now AS timestamptz)
        ORDER BY contract_due_at, vm_no LIMIT :some
    """,
)

_HISTORIES: Final = _DUE.format(
    table="vms",
    pending="history_due_at IS NOT NULL",
    # A history that is being read has no lease; it is due again soon.
    rows="""
        (SELECT submission_id, vm_no AS number, history_due_at AS due_at, false AS free FROM vms
         WHERE submission_id = waiting.submission_id AND history_due_at > CAST(:now AS timestamptz)
           AND history_due_at <= CAST(:again AS timestamptz) ORDER BY history_due_at, vm_no LIMIT :some)
        UNION ALL
        (SELECT submission_id, vm_no, history_due_at, true FROM vms
         WHERE submission_id = waiting.submission_id AND history_due_at <= CAST(:now AS timestamptz)
         ORDER BY history_due_at, vm_no LIMIT :some)
    """,
)


async def due_creations(
    conn: AsyncConnection, *, now: datetime, limit: int, most: int = NO_BOUND
) -> list[tuple[UUID, int]]:
    """The keys of up to `limit` creations to be sent, in the order in which they should be claimed. Locks nothing.

    No submission gets more than `most` turns, those under way included.
    """
    return await _due(conn, _CREATIONS, now, limit, most=most)


async def due_deletions(conn: AsyncConnection, *, now: datetime, limit: int) -> list[tuple[UUID, int]]:
    """The keys of up to `limit` VMs to be deleted, in the order in which they should be claimed. Locks nothing."""
    return await _due(conn, _DELETIONS, now, limit)


async def due_contracts(conn: AsyncConnection, *, now: datetime, limit: int) -> list[tuple[UUID, int]]:
    """The keys of up to `limit` VMs to be put on their contracts, in the order in which they should be claimed."""
    return await _due(conn, _CONTRACTS, now, limit)


async def due_histories(conn: AsyncConnection, *, now: datetime, again: datetime, limit: int) -> list[tuple[UUID, int]]:
    """The keys of up to `limit` VMs whose histories are to be read, in the order in which they should be claimed.

    Those that are due by `again` count as under way.
    """
    return await _due(conn, _HISTORIES, now, limit, again=again)


async def _due(
    conn: AsyncConnection, statement: str, now: datetime, limit: int, *, most: int = NO_BOUND, **more: datetime
) -> list[tuple[UUID, int]]:
    values = {"now": now, "limit": limit, "some": limit + _MORE, "most": most, **more}
    rows = await conn.execute(text(statement), values)
    return [(row.submission_id, row.number) for row in rows]


def turns(keys: Sequence[tuple[UUID, int]]) -> TableValuedAlias:
    """Keys as a table of `submission_id`, `number` and `turn`, the order of `keys`; two parameters, however many keys."""
    ids, numbers = [key[0] for key in keys], [key[1] for key in keys]
    return (
        func.unnest(bindparam("ids", ids, ARRAY(UUID_())), bindparam("numbers", numbers, ARRAY(Integer())))
        .table_valued("submission_id", "number", with_ordinality="turn", name="turns")
        .render_derived()
    )
