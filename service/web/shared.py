"""What many open pages show alike is read and rendered once for all of them, until something changes.

While few pages are open, each reads for itself, and so shows what a reload would show.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Final, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler
from markupsafe import escape as escape_html

from service.api.context import LAG
from service.core.printable import escape
from service.errors import Overloaded
from service.web.rendering import SESSION
from service.web.sessions import Session

Value = TypeVar("Value")

#: With more open pages than this, they share.
FEW: Final = 5
#: Seconds after which a value is computed again though nothing changed: ages and times go on.
_LONGEST: Final = 15.0
#: Seconds that a page may take. A database that is busy longer is said to be.
TIMEOUT: Final = 15.0
#: What stands for whoever is signed in, in a page that is rendered for all: nobody can guess it, so no page has it by chance.
_NAME: Final = secrets.token_hex(16)
_CSRF: Final = secrets.token_hex(16)


@dataclass(slots=True)
class SharedComputation:
    """A computation, running or done, when it began, and whether something changed since."""

    since: float
    task: asyncio.Task[Any]
    is_old: bool = False


class SharedValues:
    """Values by key, each from one computation. `forget` them when something changed."""

    def __init__(self) -> None:
        self.is_on = False
        self._is_closed = False
        self._computed: dict[Hashable, SharedComputation] = {}

    async def get(self, key: Hashable, compute: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """The value of a key, as of now or of the last change. One that failed is computed again for the next who asks.

        A key is computed once at a time: who asks after a change waits for what runs, and then for what is begun after it.
        Raises TimeoutError if it takes longer than a page may.
        """
        if not self.is_on or self._is_closed:
            return await compute()
        before = self._computed.get(key)
        if before is not None and self._is_outdated(before):
            await asyncio.wait({before.task})
            if self._computed.get(key) is before:
                del self._computed[key]
        if self._is_closed:
            raise Overloaded("Rollcall is stopping.")
        found = self._computed.get(key) or self._start(key, compute)
        await asyncio.wait({found.task})  # whoever asked first may go away
        if found.task.cancelled():
            raise Overloaded("Rollcall is stopping.")
        value: Value = found.task.result()
        return value

    def forget(self) -> None:
        self._computed = {key: one for key, one in self._computed.items() if not one.task.done()}
        for one in self._computed.values():
            one.is_old = True

    async def close(self) -> None:
        """Cancel what runs. From now on everybody computes for themselves."""
        self._is_closed = True
        tasks = [one.task for one in self._computed.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._computed.clear()

    def _start(self, key: Hashable, compute: Callable[[], Coroutine[Any, Any, Value]]) -> SharedComputation:
        self._drop_old()
        task = asyncio.create_task(_in_time(compute))
        task.add_done_callback(lambda done: self._drop_failed(key, done))
        self._computed[key] = started = SharedComputation(_now(), task)
        return started

    def _is_outdated(self, one: SharedComputation) -> bool:
        return one.is_old or _now() - one.since > _LONGEST

    def _drop_old(self) -> None:
        kept = {key: one for key, one in self._computed.items() if not (one.task.done() and self._is_outdated(one))}
        self._computed = kept

    def _drop_failed(self, key: Hashable, done: asyncio.Task[Any]) -> None:
        found = self._computed.get(key)
        if (done.cancelled() or done.exception()) and found is not None and found.task is done:
            del self._computed[key]


async def _in_time(compute: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
    """A computation goes on if nobody waits for it any more, but no longer than a page may take."""
    async with asyncio.timeout(TIMEOUT):
        return await compute()


def _now() -> float:
    return asyncio.get_running_loop().time()


SHARED: Final = web.AppKey("shared", SharedValues)


def shared(handler: Handler) -> Handler:
    """A page that is the same for everybody with the same role, but for the name and the forms around it."""

    @wraps(handler)
    async def wrapped(request: web.Request) -> web.StreamResponse:
        values = request.app[SHARED]
        if not values.is_on or request.query.get("format") == "csv":
            return await handler(request)
        session = request[SESSION]
        found = await values.get((str(request.rel_url), session.caller.role), lambda: _for_all(request, handler))
        return found.of(request, session)

    return wrapped


@dataclass(frozen=True, slots=True)
class SharedPage:
    """A page as rendered for nobody in particular; `lag` as in `LAG`."""

    text: str
    status: int
    lag: float | None

    def of(self, request: web.Request, session: Session) -> web.Response:
        """The page of one session."""
        if self.lag is not None:
            request[LAG] = self.lag
        text = self.text.replace(_CSRF, session.csrf).replace(_NAME, escape_html(escape(session.caller.name)))
        return web.Response(
            text=text, status=self.status, content_type="text/html", headers={"Cache-Control": "no-store"}
        )


async def _for_all(request: web.Request, handler: Handler) -> SharedPage:
    asked, session = request.clone(), request[SESSION]
    asked[SESSION] = Session(replace(session.caller, name=_NAME), _CSRF)
    response = await handler(asked)
    if not isinstance(response, web.Response) or response.text is None or response.content_type != "text/html":
        raise TypeError(f"{request.path} is no page")
    return SharedPage(response.text, response.status, asked.get(LAG))
