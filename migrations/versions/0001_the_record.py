"""The record: submissions, their creations and VMs, what was heard and what was done."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "assignments",
        sa.Column("submission_id", sa.UUID(), nullable=False),
        sa.Column("vm_no", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("contract_id", sa.Integer(), nullable=True),
        sa.Column("shortfall", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("next_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("submission_id", "vm_no", "attempt", "at", name=op.f("assignments_pkey")),
    )
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
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
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
        sa.CheckConstraint(
            "(state IN ('suspected', 'deleting')) = (due_at IS NOT NULL)", name=op.f("orphans_due_while_open_check")
        ),
        sa.CheckConstraint(
            "state IN ('suspected', 'found', 'deleting', 'gone', 'adopted')", name=op.f("orphans_state_known_check")
        ),
        sa.PrimaryKeyConstraint("submission_id", "provider_id", name=op.f("orphans_pkey")),
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
        sa.CheckConstraint("(state = 'open') = (ended_at IS NULL)", name=op.f("submissions_ended_when_not_open_check")),
        sa.CheckConstraint(
            "state IN ('open', 'ready', 'failed', 'cancelled')", name=op.f("submissions_state_known_check")
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
        sa.Column("lookup_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("lookup_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("answer", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("completed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'calling') = (lease_token IS NOT NULL)", name=op.f("creations_leased_while_calling_check")
        ),
        sa.CheckConstraint(
            "(state = 'unconfirmed') = (lookup_until IS NOT NULL)", name=op.f("creations_quiet_while_unconfirmed_check")
        ),
        sa.CheckConstraint(
            "(state IN ('answered', 'refused', 'cancelled')) = (due_at IS NULL)",
            name=op.f("creations_due_until_settled_check"),
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
        "creations_due_idx",
        "creations",
        ["state", "due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index("creations_name_idx", "creations", [sa.literal_column("lower(name)")], unique=False)
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
        sa.Column("wants_address", sa.Boolean(), nullable=False),
        sa.Column("fixed_ip", sa.Text(), nullable=True),
        sa.Column("floating_ip", sa.Text(), nullable=True),
        sa.Column("flavor", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=True),
        sa.Column("gpu_model", sa.Text(), nullable=True),
        sa.Column("gpu_count", sa.Integer(), nullable=True),
        sa.Column("assignment", sa.Text(), nullable=False),
        sa.Column("contract_id", sa.Integer(), nullable=True),
        sa.Column("observed_contract_id", sa.Integer(), nullable=True),
        sa.Column("contract_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("contract_due_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("on_demand_since", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("on_demand_seconds", sa.Float(), server_default="0", nullable=False),
        sa.Column("desired_state", sa.Text(), server_default="present", nullable=False),
        sa.Column("deletion_reason", sa.Text(), nullable=True),
        sa.Column("delete_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("delete_due_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("deletion_announced", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("lease_token", sa.UUID(), nullable=True),
        sa.Column("lease_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("member", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("replaces", sa.Integer(), nullable=True),
        sa.Column("replaced_by", sa.Integer(), nullable=True),
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
            "(wish = 'deleted' AND ended_at IS NULL) = (delete_due_at IS NOT NULL)", name=op.f("vms_delete_due_check")
        ),
        sa.CheckConstraint(
            "assignment IN ('none', 'wanted', 'assigned', 'on_demand', 'retrying', 'given_up')",
            name=op.f("vms_assignment_known_check"),
        ),
        sa.CheckConstraint(
            "state = 'REQUESTED' OR (next_refresh_at IS NULL) = (ended_at IS NOT NULL)",
            name=op.f("vms_read_until_end_check"),
        ),
        sa.CheckConstraint(
            "state IN ('CANCELLED', 'DELETED', 'REFUSED') = (ended_at IS NOT NULL)",
            name=op.f("vms_ended_at_its_end_check"),
        ),
        sa.CheckConstraint(
            "state IN ('REQUESTED', 'CREATING', 'BUILD', 'ACTIVE', 'STARTING', 'STOPPING', 'SHUTOFF', 'REBOOTING', 'HIBERNATING', 'HIBERNATED', 'RESTORING', 'DELETING', 'DELETED', 'ERROR', 'REFUSED', 'CANCELLED', 'LOST')",
            name=op.f("vms_state_known_check"),
        ),
        sa.CheckConstraint("wish IN ('present', 'deleted')", name=op.f("vms_wish_known_check")),
        sa.ForeignKeyConstraint(
            ["submission_id", "creation_no"],
            ["creations.submission_id", "creations.creation_no"],
            name=op.f("vms_submission_id_creation_no_fkey"),
        ),
        sa.PrimaryKeyConstraint("submission_id", "vm_no", name=op.f("vms_pkey")),
    )
    op.create_index("vms_by_provider_id_idx", "vms", ["provider_id"], unique=False)
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
    op.create_index("vms_provider_id_key", "vms", ["submission_id", "provider_id"], unique=True)
    op.create_index(
        "vms_refresh_idx",
        "vms",
        ["next_refresh_at"],
        unique=False,
        postgresql_where=sa.text("next_refresh_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("vms_refresh_idx", table_name="vms", postgresql_where=sa.text("next_refresh_at IS NOT NULL"))
    op.drop_index("vms_provider_id_key", table_name="vms")
    op.drop_index("vms_delete_idx", table_name="vms", postgresql_where=sa.text("delete_due_at IS NOT NULL"))
    op.drop_index("vms_creation_idx", table_name="vms")
    op.drop_index("vms_contract_idx", table_name="vms", postgresql_where=sa.text("contract_due_at IS NOT NULL"))
    op.drop_index("vms_by_provider_id_idx", table_name="vms")
    op.drop_table("vms")
    op.drop_index("creations_name_idx", table_name="creations")
    op.drop_index("creations_due_idx", table_name="creations", postgresql_where=sa.text("due_at IS NOT NULL"))
    op.drop_table("creations")
    op.drop_table("transitions")
    op.drop_index("submissions_open_idx", table_name="submissions", postgresql_where=sa.text("state = 'open'"))
    op.drop_table("submissions")
    op.drop_table("dead_letters")
    op.drop_table("orphans")
    op.drop_table("idempotency_keys")
    op.drop_table("events")
    op.drop_index("inbox_due_idx", table_name="inbox")
    op.drop_table("inbox")
    op.drop_table("scheduled_jobs")
    op.drop_index("calls_begun_idx", table_name="calls")
    op.drop_table("calls")
    op.drop_table("call_ends")
    op.drop_table("rate_limit_slots")
    op.drop_table("rate_limits")
    op.drop_table("assignments")
