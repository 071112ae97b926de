"""Reads the record's tables for the checker, and asks when each job has something to do."""

import gzip
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import MetaData, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.core.money import ASSUMED_CURRENCY
from service.queries import cost
from service.queries.cost import CostRow, Period
from service.storage import partitions
from service.storage.engine import begin
from service.storage.tables import (
    actions,
    assignments,
    call_ends,
    calls,
    contract_discounts,
    creations,
    dead_letters,
    events,
    inbox,
    orphans,
    prices,
    submissions,
    transitions,
    vms,
)

Row = Mapping[str, Any]

_MOST_VMS = 10_000


class Record:
    """The record's tables, read once."""

    def __init__(self, tables: Mapping[str, Sequence[Row]], costs: Sequence[CostRow] = ()) -> None:
        self.submissions = tables["submissions"]
        self.creations = tables["creations"]
        self.vms = tables["vms"]
        self.transitions = tables["transitions"]
        self.assignments = tables["assignments"]
        self.actions = tables["actions"]
        self.calls = tables["calls"]
        self.ends = tables["call_ends"]
        self.orphans = tables["orphans"]
        self.inbox = tables["inbox"]
        self.dead_letters = tables["dead_letters"]
        self.prices = tables["prices"]
        self.discounts = tables["contract_discounts"]
        #: The product's report of what each VM cost, by `SUBMISSION.N`.
        self.costs = {one.key: one for one in costs}
        #: The archives that have an event twice.
        self.archived_twice: list[str] = []
        #: The creation on whose URL each event came.
        self.received_by = {one["event_id"]: (one["submission_id"], one["creation_no"]) for one in tables["events"]}

    @classmethod
    async def read(
        cls, engine: AsyncEngine, *, since: datetime, until: datetime, archive: Path | None = None
    ) -> "Record":
        """Read them, and the events of months that were taken out or exported to `archive`."""
        wanted = (
            submissions,
            creations,
            vms,
            transitions,
            assignments,
            actions,
            calls,
            call_ends,
            orphans,
            inbox,
            dead_letters,
            events,
            prices,
            contract_discounts,
        )
        period = Period(since=since, until=until, submission_id=None, currency=ASSUMED_CURRENCY)
        async with begin(engine) as conn:
            costs = await cost.page(conn, period, by="vm", after=None, limit=_MOST_VMS)
            record = cls({table.name: await _all(conn, table) for table in wanted}, costs)
            for name in await partitions.apart(conn):
                record.note_events(await _all(conn, events.to_metadata(MetaData(), name=name)))
        if archive is not None:
            record.note_archive(archive)
        return record

    def note_events(self, rows: Iterable[Row]) -> None:
        for one in rows:
            self.received_by[UUID(str(one["event_id"]))] = UUID(str(one["submission_id"])), one["creation_no"]

    def note_archive(self, folder: Path) -> None:
        """The events of finished archives; an unfinished one does not count."""
        for manifest in folder.glob("*.json"):
            with gzip.open(manifest.with_suffix("")) as lines:
                rows = [orjson.loads(line) for line in lines]
            if len({row["event_id"] for row in rows}) < len(rows):
                self.archived_twice.append(manifest.name)
            self.note_events(rows)


async def _all(conn: AsyncConnection, table: Any) -> list[Row]:
    rows = await conn.execute(select(table).order_by(*table.primary_key.columns))
    return [dict(row) for row in rows.mappings()]


_DUE = """
SELECT (SELECT min(due_at) FROM inbox) AS apply,
       (SELECT min(due_at) FROM creations WHERE state = 'due') AS create,
       (SELECT min(greatest(delete_due_at, lease_until)) FROM vms WHERE delete_due_at IS NOT NULL) AS delete,
       (SELECT min(contract_due_at) FROM vms WHERE desired_state = 'present') AS contract,
       (SELECT min(due_at) FROM orphans) AS orphan,
       (SELECT min(history_due_at) FROM vms) AS history,
       least((SELECT min(next_refresh_at) FROM vms), (SELECT min(due_at) FROM creations WHERE state = 'unconfirmed'),
             (SELECT greatest(due_at, lease_until) FROM scheduled_jobs WHERE job = 'resync')) AS refresh,
       least((SELECT min(lease_until) FROM creations), (SELECT min(deadline_at) FROM submissions WHERE state = 'open'))
           AS rescue
"""


async def due_times(engine: AsyncEngine) -> dict[str, datetime | None]:
    """When each job has something to do next, by its name; None if it has nothing. What is leased waits for its lease."""
    return await _row(engine, _DUE)


_OPEN = """
SELECT EXISTS (SELECT FROM submissions WHERE state = 'open' OR (expires_at IS NOT NULL AND cancelled_at IS NULL)) OR EXISTS (SELECT FROM inbox)
       OR EXISTS (SELECT FROM creations WHERE due_at IS NOT NULL) OR EXISTS (SELECT FROM orphans WHERE due_at IS NOT NULL)
       OR EXISTS (SELECT FROM vms WHERE delete_due_at IS NOT NULL OR contract_due_at IS NOT NULL) AS open,
       (SELECT max(state_since) FROM vms) AS changed_at
"""


async def open_work(engine: AsyncEngine) -> tuple[bool, datetime | None]:
    """Whether anything is left to do, but for refreshes; and when a VM last changed."""
    row = await _row(engine, _OPEN)
    return row["open"], row["changed_at"]


async def _row(engine: AsyncEngine, query: str) -> dict[str, Any]:
    async with engine.connect() as conn:
        # Asked before every run: in one round trip, without SQLAlchemy's work for each statement.
        connection = (await conn.get_raw_connection()).driver_connection
        row = await connection.fetchrow(query) if isinstance(connection, asyncpg.Connection) else None
    return dict(row or {})
