"""A message on record, for tests of the pages and commands that show messages."""

import json
from typing import Any

from msgspec.structs import replace

from service.core.ids import FLEET
from service.runtime.runtime import Runtime
from service.storage import messages
from service.storage.engine import begin
from service.storage.messages import Message

#: What others may write: markup, control characters, and a change of the direction of reading.
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e&\"'"


async def store_message(runtime: Runtime, **changes: Any) -> Message:
    """A dead letter with hostile texts; in a database whose clock is the test's."""
    now = runtime.clock.now()
    one = Message(
        submission_id=FLEET,
        target="ops",
        seq=1,
        message_id=runtime.uuid(),
        lane="target ops",
        kind="vm.lost",
        text=f"lost: {HOSTILE}",
        body=json.dumps({"type": "vm.lost", "data": {"text": HOSTILE}}),
        created_at=now,
        give_up_at=now,
        state="dead",
        ended_at=now,
        error=f"it answered {HOSTILE}",
    )
    one = replace(one, **changes)
    async with begin(runtime.engine) as conn:
        await messages.insert(conn, [one], now=now)
    return one
