"""The columns of what is found in the record, and of what differs between two moments."""

from typing import Final

from service.cli.output import Column, time_of
from service.cli.views import at_of, short_ref

FOUND: Final = (
    Column("at", lambda one: at_of(one["at"])),
    Column("kind", lambda one: one["kind"]),
    Column("id", lambda one: one["id"], short=lambda one: one["id"][-16:]),
    Column("provider id", lambda one: one["provider_id"], wide=True),
    Column("what", lambda one: one["text"], wraps=True),
)
DIFFERENCES: Final = (
    Column("change", lambda one: one["change"]),
    Column("ref", lambda one: one["ref"], short=short_ref),
    Column("name", lambda one: one["name"], clips=True),
    Column("from", lambda one: one["state_from"] or ""),
    Column("to", lambda one: one["state_to"]),
    Column("since", lambda one: time_of(one["since"])),
    Column("differs in", lambda one: ", ".join(one["changed"]), wide=True),
)
