"""A small record with rows in every sealed table, sealed as a daemon would, and verified as an auditor would."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stored_events import event

from service.audit import keys, publish, verify
from service.audit.findings import Report
from service.audit.live import LiveRecord
from service.core.ids import uuid7
from service.core.lifecycle import VmState
from service.core.money import ContractDiscount, ListPrice
from service.core.vm import AssignmentStep, Transition
from service.runtime.runtime import Runtime
from service.storage import actions, assignments, calls, events, seals, tables
from service.storage.engine import begin
from service.storage.leaf_sql import SEALED
from service.storage.rows import insert_many
from service.worker import seal

#: Rows that a record grows by at once: one of each table that a daemon writes.
EACH = 8
STATES = [VmState.CREATING, VmState.BUILD, VmState.ACTIVE, VmState.SHUTOFF]
TEXTS = ["plain", 'a "quoted" \\ text', "line\nbreak\tand \x01 control \x7f", "ünïcode — 漢字 🚀", ""]


class SealedStage:
    """A runtime whose record grows and is sealed, and what an auditor finds."""

    def __init__(self, rt: Runtime, folder: Path, seed: int = 1) -> None:
        rt.settings = rt.settings.model_copy(update={"seal_publish_dir": folder / "published"})
        self.rt = rt
        self.rng = random.Random(seed)
        self.seqs: dict[tuple[Any, int], int] = {}
        self.submissions = [self.uuid() for _ in range(3)]

    @property
    def engine(self) -> AsyncEngine:
        return self.rt.engine

    def keys(self) -> list[bytes]:
        return keys.own_keys(self.rt.settings, self.rt.callback_secrets)

    def uuid(self) -> Any:
        return uuid7(self.rt.clock.now(), self.rng.randbytes(8))

    async def record(self, rows: int = 5, *, at: datetime | None = None) -> None:
        """Append so many rows to each of the daemon's tables, in one transaction."""
        async with begin(self.engine) as conn:
            for _ in range(rows):
                await self._one_of_each(conn, at or self.rt.clock.now())

    async def _one_of_each(self, conn: Any, now: datetime) -> None:
        rng, submission_id, vm_no = self.rng, self.rng.choice(self.submissions), self.rng.randrange(1, 4)
        at = now - timedelta(microseconds=rng.randrange(10**6))
        headers = {rng.choice(["content-type", "x", "user-agent", "ünï"]): rng.choice(TEXTS) for _ in range(2)}
        received = event(
            rng.randrange(10**6), submission_id=submission_id, event_id=self.uuid(), received_at=at, headers=headers,
            creation_no=1, body=rng.randbytes(20), peer=rng.choice([None, "192.0.2.7"]),
        )  # fmt: skip
        await events.insert(conn, [received])
        seq = self.seqs[submission_id, vm_no] = self.seqs.get((submission_id, vm_no), 0) + 1
        before, after = rng.sample(STATES, 2)
        await insert_many(conn, tables.transitions, [Transition(
            submission_id, vm_no, seq, at, before, after, "moved", rng.choice([None, *TEXTS]), "event", received.event_id, at)])  # fmt: skip
        call_id = self.uuid()
        await calls.begin(conn, [calls.Call(submission_id, call_id, "create", at, creation_no=1, attempt=1)])
        await calls.end(
            conn,
            [calls.CallEnd(submission_id, call_id, "ok", rng.randrange(900), at, error=rng.choice([None, *TEXTS]))],
        )
        await assignments.insert(conn, [AssignmentStep(
            submission_id, vm_no, seq, at, "wait", "waiting", rng.choice([None, 2**40]), rng.choice(TEXTS))])  # fmt: skip
        resource = f"A100-{self.uuid()}"
        price = Decimal(rng.choice(["1.50", "0", "2E-9", "12345678901234567890.5"]))
        await insert_many(conn, tables.prices, [ListPrice(resource, at, price, "USD", rng.choice(TEXTS))])
        discount = rng.choice([("percent", price), (None, None)])
        await insert_many(
            conn, tables.contract_discounts, [ContractDiscount(7, resource, at, *discount, source="a contract")]
        )
        await actions.insert(conn, actions.Action(submission_id, self.uuid(), "cancel", rng.choice(TEXTS), at))

    async def seal(self) -> int:
        """Seal, sign and publish, as the job does when it is due."""
        self.rt.clock.advance(self.rt.settings.seal_interval_seconds + 1)
        return await seal.run_once(self.rt)

    async def verify(self, *, keys_: list[Any] | None = None, published: bool = True) -> Report:
        """What an auditor finds who trusts this daemon's key."""
        places = publish.latest(self.rt.settings) + publish.everything(self.rt.settings.seal_publish_dir)
        found = [(str(one.path), one.note) for one in places] if published else []
        async with begin(self.engine) as conn:
            log = await seals.newest(conn)
        assert log is not None
        trusted = keys_ if keys_ is not None else [one.key for one in keys.signers_of(self.keys(), log.origin)]
        return await verify.verify(await LiveRecord.read(self.engine, log.log_id), trusted, found)

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        async with begin(self.engine) as conn:
            done = await conn.execute(text(statement), values)
            return [tuple(row) for row in done] if done.returns_rows else []

    async def tamper(self, *statements: str, **values: Any) -> None:
        """What an administrator can do whom no trigger stops."""
        async with begin(self.engine) as conn:
            await conn.execute(text("SET LOCAL session_replication_role = replica"))
            for one in statements:
                await conn.execute(text(one), values)

    async def count(self) -> int:
        return sum([(await self.sql(f"SELECT count(*) FROM {table}"))[0][0] for table in SEALED])


def kinds(report: Report) -> list[str]:
    return [one.kind for one in report.findings]


@dataclass
class Expected:
    """What a mutation has to be found as: one of these kinds, naming this; or no discrepancy but a notice that names it."""

    kinds: tuple[str, ...]
    names: str = ""
    notice: str | None = None

    def complaint(self, report: Report) -> str | None:
        if self.notice is not None:
            if report.findings or not any(self.names in one for one in getattr(report, self.notice).named):
                return f"not noticed: {report}"
            return None
        if not report.findings:
            return "not found"
        first = report.findings[0]
        if first.kind not in self.kinds or self.names not in first.text:
            return f"named wrong: {first}"
        return None
