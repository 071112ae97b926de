"""The tables of the record.

`submission_id` leads every primary key and unique constraint except those of a few small tables for the whole fleet
(idempotency keys, rate limits, provider circuits, scheduled jobs, daemons, prices, API tokens, message lanes, health issues), so that the tables can
be distributed by it without a rewrite. Triggers, made by the migrations, keep rows append-only; they fire on UPDATE, DELETE and
TRUNCATE, so the inserts of the hot path have none. Other triggers write notices of the few changes that somebody is told (decision
0071).

CHECK constraints give every unfinished row a due time.
"""

# longer than 350 lines because the migrations are compared with the whole schema

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID

from service.core.api_token import Role
from service.core.contract import Assignment
from service.core.lifecycle import ENDED, VmState
from service.core.submission import SubmissionState

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    }
)

#: Tables whose rows are never updated or deleted.
APPEND_ONLY = (
    "events", "transitions", "calls", "call_ends", "assignments", "actions", "prices", "contract_discounts", "log_keys",
    "dropped_months",
)  # fmt: skip


#: VMs that can still become ready, and for which their submission stays open.
PENDING = (
    "member AND NOT ready AND ended_at IS NULL AND desired_state = 'present'"
    " AND NOT (state IN ('ERROR', 'LOST') AND replaced_by IS NULL AND (stuck OR state = 'LOST'))"
)
#: Of what is leased: nobody has it now.
FREE = "(lease_token IS NULL OR lease_until < :now)"
#: VMs that wait for room on their contract.
WAITING = "assignment = 'retrying' AND replaced_by IS NULL"
#: VMs that are on their contract, or were until it ended.
ON_CONTRACT = "ended_at IS NULL AND (assignment = 'assigned' OR contract_ended)"
#: VMs in whose place another one is created, and that still count.
REPLACING = "member AND replaced_by IS NOT NULL"
#: VMs that are deleted first and replaced when they are gone.
REFILLING = "refill AND replaced_by IS NULL"
#: VMs that people look for.
BROKEN = "state IN ('ERROR', 'LOST')"
#: VMs that failed before they were ready, and that are not known to be stuck yet.
FAILED = (
    "state IN ('ERROR', 'LOST') AND NOT stuck AND member AND NOT ready AND ended_at IS NULL"
    " AND desired_state = 'present' AND ready_at IS NULL"
)

#: A BRIN must be read with every block that is not in it yet: by default, all that came since the last vacuum. A
#: stretch of time is read with all of the blocks around it: by default 128.
_SUMMARIZED = {"autosummarize": "on", "pages_per_range": 32}


def hides_id(body: str) -> str:
    """Whether a body may name a VM without its id's digits in a row, as SQL: it may be compressed, the id may be a number
    with an exponent or one that is rounded, or a text with escapes (`core/event.py: parse`). Long ones are not looked at.

    Postgres expects an expression to be one number in few rows, and makes its plans for few.
    """
    written = r"""':\s*(?:[0-9.]+[eE]|[0-9.]{17}|"[0-9\s]*\\)'"""
    hidden = rf"octet_length({body}) > 16000 OR substring({body} FROM 1 FOR 1) IN ('\x1f', '\x78') OR encode({body}, 'escape') ~ {written}"
    return f"CASE WHEN {hidden} THEN 1 ELSE 0 END = 1"


#: Moves that statistics count as failures.
FAILURES = "verdict = 'moved' AND to_state IN ('ERROR', 'LOST', 'REFUSED')"
#: VMs that failed, or that others deleted, and that nothing has taken the place of.
REPAIRABLE = (
    "state IN ('ERROR', 'LOST', 'DELETED', 'REFUSED') AND member AND NOT stuck AND replaced_by IS NULL"
    " AND desired_state = 'present'"
)


def _time(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, TIMESTAMP(timezone=True), nullable=nullable)


def _one_of(column: str, values: object) -> str:
    listed = ", ".join(f"'{value}'" for value in values)  # type: ignore[attr-defined]  # any iterable of text
    return f"{column} IN ({listed})"


