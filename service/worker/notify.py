"""Makes messages of what happened, in windows, so that many events of one kind are one message."""

from service.notify import outbox
from service.runtime.runtime import Runtime


async def run_once(rt: Runtime) -> int:
    """Make messages of the notices that there are. Returns how many notices there were."""
    await outbox.tell_health(rt)
    done = await outbox.group(rt)
    await outbox.clean(rt)
    return done
