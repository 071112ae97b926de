"""The tables `submissions` and `idempotency_keys`: requests for VMs, and their progress."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.lifecycle import ENDED
from service.core.submission import SubmissionState
from service.core.token import CreationRef
from service.errors import KeyConflict
from service.storage.arrays import is_any
from service.storage.rows import from_row, from_rows, insert_many
from service.storage.stuck import STUCK
from service.storage.tables import PENDING, REFILLING, REPLACING, idempotency_keys, submissions, vms


class Submission(Struct, frozen=True):
    """One row of `submissions`."""

    submission_id: UUID
    name: str
    count: int
    spec: dict[str, Any]
    policy: dict[str, Any]
    reasons: list[str]
    warnings: list[str]
    requested_by: str
    next_creation_no: int
    next_vm_no: int
    created_at: datetime
    deadline_at: datetime
    state: SubmissionState = SubmissionState.OPEN
    ended_at: datetime | None = None
    cancelled_at: datetime | None = None
    cancel_reason: str | None = None
    withdraw_due_at: datetime | None = None
    expires_at: datetime | None = None
    expiry_notice_at: datetime | None = None
    hardware: list[list[Any]] = []
    repair_due_at: datetime | None = None
    maintained_since: datetime | None = None
    maintain_stopped_at: datetime | None = None
    limit_due_at: datetime | None = None
    limit_reached_at: datetime | None = None
    limit_issue: str | None = None
    origin: str = "created"
    limit_near_at: datetime | None = None
    notify: dict[str, str] | None = None  # `operations/notify_url.py`
    traceparent: str | None = None

    @property
    def replaces_no_vms(self) -> bool:
        """Whether a limit is passed, and the policy is to replace no VM then."""
        return self.limit_reached_at is not None and self.policy.get("on_limit") != "report"


@dataclass(frozen=True, slots=True)
class Tally:
    """The members of a submission by state, and how many are ready and stuck."""

    by_state: Mapping[str, int]
    ready: int
    alive: int  #: that have not ended
    on_contract: int
    on_demand: int
    stuck: int


async def take_key(
    conn: AsyncConnection, *, caller: str, key: bytes, body: bytes, submission_id: UUID, now: datetime
) -> UUID:
    """The submission of an idempotency key: `submission_id` if the key is new, else that of the first request.

    `key` and `body` are digests. Raises `KeyConflict` if the key was used with another body. A concurrent request waits
    for this transaction.
    """
    row = {"caller": caller, "key_digest": key, "body_digest": body, "submission_id": submission_id, "created_at": now}
    made = await conn.execute(insert(idempotency_keys).values(row).on_conflict_do_nothing())
    if made.rowcount:
        return submission_id
    first = (
        await conn.execute(
            select(idempotency_keys).where(idempotency_keys.c.caller == caller, idempotency_keys.c.key_digest == key)
        )
    ).one()
    if first.body_digest != body:
        raise KeyConflict(f"the idempotency key was used for another request, submission {first.submission_id}")
    found: UUID = first.submission_id
    return found


async def insert_one(conn: AsyncConnection, new: Submission) -> None:
    await insert_many(conn, submissions, [new])


async def get(conn: AsyncConnection, submission_id: UUID) -> Submission | None:
    rows = await conn.execute(select(submissions).where(submissions.c.submission_id == submission_id))
    row = rows.mappings().one_or_none()
    return from_row(Submission, row) if row else None


async def read(conn: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, Submission]:
    rows = await conn.execute(select(submissions).where(is_any(submissions.c.submission_id, set(ids))))
    return {one.submission_id: one for one in await from_rows(Submission, rows)}


async def page(
    conn: AsyncConnection, *, state: str | None = None, before: UUID | None = None, limit: int
) -> list[Submission]:
    """A page of submissions, newest first."""
    query = select(submissions).order_by(submissions.c.submission_id.desc()).limit(limit)
    if state is not None:
        query = query.where(submissions.c.state == state)
    if before is not None:
        query = query.where(submissions.c.submission_id < before)
    rows = await conn.execute(query)
    return await from_rows(Submission, rows)


async def tallies(conn: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, Tally]:
    """The tally of each submission."""
    rows = await conn.execute(
        select(
            vms.c.submission_id,
            vms.c.state,
            func.count().label("count"),
            func.count().filter(vms.c.ready).label("ready"),
            func.count().filter(vms.c.assignment == "assigned").label("on_contract"),
            func.count().filter(vms.c.assignment.in_(["on_demand", "retrying", "given_up"])).label("on_demand"),
            func.count().filter(vms.c.stuck).label("stuck"),
        )
        .where(is_any(vms.c.submission_id, ids), vms.c.member)
        .group_by(vms.c.submission_id, vms.c.state)
        .order_by(vms.c.submission_id, vms.c.state)
    )
    found: dict[UUID, list[Any]] = {id_: [] for id_ in ids}
    for row in rows:
        found[row.submission_id].append(row)
    return {id_: _tally(of_it) for id_, of_it in found.items()}


def _tally(rows: Sequence[Any]) -> Tally:
    return Tally(
        by_state={row.state: row.count for row in rows},
        ready=sum(row.ready for row in rows),
        alive=sum(row.count for row in rows if row.state not in ENDED),
        on_contract=sum(row.on_contract for row in rows if row.state != "DELETED"),
        on_demand=sum(row.on_demand for row in rows if row.state != "DELETED"),
        stuck=sum(row.stuck for row in rows),
    )


async def take_numbers(conn: AsyncConnection, submission_id: UUID, *, creations: int, vms: int) -> tuple[int, int]:
    """Reserve numbers: the first creation_no and the first vm_no. Locks the submission until the transaction ends."""
    row = (
        await conn.execute(
            update(submissions)
            .where(submissions.c.submission_id == submission_id)
            .values(
                next_creation_no=submissions.c.next_creation_no + creations,
                next_vm_no=submissions.c.next_vm_no + vms,
            )
            .returning(submissions.c.next_creation_no, submissions.c.next_vm_no)
        )
    ).one()
    return row.next_creation_no - creations, row.next_vm_no - vms


async def pass_number(conn: AsyncConnection, ref: CreationRef) -> None:
    """Have creations that are made later get higher numbers than this one has."""
    await conn.execute(
        update(submissions)
        .where(submissions.c.submission_id == ref.submission_id, submissions.c.next_creation_no <= ref.creation_no)
        .values(next_creation_no=ref.creation_no + 1)
    )


async def add_reason(conn: AsyncConnection, submission_id: UUID, reason: str) -> None:
    """Add a reason to the submission, unless it has it already or has 20."""
    await conn.execute(
        text("""
        UPDATE submissions SET reasons = reasons || jsonb_build_array(CAST(:reason AS text))
        WHERE submission_id = :submission_id AND jsonb_array_length(reasons) < 20
          AND NOT reasons ? CAST(:reason AS text)
        """),
        {"submission_id": submission_id, "reason": reason},
    )


async def cancel(
    conn: AsyncConnection, submission_id: UUID, *, now: datetime, reason: str, withdraw_at: datetime
) -> None:
    """Mark a submission as cancelled. If its VMs are not withdrawn by `withdraw_at`, the rescue job does it."""
    await conn.execute(
        update(submissions)
        .where(submissions.c.submission_id == submission_id)
        .values(
            cancelled_at=func.coalesce(submissions.c.cancelled_at, now),
            cancel_reason=reason,
            withdraw_due_at=withdraw_at,
        )
    )


async def claim_withdrawals(conn: AsyncConnection, *, now: datetime, lease: timedelta, limit: int) -> list[UUID]:
    """Cancelled submissions with VMs to withdraw; each is deferred by the lease."""
    due = (
        select(submissions.c.submission_id)
        .where(submissions.c.withdraw_due_at <= now)
        .order_by(submissions.c.withdraw_due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    rows = await conn.execute(
        update(submissions)
        .where(submissions.c.submission_id == due.c.submission_id)
        .values(withdraw_due_at=now + lease)
        .returning(submissions.c.submission_id)
    )
    return sorted(rows.scalars())


async def resume_withdrawal(conn: AsyncConnection, submission_id: UUID, *, now: datetime) -> None:
    """Make a withdrawal that is not finished due again."""
    await conn.execute(
        update(submissions)
        .where(submissions.c.submission_id == submission_id, submissions.c.withdraw_due_at.is_not(None))
        .values(withdraw_due_at=now)
    )


async def end_withdrawal(conn: AsyncConnection, submission_id: UUID) -> None:
    """Record that all VMs of a cancelled submission are withdrawn."""
    await conn.execute(
        update(submissions).where(submissions.c.submission_id == submission_id).values(withdraw_due_at=None)
    )


async def is_cancelled(conn: AsyncConnection, submission_id: UUID) -> bool:
    """Whether a submission is cancelled. Locks it, so that this stays true until the transaction ends."""
    row = await conn.execute(
        select(submissions.c.cancelled_at, submissions.c.state)
        .where(submissions.c.submission_id == submission_id)
        .with_for_update(key_share=True)  # no shared lock: the caller writes a reason next, and two would deadlock
    )
    found = row.one_or_none()
    return found is not None and (found.cancelled_at is not None or found.state == SubmissionState.CANCELLED)


async def set_values(conn: AsyncConnection, submission_id: UUID, **values: Any) -> None:
    """Write columns of a submission that this transaction has locked."""
    await conn.execute(update(submissions).where(submissions.c.submission_id == submission_id).values(**values))


async def end_if_open(conn: AsyncConnection, submission_id: UUID, state: SubmissionState, now: datetime) -> bool:
    """End an open submission. Returns whether it was open."""
    done = await conn.execute(
        update(submissions)
        .where(submissions.c.submission_id == submission_id, submissions.c.state == SubmissionState.OPEN)
        .values(state=state, ended_at=now)
    )
    return done.rowcount > 0


#: Of `submissions`: open, and past the deadline with every VM flagged that is not ready, or without a VM that can still
#: become ready. Not NOT EXISTS: Postgres might answer it for one submission from a table of all pending VMs.
CONCLUDABLE: Final = f"""
    submissions.state = 'open' AND (submissions.deadline_at < CAST(:now AS timestamptz) AND (
        SELECT true FROM ({STUCK}) AS unflagged LIMIT 1
    ) IS NULL OR (
        SELECT true FROM vms WHERE vms.submission_id = submissions.submission_id AND {PENDING} LIMIT 1
    ) IS NULL AND (
        SELECT true FROM vms WHERE vms.submission_id = submissions.submission_id AND {REFILLING} LIMIT 1
    ) IS NULL AND (
        SELECT true FROM vms WHERE vms.submission_id = submissions.submission_id AND {REPLACING} AND contract_due_at IS NULL LIMIT 1
    ) IS NULL)
