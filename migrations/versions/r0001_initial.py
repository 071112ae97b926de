"""The initial schema: the record, its append-only tables, and the inbox."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


#: No row of these is ever edited or removed.
APPEND_ONLY = (
    "events", "transitions", "calls", "call_ends", "assignments", "actions", "prices", "contract_discounts", "log_keys",
    "dropped_months",
)  # fmt: skip

# By default a table waits for vacuum until a fifth of it is dead, which in an inbox that grew in a storm takes long, and
# vacuum leaves the index entries of the last dead rows, so the table does not become short again. The planner then
# expects no rows in it, and reads all of it for each group when the next storm comes.
INBOX_STORAGE = {
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_analyze_scale_factor": "0.01",
    "autovacuum_analyze_threshold": "1000",
    "autovacuum_vacuum_cost_delay": "0",
    "vacuum_index_cleanup": "on",
}

# A BRIN must be read with every block that is not in it yet: by default, all that came since the last vacuum.
_SUMMARIZED = {"autosummarize": "on", "pages_per_range": 32}


def upgrade() -> None:
    _create_tables()
    _index_searches()
    _index_statistics()
    _create_policies()
    _create_prices()
    _create_log()
    _create_record_origin()
    _create_tokens()
    _note_transactions()
    _forbid_edits()
    _make_partition_functions()
    _create_notifications()
    _write_notices()
    _look_for_failed_vms()
    settings = ", ".join(f"{name} = {value}" for name, value in INBOX_STORAGE.items())
    op.execute(sa.text(f"ALTER TABLE inbox SET ({settings})"))


def _forbid_edits() -> None:
    # RC001 is our own SQLSTATE, so that the code can tell this refusal from any other. No trigger fires on INSERT.
    op.execute(
        sa.text("""
        CREATE FUNCTION rollcall_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'the rows of % are append-only', TG_TABLE_NAME USING ERRCODE = 'RC001';
        END $$
        """)
    )
    for table in APPEND_ONLY:
        op.execute(
            sa.text(
                f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION rollcall_append_only()"
            )
        )
        _forbid_truncate(table)
    # The daemon creates each month's partition ahead of time; the default takes what fits none.
    op.execute(sa.text("CREATE TABLE events_pdefault PARTITION OF events DEFAULT"))
    # Partitions inherit row triggers, but no trigger on TRUNCATE.
    _forbid_truncate("events_pdefault")


def _forbid_truncate(table: str) -> None:
    op.execute(
        sa.text(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION rollcall_append_only()"
        )
    )


def _create_policies() -> None:
    op.create_table(
        "contract_leases",
        sa.Column("contract_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("lease_token", sa.UUID(), nullable=False),
        sa.Column("lease_until", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("contract_id", name=op.f("contract_leases_pkey")),
    )
    op.create_index(
        "submissions_expiry_idx",
        "submissions",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("expires_at IS NOT NULL AND cancelled_at IS NULL"),
    )
    op.create_index(
        "submissions_notice_idx",
        "submissions",
        ["expiry_notice_at"],
        unique=False,
        postgresql_where=sa.text("expiry_notice_at IS NOT NULL"),
    )
    op.create_index(
        "submissions_limit_idx",
        "submissions",
        ["limit_due_at"],
        unique=False,
        postgresql_where=sa.text("limit_due_at IS NOT NULL"),
    )
    op.create_index(
        "submissions_limit_issue_idx",
        "submissions",
        ["submission_id"],
        unique=False,
        postgresql_where=sa.text("limit_issue IS NOT NULL"),
    )
    op.create_index(
        "submissions_repair_idx",
        "submissions",
        ["repair_due_at"],
        unique=False,
        postgresql_where=sa.text("repair_due_at IS NOT NULL AND cancelled_at IS NULL"),
    )
    op.create_index(
        "submissions_stopped_idx",
        "submissions",
        ["submission_id"],
        unique=False,
        postgresql_where=sa.text("maintain_stopped_at IS NOT NULL AND cancelled_at IS NULL"),
    )
    op.create_index(
        "vms_repairable_idx",
        "vms",
        ["submission_id"],
        unique=False,
        postgresql_where=sa.text(
            "state IN ('ERROR', 'LOST', 'DELETED', 'REFUSED') AND member AND NOT stuck AND replaced_by IS NULL"
            " AND desired_state = 'present'"
        ),
    )
    op.create_index(
        "vms_repair_idx", "vms", ["submission_id", "created_at"], unique=False, postgresql_where=sa.text("repair")
    )
    op.create_index(
        "vms_waiting_idx",
        "vms",
        ["contract_id", "on_demand_since"],
        unique=False,
        postgresql_where=sa.text("assignment = 'retrying' AND replaced_by IS NULL"),
    )
    op.create_index(
        "vms_on_contract_idx",
        "vms",
        ["contract_id"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NULL AND (assignment = 'assigned' OR contract_ended)"),
    )
    op.create_index(
        "vms_refill_idx",
        "vms",
        ["submission_id"],
        unique=False,
        postgresql_where=sa.text("refill AND replaced_by IS NULL"),
    )
    op.create_index(
        "vms_replacing_idx",
        "vms",
        ["submission_id"],
        unique=False,
        postgresql_where=sa.text("member AND replaced_by IS NOT NULL AND contract_due_at IS NULL"),
    )


def _index_searches() -> None:
    for column in ("name", "floating_ip", "fixed_ip"):
        known = sa.text(f"{column} IS NOT NULL")
        op.create_index(f"vms_{column}_idx", "vms", [column], unique=False, postgresql_where=known)
    op.create_index("dead_letters_kind_idx", "dead_letters", ["kind"], unique=False)
    op.create_index(
        "submissions_ended_idx", "submissions", ["state"], unique=False, postgresql_where=sa.text("state <> 'open'")
    )
    op.create_index("submissions_name_idx", "submissions", ["name"], unique=False)
    op.create_index("submissions_requested_by_idx", "submissions", ["requested_by"], unique=False)
    labels = sa.text("(spec -> 'labels')")
    op.create_index("submissions_labels_idx", "submissions", [labels], unique=False, postgresql_using="gin")


def _index_statistics() -> None:
    op.create_index("vms_created_idx", "vms", ["created_at"], unique=False)
    for name, table, column in (("assignments_at", "assignments", "at"), ("events_received", "events", "received_at")):
        op.create_index(
            f"{name}_idx", table, [column], unique=False, postgresql_using="brin", postgresql_with=_SUMMARIZED
        )
    failed = sa.text("verdict = 'moved' AND to_state IN ('ERROR', 'LOST', 'REFUSED')")
    op.create_index("transitions_failed_idx", "transitions", ["at"], unique=False, postgresql_where=failed)
    op.create_index("events_history_idx", "events", ["received_at"], postgresql_where=sa.text("source = 'history'"))
    number = r"""':\s*(?:[0-9.]+[eE]|[0-9.]{17}|"[0-9\s]*\\)'"""
    form = rf"octet_length(body) > 16000 OR substring(body FROM 1 FOR 1) IN ('\x1f', '\x78') OR encode(body, 'escape') ~ {number}"
    hidden = sa.text(f"CASE WHEN {form} THEN 1 ELSE 0 END = 1")
    op.create_index("events_hidden_idx", "events", ["submission_id", "creation_no"], postgresql_where=hidden)


def _create_tables() -> None:
    op.create_table(
        "assignments",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("vm_no", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("contract_id", sa.BigInteger(), nullable=True),
        sa.Column("shortfall", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("next_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("submission_id", "vm_no", "attempt", "at", name=op.f("assignments_pkey")),
    )
    op.create_table(
        "actions",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("action_id", sa.UUID(), nullable=False),
        sa.Column("vm_no", sa.Integer(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "kind IN ('submit', 'delete', 'cancel', 'replay', 'change', 'limit', 'import', 'attach', 'release',"
            " 'token', 'export', 'read', 'refused')",
            name=op.f("actions_kind_known_check"),
        ),
        sa.CheckConstraint(
            "(kind IN ('delete', 'attach', 'release')) = (vm_no IS NOT NULL)",
            name=op.f("actions_delete_names_a_vm_check"),
        ),
        sa.PrimaryKeyConstraint("submission_id", "action_id", name=op.f("actions_pkey")),
    )
    op.create_index("actions_vm_idx", "actions", ["submission_id", "vm_no"], unique=False)
    op.create_table(
        "rate_limits",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("paused_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("scope", name=op.f("rate_limits_pkey")),
    )
    op.create_table(
        "rate_limit_slots",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("slot", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "slot", "operation", name=op.f("rate_limit_slots_pkey")),
    )
    op.create_table(
        "call_ends",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("call_id", sa.UUID(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("ms", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("submission_id", "call_id", name=op.f("call_ends_pkey")),
    )
    op.create_table(
        "calls",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("call_id", sa.UUID(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("creation_no", sa.Integer(), nullable=True),
        sa.Column("vm_no", sa.Integer(), nullable=True),
        sa.Column("provider_id", sa.BigInteger(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("begun_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("submission_id", "call_id", name=op.f("calls_pkey")),
    )
    op.create_index("calls_begun_idx", "calls", ["begun_at"], unique=False)
    for name, column in (("vm", "vm_no"), ("creation", "creation_no"), ("provider_id", "provider_id")):
        op.create_index(
            f"calls_{name}_idx",
            "calls",
            ["submission_id", column],
            unique=False,
            postgresql_where=sa.text(f"{column} IS NOT NULL"),
        )
    op.create_table(
        "provider_circuits",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("open_until", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "operation", name=op.f("provider_circuits_pkey")),
    )
    op.create_table(
        "scheduled_jobs",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("due_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("lease_token", sa.UUID(), nullable=True),
        sa.Column("lease_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("done_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("job", name=op.f("scheduled_jobs_pkey")),
    )
    op.create_table(
        "inbox",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("received_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("event_id", sa.UUID(), nullable=False),
        sa.Column("creation_no", sa.Integer(), nullable=False),
        sa.Column("due_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("submission_id", "received_at", "event_id", name=op.f("inbox_pkey")),
    )
    op.create_index("inbox_due_idx", "inbox", ["due_at"], unique=False)
    op.create_table(
        "events",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("received_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("event_id", sa.UUID(), nullable=False),
        sa.Column("creation_no", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("peer", sa.Text(), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("submission_id", "received_at", "event_id", name=op.f("events_pkey")),
        postgresql_partition_by="RANGE (received_at)",
    )
    op.create_index("events_creation_idx", "events", ["submission_id", "creation_no", "received_at"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("key_digest", sa.LargeBinary(), nullable=False),
        sa.Column("body_digest", sa.LargeBinary(), nullable=False),
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("caller", "key_digest", name=op.f("idempotency_keys_pkey")),
    )
    op.create_table(
        "orphans",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("provider_id", sa.BigInteger(), nullable=False),
        sa.Column("creation_no", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("found_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("due_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("source", sa.Text(), server_default="list", nullable=False),
        sa.CheckConstraint("source IN ('list', 'callback')", name=op.f("orphans_source_known_check")),
        sa.CheckConstraint(
            "(state IN ('suspected', 'deleting')) = (due_at IS NOT NULL)", name=op.f("orphans_due_while_open_check")
        ),
        sa.CheckConstraint(
            "state IN ('suspected', 'found', 'deleting', 'gone', 'adopted')", name=op.f("orphans_state_known_check")
        ),
        sa.PrimaryKeyConstraint("submission_id", "provider_id", name=op.f("orphans_pkey")),
    )
    op.create_index(
        "orphans_due_idx",
        "orphans",
        ["source", "due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index("orphans_found_idx", "orphans", ["found_at"], unique=False)
    op.create_index(
        "orphans_suspects_idx",
        "orphans",
        ["submission_id", "creation_no"],
        unique=False,
        postgresql_where=sa.text("source = 'callback'"),
    )
    op.create_table(
        "dead_letters",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("received_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("event_id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("provider_id", sa.BigInteger(), nullable=True),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("submission_id", "received_at", "event_id", name=op.f("dead_letters_pkey")),
    )
    op.create_table(
        "submissions",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("policy", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column(
            "reasons", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column(
            "warnings", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("next_creation_no", sa.Integer(), nullable=False),
        sa.Column("next_vm_no", sa.Integer(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("deadline_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("cancelled_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("withdraw_due_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("expiry_notice_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column(
            "hardware", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("repair_due_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("maintained_since", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("maintain_stopped_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("limit_due_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("limit_reached_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("origin", sa.Text(), server_default="created", nullable=False),
        sa.Column("limit_issue", sa.Text(), nullable=True),
        sa.Column("limit_near_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("notify", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.CheckConstraint("origin IN ('created', 'imported')", name=op.f("submissions_origin_known_check")),
        sa.CheckConstraint(
            "maintain_stopped_at IS NULL OR repair_due_at IS NULL",
            name=op.f("submissions_stopped_repairs_nothing_check"),
        ),
        sa.CheckConstraint("(state = 'open') = (ended_at IS NULL)", name=op.f("submissions_ended_when_not_open_check")),
        sa.CheckConstraint(
            "state IN ('open', 'ready', 'failed', 'cancelled')", name=op.f("submissions_state_known_check")
        ),
        sa.CheckConstraint(
            "expiry_notice_at IS NULL OR expires_at IS NOT NULL", name=op.f("submissions_notice_of_an_expiry_check")
        ),
        sa.PrimaryKeyConstraint("submission_id", name=op.f("submissions_pkey")),
    )
    op.create_index(
        "submissions_open_idx",
        "submissions",
        ["submission_id"],
        unique=False,
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index(
        "submissions_withdraw_idx",
        "submissions",
        ["withdraw_due_at"],
        unique=False,
        postgresql_where=sa.text("withdraw_due_at IS NOT NULL"),
    )
    op.create_table(
        "transitions",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("vm_no", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("from_state", sa.Text(), nullable=False),
        sa.Column("to_state", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("claimed", sa.Text(), nullable=True),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("evidence_id", sa.UUID(), nullable=True),
        sa.Column("evidence_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(verdict = 'moved') = (from_state <> to_state)", name=op.f("transitions_moved_means_elsewhere_check")
        ),
        sa.CheckConstraint("verdict IN ('moved', 'unexpected')", name=op.f("transitions_verdict_known_check")),
        sa.PrimaryKeyConstraint("submission_id", "vm_no", "seq", name=op.f("transitions_pkey")),
    )
    op.create_index(
        "transitions_at_idx", "transitions", ["at"], unique=False, postgresql_using="brin", postgresql_with=_SUMMARIZED
    )
    op.create_table(
        "creations",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("creation_no", sa.Integer(), nullable=False),
        sa.Column("vm_count", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="due", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("lease_token", sa.UUID(), nullable=True),
        sa.Column("lease_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("first_sent_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("unconfirmed_since", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("lookup_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("lookup_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("name_taken", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("alternative", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "refused_alternatives",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("deadline_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("answer", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("completed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'calling') = (lease_token IS NOT NULL)", name=op.f("creations_leased_while_calling_check")
        ),
        sa.CheckConstraint(
            "(state = 'unconfirmed') = (lookup_until IS NOT NULL)",
            name=op.f("creations_lookup_while_unconfirmed_check"),
        ),
        sa.CheckConstraint(
            "(state IN ('answered', 'refused', 'cancelled')) = (due_at IS NULL)",
            name=op.f("creations_due_until_completed_check"),
        ),
        sa.CheckConstraint(
            "state IN ('due', 'calling', 'unconfirmed', 'answered', 'refused', 'cancelled')",
            name=op.f("creations_state_known_check"),
        ),
        sa.CheckConstraint("vm_count BETWEEN 1 AND 20", name=op.f("creations_vm_count_fits_check")),
        sa.ForeignKeyConstraint(
            ["submission_id"], ["submissions.submission_id"], name=op.f("creations_submission_id_fkey")
        ),
        sa.PrimaryKeyConstraint("submission_id", "creation_no", name=op.f("creations_pkey")),
    )
    op.create_index(
        "creations_sending_idx",
        "creations",
        ["submission_id", "state", "due_at", "creation_no"],
        unique=False,
        postgresql_where=sa.text("state IN ('due', 'calling')"),
    )
    op.create_index(
        "creations_due_idx",
        "creations",
        ["state", "due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index("creations_name_idx", "creations", [sa.literal_column("lower(name)")], unique=False)
    op.create_index(
        "creations_deadline_idx",
        "creations",
        ["deadline_at"],
        unique=False,
        postgresql_where=sa.text("state = 'due'"),
    )
    op.create_index(
        "creations_unconfirmed_idx",
        "creations",
        ["unconfirmed_since"],
        unique=False,
        postgresql_where=sa.text("state = 'unconfirmed'"),
    )
    op.create_table(
        "vms",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("vm_no", sa.Integer(), nullable=False),
        sa.Column("creation_no", sa.Integer(), nullable=False),
        sa.Column("provider_id", sa.BigInteger(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="REQUESTED", nullable=False),
        sa.Column("provider_status", sa.Text(), nullable=True),
        sa.Column("state_since", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("seq", sa.Integer(), server_default="0", nullable=False),
        sa.Column("observed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_event_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("next_refresh_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("refresh_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("history_due_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("wants_address", sa.Boolean(), nullable=False),
        sa.Column("fixed_ip", sa.Text(), nullable=True),
        sa.Column("floating_ip", sa.Text(), nullable=True),
        sa.Column("flavor", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("alternative", sa.Integer(), server_default="0", nullable=False),
        sa.Column("region", sa.Text(), nullable=True),
        sa.Column("gpu_model", sa.Text(), nullable=True),
        sa.Column("gpu_count", sa.Integer(), nullable=True),
        sa.Column("assignment", sa.Text(), nullable=False),
        sa.Column("contract_id", sa.BigInteger(), nullable=True),
        sa.Column("observed_contract_id", sa.BigInteger(), nullable=True),
        sa.Column("contract_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("contract_due_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("contract_ended", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("on_demand_since", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("on_demand_seconds", sa.Float(), server_default="0", nullable=False),
        sa.Column("desired_state", sa.Text(), server_default="present", nullable=False),
        sa.Column("deletion_reason", sa.Text(), nullable=True),
        sa.Column("deletion_requested_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("delete_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("delete_due_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("deletion_announced", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("lease_token", sa.UUID(), nullable=True),
        sa.Column("lease_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("member", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("replaces", sa.Integer(), nullable=True),
        sa.Column("replaced_by", sa.Integer(), nullable=True),
        sa.Column("refill", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("repair", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("ready", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("stuck", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("bound_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("active_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("ready_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(assignment = 'retrying' AND ended_at IS NULL) = (contract_due_at IS NOT NULL)",
            name=op.f("vms_contract_due_check"),
        ),
        sa.CheckConstraint(
            "(desired_state = 'deleted' AND ended_at IS NULL) = (delete_due_at IS NOT NULL)",
            name=op.f("vms_delete_due_check"),
        ),
        sa.CheckConstraint(
            "assignment IN ('none', 'wanted', 'assigned', 'on_demand', 'retrying', 'given_up')",
            name=op.f("vms_assignment_known_check"),
        ),
        sa.CheckConstraint(
            "provider_id IS NULL OR state NOT IN ('REQUESTED', 'REFUSED', 'CANCELLED')",
            name=op.f("vms_bound_means_made_check"),
        ),
        sa.CheckConstraint(
            "state = 'REQUESTED' OR (next_refresh_at IS NULL) = (ended_at IS NOT NULL)",
            name=op.f("vms_refresh_until_ended_check"),
        ),
        sa.CheckConstraint(
            "state IN ('CANCELLED', 'DELETED', 'REFUSED', 'RELEASED') = (ended_at IS NOT NULL)",
            name=op.f("vms_ended_at_when_ended_check"),
        ),
        sa.CheckConstraint(
            "state IN ('REQUESTED', 'CREATING', 'BUILD', 'ACTIVE', 'STARTING', 'STOPPING', 'SHUTOFF', 'REBOOTING', 'HIBERNATING', 'HIBERNATED', 'RESTORING', 'DELETING', 'DELETED', 'ERROR', 'REFUSED', 'CANCELLED', 'LOST', 'RELEASED')",
            name=op.f("vms_state_known_check"),
        ),
        sa.CheckConstraint("desired_state IN ('present', 'deleted')", name=op.f("vms_desired_state_known_check")),
        sa.ForeignKeyConstraint(
            ["submission_id", "creation_no"],
            ["creations.submission_id", "creations.creation_no"],
            name=op.f("vms_submission_id_creation_no_fkey"),
        ),
        sa.PrimaryKeyConstraint("submission_id", "vm_no", name=op.f("vms_pkey")),
    )
    op.create_index(
        "vms_pending_idx",
        "vms",
        ["submission_id", "stuck", "bound_at"],
        unique=False,
        postgresql_where=sa.text(
            "member AND NOT ready AND ended_at IS NULL AND desired_state = 'present'"
            " AND NOT (state IN ('ERROR', 'LOST') AND replaced_by IS NULL AND (stuck OR state = 'LOST'))"
        ),
    )
    op.create_index(
        "vms_failed_idx",
        "vms",
        ["submission_id"],
        unique=False,
        postgresql_where=sa.text(
            "state IN ('ERROR', 'LOST') AND NOT stuck AND member AND NOT ready AND ended_at IS NULL"
            " AND desired_state = 'present' AND ready_at IS NULL"
        ),
    )
    op.create_index(
        "vms_contract_idx",
        "vms",
        ["contract_due_at"],
        unique=False,
        postgresql_where=sa.text("contract_due_at IS NOT NULL"),
    )
    op.create_index("vms_creation_idx", "vms", ["submission_id", "creation_no"], unique=False)
    op.create_index(
        "vms_delete_idx", "vms", ["delete_due_at"], unique=False, postgresql_where=sa.text("delete_due_at IS NOT NULL")
    )
    op.create_index(
        "vms_deleting_idx",
        "vms",
        ["submission_id", "delete_due_at", "vm_no"],
        unique=False,
        postgresql_where=sa.text("delete_due_at IS NOT NULL"),
    )
    op.create_index(
        "vms_history_idx",
        "vms",
        ["history_due_at"],
        unique=False,
        postgresql_where=sa.text("history_due_at IS NOT NULL"),
    )
    op.create_index(
        "vms_ended_state_idx",
        "vms",
        ["state", "member"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    op.create_index(
        "vms_ended_on_demand_idx",
        "vms",
        ["submission_id"],
        unique=False,
        postgresql_include=["on_demand_seconds"],
        postgresql_where=sa.text("ended_at IS NOT NULL AND on_demand_seconds > 0"),
    )
    for name, columns, where in (
        ("ended", ["ended_at"], "ended_at IS NOT NULL"),
        ("living", ["submission_id", "vm_no"], "ended_at IS NULL"),
        ("broken", ["submission_id", "vm_no"], "state IN ('ERROR', 'LOST')"),
        ("stuck", ["submission_id", "vm_no"], "stuck"),
    ):
        op.create_index(f"vms_{name}_idx", "vms", columns, unique=False, postgresql_where=sa.text(where))
    op.create_index(
        "vms_contract_turns_idx",
        "vms",
        ["submission_id", "contract_due_at", "vm_no"],
        unique=False,
        postgresql_where=sa.text("contract_due_at IS NOT NULL"),
    )
    op.create_index(
        "vms_history_turns_idx",
        "vms",
        ["submission_id", "history_due_at", "vm_no"],
        unique=False,
        postgresql_where=sa.text("history_due_at IS NOT NULL"),
    )
    op.create_index(
        "vms_deletion_idx",
        "vms",
        ["deletion_requested_at"],
        unique=False,
        postgresql_where=sa.text("delete_due_at IS NOT NULL"),
    )
    op.create_index("vms_provider_id_key", "vms", ["provider_id", "submission_id"], unique=True)
    op.create_index(
        "vms_refresh_idx",
        "vms",
        ["next_refresh_at"],
        unique=False,
        postgresql_where=sa.text("next_refresh_at IS NOT NULL"),
    )
    op.create_table(
        "daemons",
        sa.Column("daemon_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("settings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("seen_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("stopped_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("daemon_id", name=op.f("daemons_pkey")),
    )


def _create_prices() -> None:
    """What the provider's price book and contracts said."""
    op.create_table(
        "prices",
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("read_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("value", sa.Numeric(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.CheckConstraint("value >= 0", name=op.f("prices_value_not_negative_check")),
        sa.PrimaryKeyConstraint("resource", "read_at", name=op.f("prices_pkey")),
    )
    op.create_table(
        "contract_discounts",
        sa.Column("contract_id", sa.Integer(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("read_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=True),
        sa.Column("value", sa.Numeric(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.CheckConstraint("kind IN ('percent', 'flat')", name=op.f("contract_discounts_kind_known_check")),
        sa.CheckConstraint("(kind IS NULL) = (value IS NULL)", name=op.f("contract_discounts_value_with_kind_check")),
        sa.PrimaryKeyConstraint("contract_id", "resource", "read_at", name=op.f("contract_discounts_pkey")),
    )


def _create_log() -> None:
    """The log that the record is sealed into."""
    op.create_table(
        "logs",
        sa.Column("log_id", sa.UUID(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("begun_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("server", sa.Text(), nullable=True),
        sa.Column("snapshot", sa.Text(), nullable=True),
        sa.Column("pass_snapshot", sa.Text(), nullable=True),
        sa.Column("pass_size", sa.BigInteger(), nullable=True),
        sa.Column("pass_table", sa.Text(), nullable=True),
        sa.Column("pass_after", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint("(pass_snapshot IS NULL) = (pass_table IS NULL)", name=op.f("logs_pass_has_a_table_check")),
        sa.CheckConstraint("(pass_snapshot IS NULL) = (pass_size IS NULL)", name=op.f("logs_pass_has_a_size_check")),
        sa.PrimaryKeyConstraint("log_id", name=op.f("logs_pkey")),
    )
    op.create_table(
        "log_tiles",
        sa.Column("log_id", sa.UUID(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("tile_no", sa.BigInteger(), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("log_id", "level", "tile_no", name=op.f("log_tiles_pkey")),
    )
    op.create_table(
        "seals",
        sa.Column("log_id", sa.UUID(), nullable=False),
        sa.Column("first_leaf", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("row_keys", sa.LargeBinary(), nullable=False),
        sa.Column("first_xact", sa.BigInteger(), nullable=False),
        sa.Column("last_xact", sa.BigInteger(), nullable=False),
        sa.Column("sealed_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("log_id", "first_leaf", name=op.f("seals_pkey")),
    )
    op.create_index("seals_xact_idx", "seals", ["log_id", "table_name", "last_xact"], unique=False)
    # Hashes and compressed keys do not become smaller.
    op.execute(sa.text("ALTER TABLE log_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL"))
    op.execute(sa.text("ALTER TABLE seals ALTER COLUMN row_keys SET STORAGE EXTERNAL"))
    op.create_table(
        "checkpoints",
        sa.Column("log_id", sa.UUID(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("signed_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("published_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("log_id", "size", name=op.f("checkpoints_pkey")),
    )
    op.create_index(
        "checkpoints_unpublished_idx",
        "checkpoints",
        ["log_id", "size"],
        unique=False,
        postgresql_where=sa.text("published_at IS NULL"),
    )
    op.create_table(
        "log_keys",
        sa.Column("log_id", sa.UUID(), nullable=False),
        sa.Column("verifier_key", sa.Text(), nullable=False),
        sa.Column("added_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("log_id", "verifier_key", name=op.f("log_keys_pkey")),
    )
    op.create_table(
        "dropped_months",
        sa.Column("month", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=True),
        sa.Column("file", sa.Text(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("dropped_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("month", "dropped_at", name=op.f("dropped_months_pkey")),
    )


def _create_notifications() -> None:
    op.create_table(
        "notices",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("notice_no", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("vm_no", sa.Integer(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("submission_id", "notice_no", name=op.f("notices_pkey")),
    )
    op.create_index("notices_no_idx", "notices", ["notice_no"], unique=False)
    op.create_table(
        "notify_wanted",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("notify_wanted_pkey")),
    )
    op.create_table(
        "message_sequences",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("submission_id", "target", name=op.f("message_sequences_pkey")),
    )
    _create_messages()
    op.create_table(
        "message_lanes",
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("due_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("lease_token", sa.UUID(), nullable=True),
        sa.Column("lease_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("lane", name=op.f("message_lanes_pkey")),
        sa.CheckConstraint(
            "(lease_token IS NULL) = (lease_until IS NULL)", name=op.f("message_lanes_lease_has_an_end_check")
        ),
    )
    op.create_index(
        "message_lanes_due_idx",
        "message_lanes",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "health_issues",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("since", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("reported_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("health_issues_pkey")),
    )
    op.create_table(
        "fleet_samples",
        sa.Column("slot", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("counted_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("by_state", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("numbers", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("slot", name=op.f("fleet_samples_pkey")),
    )
    op.create_table(
        "submission_samples",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("counted_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("alive", sa.Integer(), nullable=False),
        sa.Column("tally", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("submission_id", name=op.f("submission_samples_pkey")),
    )


def _create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("message_id", sa.UUID(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="due", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("due_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("give_up_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("submission_id", "target", "seq", name=op.f("messages_pkey")),
        sa.CheckConstraint("state IN ('due', 'delivered', 'dead')", name=op.f("messages_state_known_check")),
        sa.CheckConstraint("(state = 'due') = (due_at IS NOT NULL)", name=op.f("messages_due_until_ended_check")),
        sa.CheckConstraint("(state = 'due') = (ended_at IS NULL)", name=op.f("messages_ended_at_when_ended_check")),
    )
    for name, columns, where in (
        ("messages_lane_idx", ["lane", "due_at"], "due_at IS NOT NULL"),
        ("messages_ended_idx", ["ended_at"], "ended_at IS NOT NULL"),
    ):
        op.create_index(name, "messages", columns, unique=False, postgresql_where=sa.text(where))
    op.create_index("messages_id_idx", "messages", ["message_id"], unique=False)


# What is told, by table: its kind, and the condition on the row before and after the change (decision 0071). A condition is
# what the trigger's WHEN asks of each changed row, so it compares columns and reads nothing.
_BECAME = "NEW.state = '{0}' AND OLD.state <> '{0}'"
_OFF_CONTRACT = "('on_demand', 'given_up')"
NOTICES = {
    "vms": {
        "vm.ready": "NEW.ready_at IS NOT NULL AND OLD.ready_at IS NULL",
        "vm.lost": _BECAME.format("LOST"),
        "vm.error": _BECAME.format("ERROR"),
        "vm.refused": _BECAME.format("REFUSED"),
        "vm.stuck": "NEW.stuck AND NOT OLD.stuck",
        "vm.deleted_unasked": _BECAME.format("DELETED") + " AND NEW.desired_state = 'present'",
        "vm.off_contract": f"NEW.assignment IN {_OFF_CONTRACT} AND OLD.assignment NOT IN {_OFF_CONTRACT}",
        "vm.on_contract": f"NEW.assignment = 'assigned' AND OLD.assignment IN {_OFF_CONTRACT}",
        "vm.replaced": "NEW.replaced_by IS NOT NULL AND OLD.replaced_by IS NULL",
    },
    "submissions": {
        "submission.ready": "NEW.state = 'ready' AND OLD.state = 'open'",
        "submission.failed": "NEW.state = 'failed' AND OLD.state = 'open' AND NEW.ended_at <= NEW.deadline_at",
        "submission.deadline_passed": "NEW.state = 'failed' AND OLD.state = 'open' AND NEW.ended_at > NEW.deadline_at",
        "submission.cancelled": "NEW.cancelled_at IS NOT NULL AND OLD.cancelled_at IS NULL"
        " AND NOT coalesce(NEW.expires_at <= NEW.cancelled_at, false)",
        "submission.expired": "NEW.cancelled_at IS NOT NULL AND OLD.cancelled_at IS NULL"
        " AND coalesce(NEW.expires_at <= NEW.cancelled_at, false)",
        "submission.expires_soon": "NEW.expiry_notice_at IS NULL AND OLD.expiry_notice_at IS NOT NULL"
        " AND NEW.expires_at = OLD.expires_at AND NEW.cancelled_at IS NULL",
        "submission.repairs_stopped": "NEW.maintain_stopped_at IS NOT NULL AND OLD.maintain_stopped_at IS NULL",
        "money.limit_near": "NEW.limit_near_at IS NOT NULL AND OLD.limit_near_at IS NULL",
        "money.limit_reached": "NEW.limit_reached_at IS NOT NULL AND OLD.limit_reached_at IS NULL",
    },
    "orphans": {"orphan.found": "NEW.state = 'found' AND OLD.state IS DISTINCT FROM 'found'"},
    "health_issues": {"health.raised": "OLD.name IS NULL", "health.resolved": "NEW.name IS NULL"},
}
# submission_id, vm_no, subject and detail of a notice, and whether the row's submission wants all of its own.
_NIL = "'00000000-0000-0000-0000-000000000000'::uuid"
_THEIR_OWN = (
    "EXISTS (SELECT FROM submissions AS own WHERE own.submission_id = NEW.submission_id AND own.notify IS NOT NULL)"
)
_REASON = """CASE happened.kind WHEN 'money.limit_near' THEN 'four fifths of max_cost ' || (NEW.policy ->> 'max_cost') || ' are spent'
                WHEN 'money.limit_reached' THEN NEW.limit_issue ELSE coalesce(NEW.cancel_reason, NEW.reasons ->> -1) END"""
_OF_A_NOTICE = {
    "vms": ("NEW.submission_id, NEW.vm_no, NULL, NEW.reason", _THEIR_OWN),
    "submissions": (
        f"NEW.submission_id, NULL, NULL, {_REASON}",
        "NEW.notify IS NOT NULL",
    ),
    "orphans": ("NEW.submission_id, NULL, NEW.provider_id::text, NEW.reason", _THEIR_OWN),
    "health_issues": (f"{_NIL}, NULL, coalesce(NEW.name, OLD.name), coalesce(NEW.text, OLD.text)", "false"),
}


def _write_notices() -> None:
    for table, kinds in NOTICES.items():
        row, theirs = _OF_A_NOTICE[table]
        happened = ", ".join(f"('{kind}', {condition})" for kind, condition in kinds.items())
        op.execute(
            sa.text(
                f"""
        CREATE FUNCTION rollcall_notices_of_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO notices (submission_id, vm_no, subject, detail, kind, at)
            SELECT {row}, happened.kind, now() FROM (VALUES {happened}) AS happened (kind, is_so)
            WHERE is_so AND (EXISTS (SELECT FROM notify_wanted AS wanted WHERE wanted.kind = happened.kind) OR {theirs});
            RETURN NULL;
        END $$
        """.replace(":", r"\:")  # noqa: S608  constants of this file
            )
        )
    _notice("vms", "UPDATE")
    _notice("submissions", "UPDATE")
    _notice("orphans", "UPDATE")
    _notice("orphans", "INSERT", "NEW.state = 'found'")
    _notice("health_issues", "INSERT", "true")
    _notice("health_issues", "DELETE", "true")


def _notice(table: str, event: str, when: str | None = None) -> None:
    condition = when or " OR ".join(f"({one})" for one in NOTICES[table].values())
    op.execute(
        sa.text(
            f"CREATE TRIGGER {table}_notices_{event.lower()} AFTER {event} ON {table} FOR EACH ROW "
            f"WHEN ({condition}) EXECUTE FUNCTION rollcall_notices_of_{table}()"
        )
    )


_FAILED = (
    "{0}.state IN ('ERROR', 'LOST', 'DELETED', 'REFUSED') AND {0}.member AND NOT {0}.stuck AND {0}.replaced_by IS NULL"
    " AND {0}.desired_state = 'present' AND ({0}.ready_at IS NOT NULL OR {0}.repair)"
)


def _look_for_failed_vms() -> None:
    """When a VM fails, its submission is due to be looked at, if its policy is to replace it. See storage/repairs.py."""
    op.execute(
        sa.text(
            """
        CREATE FUNCTION rollcall_vm_failed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE submissions SET repair_due_at = failed.due_at FROM (
                SELECT NEW.state_since + make_interval(secs => CAST(policy #>> '{maintain,grace_seconds}' AS float)) AS due_at
                FROM submissions WHERE submission_id = NEW.submission_id
            ) AS failed
            WHERE submission_id = NEW.submission_id AND cancelled_at IS NULL AND maintain_stopped_at IS NULL
              AND (policy #>> '{maintain,enabled}' = 'true' OR policy ->> 'on_stuck' = 'replace')
              AND (repair_due_at IS NULL OR repair_due_at > failed.due_at);
            RETURN NULL;
        END $$
        """
        )
    )
    changed = f"{_FAILED.format('NEW')} AND NOT (OLD.state = NEW.state AND {_FAILED.format('OLD')})"
    op.execute(
        sa.text(
            f"CREATE TRIGGER vms_failed AFTER UPDATE ON vms FOR EACH ROW WHEN ({changed}) EXECUTE FUNCTION rollcall_vm_failed()"
        )
    )


def _create_record_origin() -> None:
    op.create_table(
        "record_origin",
        sa.Column("origin_no", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("history", sa.Text(), nullable=False),
        sa.Column("uncertain_since", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("origin_no = 1", name=op.f("record_origin_one_row_check")),
        sa.PrimaryKeyConstraint("origin_no", name=op.f("record_origin_pkey")),
    )


def _create_tokens() -> None:
    """Who may call the API."""
    op.create_table(
        "api_tokens",
        sa.Column("token_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("serial", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("revoked_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("revoked_by", sa.Text(), nullable=True),
        sa.Column("last_used_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("max_vms", sa.Integer(), nullable=True),
        sa.Column("max_gpus", sa.Integer(), nullable=True),
        sa.Column("max_price_per_hour", sa.Numeric(), nullable=True),
        sa.CheckConstraint("role IN ('read', 'submit', 'admin', 'audit')", name=op.f("api_tokens_role_known_check")),
        sa.CheckConstraint("requests_per_minute > 0", name=op.f("api_tokens_limit_positive_check")),
        sa.CheckConstraint(
            "max_vms > 0 AND max_gpus > 0 AND max_price_per_hour > 0", name=op.f("api_tokens_limits_positive_check")
        ),
        sa.CheckConstraint(
            "(revoked_at IS NULL) = (revoked_by IS NULL)", name=op.f("api_tokens_revoked_by_somebody_check")
        ),
        sa.PrimaryKeyConstraint("token_id", name=op.f("api_tokens_pkey")),
        sa.UniqueConstraint("digest", name=op.f("api_tokens_digest_key")),
        sa.UniqueConstraint("name", "serial", name=op.f("api_tokens_name_serial_key")),
    )


def _note_transactions() -> None:
    for table in APPEND_ONLY:
        default = sa.text("((pg_current_xact_id())::text)::bigint")
        op.add_column(table, sa.Column("xact_id", sa.BigInteger(), server_default=default, nullable=False))
        op.create_index(f"{table}_xact_idx", table, ["xact_id"], unique=False)


# They run as who owns the tables, so that a daemon may have a role without DDL (decision 0091). `first` is the first day
# of a month. Callers set lock_timeout: each waits for who uses the table, and who comes later waits behind it.
PARTITION_FUNCTIONS = {
    "rollcall_create_partition(first date)": """
        EXECUTE format('CREATE TABLE %I PARTITION OF events FOR VALUES FROM (%L) TO (%L)', name,
            first || ' 00:00:00Z', (first + interval '1 month')::date || ' 00:00:00Z');
        -- Partitions inherit row triggers, but not the one on TRUNCATE.
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION rollcall_append_only()',
            name || '_no_truncate', name);
    """,
    "rollcall_lock_partition(first date, detached boolean)": """
        IF detached THEN
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', name);
        ELSE
            LOCK TABLE ONLY events IN ACCESS EXCLUSIVE MODE;
        END IF;
    """,
    "rollcall_detach_partition(first date)": """
        EXECUTE format('ALTER TABLE events DETACH PARTITION %I', name);
        -- The row trigger was inherited, and is gone now.
        EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION rollcall_append_only()',
            name || '_append_only', name);
    """,
    "rollcall_drop_partition(first date)": """
        IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(name)) THEN
            RAISE EXCEPTION '% is attached to events', name;
        END IF;
        EXECUTE format('DROP TABLE %I', name);
    """,
}


def _make_partition_functions() -> None:
    schema = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    for signature, body in PARTITION_FUNCTIONS.items():
        definition = f"""
        CREATE FUNCTION {signature} RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
        DECLARE
            name text := 'events_p' || to_char(first, 'YYYY_MM');
        BEGIN
            IF first <> date_trunc('month', first) THEN
                RAISE EXCEPTION '% is not the first day of a month', first;
            END IF;
            {body}
        END $$
        """
        op.execute(sa.text(definition.replace(":", "\\:")))
        # Whoever may connect could call it otherwise.
        op.execute(sa.text(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC"))


def downgrade() -> None:
    for table in (
        "logs", "log_tiles", "seals", "checkpoints", "log_keys", "dropped_months",
        "vms", "creations", "transitions", "submissions", "dead_letters", "orphans", "idempotency_keys", "events", "inbox",
        "scheduled_jobs", "provider_circuits", "calls", "call_ends", "rate_limit_slots", "rate_limits", "actions", "assignments", "daemons",
        "prices", "contract_discounts", "contract_leases", "api_tokens", "notices", "notify_wanted", "message_sequences",
        "messages", "message_lanes", "health_issues", "fleet_samples", "submission_samples",
        "record_origin",
    ):  # fmt: skip
        op.drop_table(table)
    for table in NOTICES:
        op.execute(sa.text(f"DROP FUNCTION rollcall_notices_of_{table}()"))
    op.execute(sa.text("DROP FUNCTION rollcall_append_only()"))
    op.execute(sa.text("DROP FUNCTION rollcall_vm_failed()"))
    for signature in PARTITION_FUNCTIONS:
        op.execute(sa.text(f"DROP FUNCTION {signature}"))
