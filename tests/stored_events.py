"""Events and callbacks for tests of the receiver: complete ones, of which a test overrides what matters to it."""

import hashlib
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from clock import NOON
from hypothesis import strategies as st

from service.core.ids import uuid7
from service.core.token import CreationRef
from service.runtime.runtime import Runtime
from service.storage import events, tables
from service.storage.engine import begin
from service.storage.events import DeadLetter, Event

REF = CreationRef(UUID("01900000-0000-7000-8000-000000000001"), 3)


def event(number: int = 0, **overrides: Any) -> Event:
    """The event that was heard `number` milliseconds after noon."""
    received_at: datetime = overrides.pop("received_at", NOON + timedelta(milliseconds=number))
    body: bytes = overrides.pop("body", f"callback {number}".encode())
    values: dict[str, Any] = {
        "submission_id": REF.submission_id,
        "creation_no": REF.creation_no,
        "received_at": received_at,
        "event_id": uuid7(received_at, number.to_bytes(8, "big")),
        "headers": {"content-type": "application/json"},
        "peer": "192.0.2.7",
        "body": body,
        "digest": hashlib.sha256(body).digest(),
    }
    return Event(**{**values, **overrides})


async def store_dead_letter(rt: Runtime, **overrides: Any) -> UUID:
    """Store an event that is a dead letter and waits no more; its id."""
    one = event(0, **overrides)
    row = DeadLetter(*one.key, kind="unreadable", reason="it is not JSON", at=one.received_at)
    async with begin(rt.engine) as conn:
        await events.insert(conn, [one])
        await conn.execute(tables.inbox.delete())
        await events.insert_dead_letters(conn, [row])
    return one.event_id


#: Text as it may come out of headers: anything but what was never text, and no NUL.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)

#: Any event that can be heard.
EVENTS = st.builds(
    event,
    st.integers(0, 10**9),
    submission_id=st.uuids(),
    creation_no=st.integers(0, 0xFFFFFF),
    headers=st.dictionaries(TEXT, TEXT, max_size=3),
    peer=st.none() | st.ip_addresses().map(str),
    body=st.binary(max_size=300),
)