submissions = Table(
    "submissions",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    Column("name", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("spec", JSONB, nullable=False),  # the provider's create fields, as given
    Column("policy", JSONB, nullable=False),
    Column("state", Text, nullable=False, server_default="open"),
    Column("reasons", JSONB, nullable=False, server_default=text("'[]'::jsonb")),  # texts for people
    Column("warnings", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("requested_by", Text, nullable=False),  # the name of the API token
    Column("next_creation_no", Integer, nullable=False),
    Column("next_vm_no", Integer, nullable=False),
    _time("created_at", nullable=False),
    _time("deadline_at", nullable=False),
    _time("ended_at"),
    _time("cancelled_at"),  # also set on submissions that had already ended
    Column("cancel_reason", Text),
    _time("withdraw_due_at"),  # cancelled, and some of its VMs are not withdrawn yet
    _time("expires_at"),  # when its VMs are deleted; null until its lifetime begins
    _time("expiry_notice_at"),  # when that is announced; null when it has been
    Column(
        "hardware", JSONB, nullable=False, server_default=text("'[]'::jsonb")
    ),  # of each alternative, as far as known
    _time("repair_due_at"),  # when to look for VMs that failed after they were ready: a trigger sets it when one fails
    _time("maintained_since"),  # replacements made before are not counted as crashes
    _time("maintain_stopped_at"),  # replacements kept failing
    _time("limit_due_at"),  # when to compare what it costs with its limits; null if it has none
    _time("limit_reached_at"),  # since when a limit is passed
    Column("origin", Text, nullable=False, server_default="created"),  # or imported: its VMs were made by others
    Column("limit_issue", Text),  # for people: which limit is passed or cannot be checked, with the numbers
    _time("limit_near_at"),  # since when most of a limit is used
    Column("notify", JSONB),  # where the caller is told of it: an encrypted URL, and what may be shown of it
    Column("traceparent", Text),  # of the request, as the W3C has it: the traces of its VMs link to that one
    PrimaryKeyConstraint("submission_id"),
    CheckConstraint(_one_of("state", SubmissionState), name="state_known"),
    CheckConstraint("origin IN ('created', 'imported')", name="origin_known"),
    CheckConstraint("(state = 'open') = (ended_at IS NULL)", name="ended_when_not_open"),
    Index("submissions_open_idx", "submission_id", postgresql_where=text("state = 'open'")),
    CheckConstraint("expiry_notice_at IS NULL OR expires_at IS NOT NULL", name="notice_of_an_expiry"),
    Index(
        "submissions_expiry_idx",
        "expires_at",
        postgresql_where=text("expires_at IS NOT NULL AND cancelled_at IS NULL"),
    ),
    Index("submissions_notice_idx", "expiry_notice_at", postgresql_where=text("expiry_notice_at IS NOT NULL")),
    Index("submissions_limit_idx", "limit_due_at", postgresql_where=text("limit_due_at IS NOT NULL")),
    Index("submissions_limit_issue_idx", "submission_id", postgresql_where=text("limit_issue IS NOT NULL")),
    CheckConstraint("maintain_stopped_at IS NULL OR repair_due_at IS NULL", name="stopped_repairs_nothing"),
    Index(
        "submissions_repair_idx",
        "repair_due_at",
        postgresql_where=text("repair_due_at IS NOT NULL AND cancelled_at IS NULL"),
    ),
    Index(
        "submissions_stopped_idx",
        "submission_id",
        postgresql_where=text("maintain_stopped_at IS NOT NULL AND cancelled_at IS NULL"),
    ),
    Index("submissions_ended_idx", "state", postgresql_where=text("state <> 'open'")),
    Index("submissions_name_idx", "name"),
    Index("submissions_requested_by_idx", "requested_by"),
    Index("submissions_labels_idx", text("(spec -> 'labels')"), postgresql_using="gin"),
    Index("submissions_withdraw_idx", "withdraw_due_at", postgresql_where=text("withdraw_due_at IS NOT NULL")),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("caller", Text, nullable=False),
    Column("key_digest", LargeBinary, nullable=False),
    Column("body_digest", LargeBinary, nullable=False),
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    _time("created_at", nullable=False),
    PrimaryKeyConstraint("caller", "key_digest"),
)

creations = Table(
    "creations",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    Column("creation_no", Integer, nullable=False),
    Column("vm_count", Integer, nullable=False),
    Column("name", Text, nullable=False),  # unique to the creation; the provider adds numbers to it
    Column("state", Text, nullable=False, server_default="due"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    _time("due_at"),
    Column("lease_token", UUID(as_uuid=True)),
    _time("lease_until"),
    _time("first_sent_at"),  # its VMs are not older than this
    _time("unconfirmed_since"),  # since the latest attempt
    _time("lookup_until"),  # unconfirmed: when to send it again if no VM was found
    Column("lookup_attempts", Integer, nullable=False, server_default="0"),  # unconfirmed: lookups since the call
    Column("name_taken", Boolean, nullable=False, server_default=text("false")),  # then it is never sent again
    Column(
        "alternative", Integer, nullable=False, server_default="0"
    ),  # made from: 0, or the n-th alternative of the policy
    Column("refused_alternatives", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    _time("deadline_at", nullable=False),  # the submission's; that of a replacement may be later
    Column("answer", JSONB),  # the provider's answer, without callback tokens
    Column("reason", Text),  # why it waits, or was refused
    _time("created_at", nullable=False),
    _time("completed_at"),
    PrimaryKeyConstraint("submission_id", "creation_no"),
    ForeignKeyConstraint(["submission_id"], ["submissions.submission_id"]),
    CheckConstraint(
        "state IN ('due', 'calling', 'unconfirmed', 'answered', 'refused', 'cancelled')", name="state_known"
    ),
    CheckConstraint("vm_count BETWEEN 1 AND 20", name="vm_count_fits"),
    CheckConstraint("(state IN ('answered', 'refused', 'cancelled')) = (due_at IS NULL)", name="due_until_completed"),
    CheckConstraint("(state = 'calling') = (lease_token IS NOT NULL)", name="leased_while_calling"),
    CheckConstraint("(state = 'unconfirmed') = (lookup_until IS NOT NULL)", name="lookup_while_unconfirmed"),
    Index("creations_due_idx", "state", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index(
        "creations_sending_idx",
        "submission_id",
        "state",
        "due_at",
        "creation_no",
        postgresql_where=text("state IN ('due', 'calling')"),
    ),
    Index("creations_name_idx", func.lower(text("name"))),
    Index("creations_deadline_idx", "deadline_at", postgresql_where=text("state = 'due'")),
    Index("creations_unconfirmed_idx", "unconfirmed_since", postgresql_where=text("state = 'unconfirmed'")),
)

vms = Table(
    "vms",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    Column("vm_no", Integer, nullable=False),
    Column("creation_no", Integer, nullable=False),
    Column("provider_id", BigInteger),
    Column("name", Text),
    Column("state", Text, nullable=False, server_default="REQUESTED"),
    Column("provider_status", Text),  # the latest status at the provider, even if unknown to us
    _time("state_since", nullable=False),
    Column("seq", Integer, nullable=False, server_default="0"),  # of its latest transition
    _time("observed_at"),
    _time("last_event_at"),
    _time("next_refresh_at"),
    Column("refresh_attempts", Integer, nullable=False, server_default="0"),
    _time("history_due_at"),  # when to read the events history, if callbacks seem to be missing
    Column("wants_address", Boolean, nullable=False),
    Column("fixed_ip", Text),
    Column("floating_ip", Text),
    Column("flavor", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("alternative", Integer, nullable=False, server_default="0"),  # what it is made from, as in its creation
    Column("region", Text),
    Column("gpu_model", Text),
    Column("gpu_count", Integer),
    Column("assignment", Text, nullable=False),
    Column("contract_id", BigInteger),  # the requested one
    Column("observed_contract_id", BigInteger),  # the one the provider shows
    Column("contract_attempts", Integer, nullable=False, server_default="0"),
    _time("contract_due_at"),
    Column(
        "contract_ended", Boolean, nullable=False, server_default=text("false")
    ),  # so what is shown of it is of no use
    _time("on_demand_since"),
    Column("on_demand_seconds", Float, nullable=False, server_default="0"),
    Column("desired_state", Text, nullable=False, server_default="present"),
    Column("deletion_reason", Text),
    _time("deletion_requested_at"),  # by a caller or a policy
    Column("delete_attempts", Integer, nullable=False, server_default="0"),
    _time("delete_due_at"),
    Column(
        "deletion_announced", Boolean, nullable=False, server_default=text("false")
    ),  # a callback or the provider said DELETING or DELETED
    Column("lease_token", UUID(as_uuid=True)),
    _time("lease_until"),
    Column("member", Boolean, nullable=False, server_default=text("true")),  # counts towards its submission
    Column("replaces", Integer),  # the vm_no whose place it takes
    Column("replaced_by", Integer),
    Column("refill", Boolean, nullable=False, server_default=text("false")),  # replace it when it is gone
    Column("repair", Boolean, nullable=False, server_default=text("false")),  # takes the place of one that failed
    Column("ready", Boolean, nullable=False, server_default=text("false")),
    Column("stuck", Boolean, nullable=False, server_default=text("false")),
    Column("reason", Text),  # for people: why it is not as it should be
    _time("created_at", nullable=False),
    _time("bound_at"),
    _time("active_at"),
    _time("ready_at"),
    _time("ended_at"),
    PrimaryKeyConstraint("submission_id", "vm_no"),
    ForeignKeyConstraint(["submission_id", "creation_no"], ["creations.submission_id", "creations.creation_no"]),
    CheckConstraint(_one_of("state", VmState), name="state_known"),
    CheckConstraint(_one_of("assignment", Assignment), name="assignment_known"),
    CheckConstraint("desired_state IN ('present', 'deleted')", name="desired_state_known"),
    CheckConstraint(f"{_one_of('state', sorted(ENDED))} = (ended_at IS NOT NULL)", name="ended_at_when_ended"),
    # Nothing unfinished is without a due time.
    CheckConstraint(
        "state = 'REQUESTED' OR (next_refresh_at IS NULL) = (ended_at IS NOT NULL)", name="refresh_until_ended"
    ),
    # Whoever tops up, refuses or cancels takes what is REQUESTED for what was not made.
    CheckConstraint(
        "provider_id IS NULL OR state NOT IN ('REQUESTED', 'REFUSED', 'CANCELLED')", name="bound_means_made"
    ),
    CheckConstraint(
        "(desired_state = 'deleted' AND ended_at IS NULL) = (delete_due_at IS NOT NULL)", name="delete_due"
    ),
    CheckConstraint(
        "(assignment = 'retrying' AND ended_at IS NULL) = (contract_due_at IS NOT NULL)", name="contract_due"
    ),
    Index("vms_provider_id_key", "provider_id", "submission_id", unique=True),  # in this order also for searches
    Index("vms_creation_idx", "submission_id", "creation_no"),
    Index("vms_refresh_idx", "next_refresh_at", postgresql_where=text("next_refresh_at IS NOT NULL")),
    Index("vms_history_idx", "history_due_at", postgresql_where=text("history_due_at IS NOT NULL")),
    Index("vms_delete_idx", "delete_due_at", postgresql_where=text("delete_due_at IS NOT NULL")),
    Index(
        "vms_deleting_idx",
        "submission_id",
        "delete_due_at",
        "vm_no",
        postgresql_where=text("delete_due_at IS NOT NULL"),
    ),
    Index("vms_contract_idx", "contract_due_at", postgresql_where=text("contract_due_at IS NOT NULL")),
    Index("vms_waiting_idx", "contract_id", "on_demand_since", postgresql_where=text(WAITING)),
    Index("vms_on_contract_idx", "contract_id", postgresql_where=text(ON_CONTRACT)),
    Index("vms_refill_idx", "submission_id", postgresql_where=text(REFILLING)),
    Index("vms_replacing_idx", "submission_id", postgresql_where=text(f"{REPLACING} AND contract_due_at IS NULL")),
    Index("vms_pending_idx", "submission_id", "stuck", "bound_at", postgresql_where=text(PENDING)),
    Index("vms_repairable_idx", "submission_id", postgresql_where=text(REPAIRABLE)),
    Index("vms_repair_idx", "submission_id", "created_at", postgresql_where=text("repair")),
    Index("vms_failed_idx", "submission_id", postgresql_where=text(FAILED)),
    *(
        Index(f"vms_{name}_turns_idx", "submission_id", due_at, "vm_no", postgresql_where=text(f"{due_at} IS NOT NULL"))
        for name, due_at in (("contract", "contract_due_at"), ("history", "history_due_at"))
    ),
    # Searches; they change once in the life of a VM.
    Index("vms_name_idx", "name", postgresql_where=text("name IS NOT NULL")),
    Index("vms_floating_ip_idx", "floating_ip", postgresql_where=text("floating_ip IS NOT NULL")),
    Index("vms_fixed_ip_idx", "fixed_ip", postgresql_where=text("fixed_ip IS NOT NULL")),
    Index("vms_deletion_idx", "deletion_requested_at", postgresql_where=text("delete_due_at IS NOT NULL")),
    Index("vms_ended_state_idx", "state", "member", postgresql_where=text("ended_at IS NOT NULL")),
    Index(
        "vms_ended_on_demand_idx",
        "submission_id",
        postgresql_include=["on_demand_seconds"],
        postgresql_where=text("ended_at IS NOT NULL AND on_demand_seconds > 0"),
    ),
    # Reports read the VMs of a period, lists the living ones, and neither all that there ever were.
    Index("vms_ended_idx", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
    Index("vms_living_idx", "submission_id", "vm_no", postgresql_where=text("ended_at IS NULL")),
    Index("vms_broken_idx", "submission_id", "vm_no", postgresql_where=text(BROKEN)),
    Index("vms_stuck_idx", "submission_id", "vm_no", postgresql_where=text("stuck")),
    Index("vms_created_idx", "created_at"),  # statistics of the VMs that were asked for in a period
)

# No foreign keys: a callback is stored whatever it names, and the hot path checks nothing.
events = Table(
    "events",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    _time("received_at", nullable=False),
    Column("event_id", UUID(as_uuid=True), nullable=False),
    Column("creation_no", Integer, nullable=False),
    Column("source", Text, nullable=False),  # callback, or history: read from the provider's events history
    Column("body", LargeBinary, nullable=False),
    Column("headers", JSONB, nullable=False),
    Column("peer", Text),
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of the body
    PrimaryKeyConstraint("submission_id", "received_at", "event_id"),
    Index("events_creation_idx", "submission_id", "creation_no", "received_at"),  # a VM's timeline
    Index("events_received_idx", "received_at", postgresql_using="brin", postgresql_with=_SUMMARIZED),
    Index(
        "events_history_idx", "received_at", postgresql_where=text("source = 'history'")
    ),  # few, among many callbacks
    Index("events_hidden_idx", "submission_id", "creation_no", postgresql_where=text(hides_id("body"))),  # next to none
    postgresql_partition_by="RANGE (received_at)",
)

inbox = Table(
    "inbox",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    _time("received_at", nullable=False),
    Column("event_id", UUID(as_uuid=True), nullable=False),
    Column("creation_no", Integer, nullable=False),
    _time("due_at", nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("submission_id", "received_at", "event_id"),
    Index("inbox_due_idx", "due_at"),
)

# An event that could not be applied, and why. The event itself stays in `events`.
dead_letters = Table(
    "dead_letters",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    _time("received_at", nullable=False),
    Column("event_id", UUID(as_uuid=True), nullable=False),
    Column("kind", Text, nullable=False),  # unreadable, unknown_vm, failed
    Column("reason", Text, nullable=False),
    Column("provider_id", BigInteger),
    _time("at", nullable=False),
    PrimaryKeyConstraint("submission_id", "received_at", "event_id"),
    Index("dead_letters_kind_idx", "kind"),
)

transitions = Table(
    "transitions",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    Column("vm_no", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    _time("at", nullable=False),
    Column("from_state", Text, nullable=False),
    Column("to_state", Text, nullable=False),
    Column("verdict", Text, nullable=False),  # moved, or unexpected: the claim moved nothing
    Column("claimed", Text),  # the status that the provider or the callback gave
    Column("evidence", Text, nullable=False),  # event, observation, answer, decision
    Column("evidence_id", UUID(as_uuid=True)),  # event_id or call_id
    _time("evidence_at", nullable=False),
    PrimaryKeyConstraint("submission_id", "vm_no", "seq"),
    # The newest moves of the whole fleet. Rows are appended as time goes by, so that a summary of blocks is enough.
    Index("transitions_at_idx", "at", postgresql_using="brin", postgresql_with=_SUMMARIZED),
    Index("transitions_failed_idx", "at", postgresql_where=text(FAILURES)),  # few, among many moves
    CheckConstraint("verdict IN ('moved', 'unexpected')", name="verdict_known"),
    CheckConstraint("(verdict = 'moved') = (from_state <> to_state)", name="moved_means_elsewhere"),
)

# A call is inserted before it is made, and its end is a row of its own, so neither is ever updated. A call without an end is
# running, or the daemon died during it. Calls about the whole fleet have the nil UUID as submission_id.
calls = Table(
    "calls",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    Column("call_id", UUID(as_uuid=True), nullable=False),
    Column("operation", Text, nullable=False),
    Column("creation_no", Integer),
    Column("vm_no", Integer),
    Column("provider_id", BigInteger),
    Column("attempt", Integer),
    _time("begun_at", nullable=False),
    PrimaryKeyConstraint("submission_id", "call_id"),
    Index("calls_begun_idx", "begun_at"),
    Index("calls_vm_idx", "submission_id", "vm_no", postgresql_where=text("vm_no IS NOT NULL")),
    Index("calls_creation_idx", "submission_id", "creation_no", postgresql_where=text("creation_no IS NOT NULL")),
    Index("calls_provider_id_idx", "submission_id", "provider_id", postgresql_where=text("provider_id IS NOT NULL")),
)

call_ends = Table(
    "call_ends",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    Column("call_id", UUID(as_uuid=True), nullable=False),
    Column("outcome", Text, nullable=False),  # ok, or the kind of error: refused, unconfirmed, …
    Column("status_code", Integer),
    Column("ms", Integer, nullable=False),
    Column("error", Text),
    _time("ended_at", nullable=False),
    PrimaryKeyConstraint("submission_id", "call_id"),
)

assignments = Table(
    "assignments",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    Column("vm_no", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    _time("at", nullable=False),
    Column("step", Text, nullable=False),  # create, refresh, wait, reassign, replace, give up
    Column("outcome", Text, nullable=False),  # assigned, on_demand, waiting, sent, refused, given_up
    Column("contract_id", BigInteger),
    Column("shortfall", Text),
    Column("reason", Text, nullable=False),
    _time("next_at"),
    PrimaryKeyConstraint("submission_id", "vm_no", "attempt", "at"),
    Index("assignments_at_idx", "at", postgresql_using="brin", postgresql_with=_SUMMARIZED),  # as in transitions
)

# What callers requested, and when. Its effects are in the other tables.
actions = Table(
    "actions",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    Column("action_id", UUID(as_uuid=True), nullable=False),
    Column("vm_no", Integer),
    Column("kind", Text, nullable=False),
    Column("caller", Text, nullable=False),  # the name of the API token
    _time("at", nullable=False),
    Column("detail", Text),
    PrimaryKeyConstraint("submission_id", "action_id"),
    Index("actions_vm_idx", "submission_id", "vm_no"),
    CheckConstraint(
        "kind IN ('submit', 'delete', 'cancel', 'replay', 'change', 'limit', 'import', 'attach', 'release',"
        " 'token', 'export', 'read', 'refused')",
        name="kind_known",
    ),
    CheckConstraint("(kind IN ('delete', 'attach', 'release')) = (vm_no IS NOT NULL)", name="delete_names_a_vm"),
)

orphans = Table(
    "orphans",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    Column("provider_id", BigInteger, nullable=False),
    Column("creation_no", Integer, nullable=False),
    Column("name", Text),
    Column("state", Text, nullable=False),  # suspected, found, deleting, gone, adopted
    Column("reason", Text, nullable=False),
    _time("found_at", nullable=False),
    _time("due_at"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    _time("ended_at"),
    Column("source", Text, nullable=False, server_default="list"),  # callback: named by one, so it may not be ours
    PrimaryKeyConstraint("submission_id", "provider_id"),
    CheckConstraint("source IN ('list', 'callback')", name="source_known"),
    CheckConstraint("state IN ('suspected', 'found', 'deleting', 'gone', 'adopted')", name="state_known"),
    CheckConstraint("(state IN ('suspected', 'deleting')) = (due_at IS NOT NULL)", name="due_while_open"),
    Index("orphans_due_idx", "source", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index("orphans_suspects_idx", "submission_id", "creation_no", postgresql_where=text("source = 'callback'")),
    Index("orphans_found_idx", "found_at"),
)

rate_limits = Table(
    "rate_limits",
    metadata,
    Column("scope", Text, nullable=False),  # daemons behind one source IP
    _time("paused_until"),
    PrimaryKeyConstraint("scope"),
)

rate_limit_slots = Table(
    "rate_limit_slots",
    metadata,
    Column("scope", Text, nullable=False),
    _time("slot", nullable=False),  # a second
    Column("operation", Text, nullable=False),
    Column("used", Integer, nullable=False),
    PrimaryKeyConstraint("scope", "slot", "operation"),
)

# A kind of call that failed because the provider is away: no daemon of the scope makes such a call before `open_until`.
provider_circuits = Table(
    "provider_circuits",
    metadata,
    Column("scope", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("failures", Integer, nullable=False),  # in a row; 0 when it is closed
    _time("open_until", nullable=False),
    Column("error", Text, nullable=False),
    PrimaryKeyConstraint("scope", "operation"),
)

# Periodic work for the whole fleet: one row for each job, leased like other rows.
scheduled_jobs = Table(
    "scheduled_jobs",
    metadata,
    Column("job", Text, nullable=False),
    _time("due_at", nullable=False),
    Column("lease_token", UUID(as_uuid=True)),
    _time("lease_until"),
    _time("done_at"),
    PrimaryKeyConstraint("job"),
)

# The daemons that use the database, or did last: what they must share is compared when one starts.
daemons = Table(
    "daemons",
    metadata,
    Column("daemon_id", UUID(as_uuid=True), nullable=False),
    Column("name", Text, nullable=False),  # its host and process
    Column("settings", JSONB, nullable=False),  # secrets as fingerprints
    _time("seen_at", nullable=False),
    _time("stopped_at"),
    PrimaryKeyConstraint("daemon_id"),
)

# What the provider's price book said, one row when it changes; fleet-wide, like the tables above.
prices = Table(
    "prices",
    metadata,
    Column("resource", Text, nullable=False),  # a GPU model or a flavor
    _time("read_at", nullable=False),
    Column("value", Numeric, nullable=False),  # per unit and hour
    Column("currency", Text, nullable=False),
    Column("source", Text, nullable=False),
    PrimaryKeyConstraint("resource", "read_at"),
    CheckConstraint("value >= 0", name="value_not_negative"),
)

contract_discounts = Table(
    "contract_discounts",
    metadata,
    Column("contract_id", Integer, nullable=False),
    Column("resource", Text, nullable=False),
    _time("read_at", nullable=False),
    Column("kind", Text),  # percent or flat; null: the contract's line could not be understood
    Column("value", Numeric),
    Column("source", Text, nullable=False),
    PrimaryKeyConstraint("contract_id", "resource", "read_at"),
    CheckConstraint("kind IN ('percent', 'flat')", name="kind_known"),
    CheckConstraint("(kind IS NULL) = (value IS NULL)", name="value_with_kind"),
)
# The log that the record is sealed into, which proves that nobody edited it (docs/reference/proof.md). Its tables belong to
# the whole fleet and its index has no gaps: a distributed database keeps them on one node.
logs = Table(
    "logs",
    metadata,
    Column("log_id", UUID(as_uuid=True), nullable=False),
    Column("origin", Text, nullable=False),  # what its checkpoints begin with
    _time("begun_at", nullable=False),
    Column("reason", Text, nullable=False),
    Column("size", BigInteger, nullable=False, server_default="0"),  # leaves
    Column("server", Text),  # the system identifier of the Postgres that counts the transactions of `snapshot`
    Column("snapshot", Text),  # pg_snapshot: every row that it shows is sealed; null: no pass has ended
    Column("pass_snapshot", Text),  # of the pass under way; becomes `snapshot` when it ends
    Column("pass_size", BigInteger),  # leaves when it began
    Column("pass_table", Text),  # where it is
    Column("pass_after", JSONB),  # transaction and key of the last row that it sealed
    PrimaryKeyConstraint("log_id"),
    CheckConstraint("(pass_snapshot IS NULL) = (pass_table IS NULL)", name="pass_has_a_table"),
    CheckConstraint("(pass_snapshot IS NULL) = (pass_size IS NULL)", name="pass_has_a_size"),
)

# Hashes of the tree, 256 to a tile; the last tile of a level grows.
log_tiles = Table(
    "log_tiles",
    metadata,
    Column("log_id", UUID(as_uuid=True), nullable=False),
    Column("level", Integer, nullable=False),
    Column("tile_no", BigInteger, nullable=False),
    Column("hashes", LargeBinary, nullable=False),
    PrimaryKeyConstraint("log_id", "level", "tile_no"),
)

# Which rows the leaves are: `rows` of one table from `first_leaf` on, and behind them the leaf of this row itself.
seals = Table(
    "seals",
    metadata,
    Column("log_id", UUID(as_uuid=True), nullable=False),
    Column("first_leaf", BigInteger, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("table_name", Text, nullable=False),
    Column("row_keys", LargeBinary, nullable=False),  # zlib of the rows' keys, a line of JSON each
    Column("first_xact", BigInteger, nullable=False),
    Column("last_xact", BigInteger, nullable=False),
    _time("sealed_at", nullable=False),
    PrimaryKeyConstraint("log_id", "first_leaf"),
    Index("seals_xact_idx", "log_id", "table_name", "last_xact"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("log_id", UUID(as_uuid=True), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("note", Text, nullable=False),  # as it was signed
    _time("signed_at", nullable=False),
    _time("published_at"),
    PrimaryKeyConstraint("log_id", "size"),
    Index("checkpoints_unpublished_idx", "log_id", "size", postgresql_where=text("published_at IS NULL")),
)

# The public keys that checkpoints are signed with. Sealed like the record, so that an old key vouches for the next.
log_keys = Table(
    "log_keys",
    metadata,
    Column("log_id", UUID(as_uuid=True), nullable=False),
    Column("verifier_key", Text, nullable=False),
    _time("added_at", nullable=False),
    PrimaryKeyConstraint("log_id", "verifier_key"),
)

# Months of events that were dropped on purpose: their hashes stay in the log, and the rows are no longer expected.
dropped_months = Table(
    "dropped_months",
    metadata,
    _time("month", nullable=False),  # its first moment
    Column("events", BigInteger),
    Column("file", Text),  # null: written nowhere
    Column("sha256", Text),
    _time("dropped_at", nullable=False),
    PrimaryKeyConstraint("month", "dropped_at"),
)

# Which daemon deals with the VMs that wait for a contract: one at a time, or two would give away the same room.
contract_leases = Table(
    "contract_leases",
    metadata,
    Column("contract_id", BigInteger, nullable=False, autoincrement=False),
    Column("lease_token", UUID(as_uuid=True), nullable=False),
    _time("lease_until", nullable=False),
    PrimaryKeyConstraint("contract_id"),
)

# Which server's history this record is: one row. It changes when the record is restored, or after a failover.
record_origin = Table(
    "record_origin",
    metadata,
    Column("origin_no", SmallInteger, nullable=False, server_default="1"),
    Column("history", Text, nullable=False),  # the system identifier, the timeline and the database's number
    _time("uncertain_since"),  # when it was noticed that this history is another than before
    PrimaryKeyConstraint("origin_no"),
    CheckConstraint("origin_no = 1", name="one_row"),
)

# Who may call the API, besides the tokens in the settings. The tokens themselves are stored nowhere.
api_tokens = Table(
    "api_tokens",
    metadata,
    Column("token_id", UUID(as_uuid=True), nullable=False),
    Column("name", Text, nullable=False),  # the caller on record
    Column("serial", Integer, nullable=False),  # counts the rotations of a name
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of the token
    Column("role", Text, nullable=False),
    _time("created_at", nullable=False),
    Column("created_by", Text, nullable=False),
    Column("requests_per_minute", Integer),  # null: no limit
    _time("expires_at"),
    _time("revoked_at"),
    Column("revoked_by", Text),
    _time("last_used_at"),  # to the minute
    Column("max_vms", Integer),  # what its living VMs may be together; null: no limit
    Column("max_gpus", Integer),
    Column("max_price_per_hour", Numeric),
    PrimaryKeyConstraint("token_id"),
    UniqueConstraint("name", "serial"),
    UniqueConstraint("digest"),
    CheckConstraint(_one_of("role", Role), name="role_known"),
    CheckConstraint("requests_per_minute > 0", name="limit_positive"),
    CheckConstraint("max_vms > 0 AND max_gpus > 0 AND max_price_per_hour > 0", name="limits_positive"),
    CheckConstraint("(revoked_at IS NULL) = (revoked_by IS NULL)", name="revoked_by_somebody"),
)

# What happened and somebody is told: written by triggers in the transaction of the change itself, and deleted in the one that
# writes its messages. About the whole fleet: the nil UUID.
notices = Table(
    "notices",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    Column("notice_no", BigInteger, Identity(), nullable=False),
    Column("kind", Text, nullable=False),
    Column("vm_no", Integer),
    Column("subject", Text),  # what else it is about: the provider id of an orphan, the name of a health issue
    Column("detail", Text),  # for people
    _time("at", nullable=False),
    PrimaryKeyConstraint("submission_id", "notice_no"),
    Index("notices_no_idx", "notice_no"),
)

# The kinds of notices that some target wants. Submissions with a URL of their own want all of theirs.
notify_wanted = Table(
    "notify_wanted",
    metadata,
    Column("kind", Text, nullable=False),
    PrimaryKeyConstraint("kind"),
)

# The last sequence number of each target: one count for each submission, and one for what is about the whole fleet.
message_sequences = Table(
    "message_sequences",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    Column("target", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    PrimaryKeyConstraint("submission_id", "target"),
)

# One message to one target, with all that is to be known of its delivery.
messages = Table(
    "messages",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    Column("target", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("message_id", UUID(as_uuid=True), nullable=False),
    Column("lane", Text, nullable=False),  # what is delivered one after the other
    Column("kind", Text, nullable=False),
    Column("text", Text, nullable=False),  # for people
    Column("body", Text, nullable=False),  # JSON, as it is signed and sent
    Column("state", Text, nullable=False, server_default="due"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    _time("created_at", nullable=False),
    _time("due_at"),
    _time("give_up_at", nullable=False),
    _time("ended_at"),
    Column("status", Integer),  # of the latest answer
    Column("error", Text),  # of the latest attempt
    PrimaryKeyConstraint("submission_id", "target", "seq"),
    CheckConstraint("state IN ('due', 'delivered', 'dead')", name="state_known"),
    CheckConstraint("(state = 'due') = (due_at IS NOT NULL)", name="due_until_ended"),
    CheckConstraint("(state = 'due') = (ended_at IS NULL)", name="ended_at_when_ended"),
    Index("messages_lane_idx", "lane", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index("messages_id_idx", "message_id"),
    Index("messages_ended_idx", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
)

# Whose messages are delivered one after the other: a target, or a host that URLs of submissions name. Leased as a whole, so
# that what hangs holds one slot. `due_at` is when to try next, which is later after each failure in a row.
message_lanes = Table(
    "message_lanes",
    metadata,
    Column("lane", Text, nullable=False),
    _time("due_at"),  # null: nothing to deliver
    Column("failures", Integer, nullable=False, server_default="0"),  # in a row
    Column("error", Text),  # of the latest of them
    Column("lease_token", UUID(as_uuid=True)),
    _time("lease_until"),
    PrimaryKeyConstraint("lane"),
    CheckConstraint("(lease_token IS NULL) = (lease_until IS NULL)", name="lease_has_an_end"),
    Index("message_lanes_due_idx", "due_at", postgresql_where=text("due_at IS NOT NULL")),
)

# The health issues of all daemons that somebody was told of.
health_issues = Table(
    "health_issues",
    metadata,
    Column("name", Text, nullable=False),
    Column("text", Text, nullable=False),
    _time("since", nullable=False),
    _time("reported_at", nullable=False),  # by some daemon that has it
    PrimaryKeyConstraint("name"),
)

# The fleet in numbers, as the job `sample` counted it last in each half minute (decision 0105). Pages show them; nothing is decided by them.
fleet_samples = Table(
    "fleet_samples",
    metadata,
    _time("slot", nullable=False),  # when its half minute began
    _time("counted_at", nullable=False),
    Column("by_state", JSONB, nullable=False),  # every VM that there ever was
    Column("numbers", JSONB, nullable=False),  # what the first page shows
    PrimaryKeyConstraint("slot"),
)

# The same of each submission with many VMs.
submission_samples = Table(
    "submission_samples",
    metadata,
    Column("submission_id", UUID(as_uuid=True), nullable=False),
    _time("counted_at", nullable=False),
    Column("alive", Integer, nullable=False),
    Column("tally", JSONB, nullable=False),
    PrimaryKeyConstraint("submission_id"),
)

# Which transaction recorded a row. The job `seal` finds the new rows by it, whatever time they claim (decision 0061).
for _name in APPEND_ONLY:
    metadata.tables[_name].append_column(
        Column("xact_id", BigInteger, nullable=False, server_default=text("((pg_current_xact_id())::text)::bigint"))
    )
    Index(f"{_name}_xact_idx", metadata.tables[_name].c.xact_id)
