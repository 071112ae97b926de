"""Delivers messages to targets. What is delivered one after the other has a slot, so that what hangs holds only that."""

from functools import partial

from service.notify import delivery
from service.runtime.runtime import Runtime
from service.runtime.slots import Claimed, slots


async def run_once(rt: Runtime) -> int:
    """Deliver what is due to each target, and wait for that. Returns how many targets had anything."""
    claimed = await claim(rt, slots(rt.settings)["deliver"])
    return await claimed.make_calls()


async def claim(rt: Runtime, free: int) -> Claimed:
    """Lease at most `free` lanes that have something to deliver."""
    leased = await delivery.claim(rt, free)
    return Claimed(len(leased), [partial(delivery.deliver, rt, one) for one in leased])
