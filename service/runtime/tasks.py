"""Concurrency helpers: wait for all, run calls in slots, restart tasks."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from service.runtime.health import Health

Value = TypeVar("Value")

_FIRST_RESTART_SECONDS = 1.0
_LAST_RESTART_SECONDS = 60.0


async def gather_all(work: Iterable[Awaitable[Value]]) -> list[Value]:
    """The results in the order of `work`. Waits for all of it, and only then raises the first error.

    Nothing is left running: cancelling the caller cancels all of it, and so does an error that is no `Exception`.
    """
    tasks = [asyncio.ensure_future(one) for one in work]

    def cancel_siblings(done: asyncio.Future[Value]) -> None:
        if not done.cancelled() and done.exception() is not None and not isinstance(done.exception(), Exception):
            for task in tasks:
                task.cancel()

    for task in tasks:
        task.add_done_callback(cancel_siblings)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [one for one in results if isinstance(one, BaseException)]
    fatal = next((one for one in errors if not isinstance(one, Exception | asyncio.CancelledError)), None)
    if errors:
        raise fatal or errors[0]
    return [one for one in results if not isinstance(one, BaseException)]


class Slots:
    """Runs calls in a fixed number of slots. A call that hangs occupies one slot and delays no other."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._tasks: set[asyncio.Task[object]] = set()
        self._freed = asyncio.Event()

    @property
    def free(self) -> int:
        return self.size - len(self._tasks)

    def start(self, work: Coroutine[Any, Any, object], *, name: str) -> None:
        """Start work that reports its own errors. The caller must have checked that slots are free."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        self._freed.set()

    async def wait_for_free(self) -> None:
        """Wait until the next slot becomes free."""
        self._freed.clear()
        if not self.free:
            await self._freed.wait()

    def cancel(self) -> None:
        """Cancel all running work."""
        for task in self._tasks:
            task.cancel()

    async def finish(self) -> None:
        """Wait for all running work. If cancelled, cancel the work and wait for that."""
        await gather_all(list(self._tasks))


async def restart(health: Health, name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run work that should never end, and restart it if it does, with a health issue `task NAME`.

    The issue is resolved once the work has run as long as the wait before its next restart would be.
    """
    issue, wait = f"task {name}", _FIRST_RESTART_SECONDS
    while True:
        task = asyncio.ensure_future(work())
        try:
            done, _ = await asyncio.wait([task], timeout=2 * wait)
            if not done:
                health.resolve(issue, owner=name)
                wait = _FIRST_RESTART_SECONDS
                await asyncio.wait([task])
        finally:
            task.cancel()
        error = task.exception()
        if error is not None and not isinstance(error, Exception):
            raise error
        health.report(
            issue, f"ended: {error or 'without an error'}; it is being restarted", owner=name, severity="error"
        )
        await asyncio.sleep(wait)
        wait = min(2 * wait, _LAST_RESTART_SECONDS)
