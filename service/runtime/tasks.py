"""Concurrency helpers: wait for all, run calls in slots, restart tasks."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
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
    """Runs calls in a number of slots. A call that hangs gives its slot up after `patience` seconds, and goes on.

    There are never more than `most` calls. One that hangs delays no other but by its patience.
    """

    def __init__(self, size: int, *, most: int, patience: float) -> None:
        self.size, self._most, self._patience = size, most, patience
        self._tasks: dict[asyncio.Task[object], float] = {}
        self._freed = asyncio.Event()

    @property
    def free(self) -> int:
        since = asyncio.get_running_loop().time() - self._patience
        in_slots = sum(began > since for began in self._tasks.values())
        return max(0, min(self.size - in_slots, self._most - len(self._tasks)))

    def start(self, work: Coroutine[Any, Any, object], *, name: str) -> None:
        """Start work that reports its own errors. The caller must have checked that slots are free."""
        task = asyncio.create_task(work, name=name)
        self._tasks[task] = asyncio.get_running_loop().time()
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[object]) -> None:
        self._tasks.pop(task, None)
        self._freed.set()

    async def wait_for_free(self) -> None:
        """Wait until a slot becomes free."""
        while not self.free:
            self._freed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._freed.wait(), self._until_one_hangs())

    def _until_one_hangs(self) -> float | None:
        now = asyncio.get_running_loop().time()
        left = [began + self._patience - now for began in self._tasks.values()]
        return min((one for one in left if one > 0), default=None)

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