"""  # noqa: S608  constants of ours


#: Of a submission's policy; null if it has none. JSON null has no text, so it counts as none.
_LIFETIME: Final = "make_interval(secs => CAST(policy ->> 'lifetime' AS float))"

#: Of a submission's policy: whether VMs that fail after they were ready are replaced. As `Policy.repairs`.
_REPAIRS: Final = "(policy #>> '{maintain,enabled}' = 'true' OR policy ->> 'on_stuck' = 'replace')"


def _no_vm(which: str) -> str:
    # Not NOT EXISTS, for which the planner may read the VMs of every submission.
    return f"(SELECT vm_no FROM vms WHERE vms.submission_id = due.submission_id AND {which} LIMIT 1) IS NULL"  # noqa: S608  constants of ours


async def conclude(conn: AsyncConnection, *, now: datetime, limit: int = 100) -> list[tuple[UUID, str]]:
    """End open submissions without a VM that can still become ready (`tables.PENDING`), or past their deadline.

    Such a submission is ready if all its VMs are, cancelled if none is left, else failed. Its VMs are still followed.
    """
    rows = await conn.execute(
        text(f"""
        WITH due AS (
            SELECT submission_id FROM submissions WHERE {CONCLUDABLE}
            ORDER BY submission_id LIMIT :most FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE submissions SET ended_at = :now,
               repair_due_at = CASE WHEN maintain_stopped_at IS NULL AND {_REPAIRS} THEN :now ELSE repair_due_at END,
               expires_at = coalesce(expires_at, CAST(:now AS timestamptz) + {_LIFETIME}),
               expiry_notice_at = CASE WHEN expires_at IS NULL
                    THEN CAST(:now AS timestamptz) + {_LIFETIME} - least({_LIFETIME} / 10, interval '1 hour')
                    ELSE expiry_notice_at END,
               state = CASE WHEN {_no_vm("member")} THEN 'cancelled'
                            WHEN {_no_vm("member AND NOT ready")} THEN 'ready'
                            ELSE 'failed' END
        FROM due
        WHERE submissions.submission_id = due.submission_id AND submissions.state = 'open'
        RETURNING submissions.submission_id, submissions.state
        """),  # noqa: S608  a constant of ours
        {"now": now, "limit": 1, "most": limit},
    )
    return [(row.submission_id, row.state) for row in rows]
