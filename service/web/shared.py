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
from service.web.rendering import SESSION
from service.web.sessions import Session

Value = TypeVar("Value")

#: With more open pages than this, they share.
FEW: Final = 5
#: Seconds after which a value is computed again though nothing changed: ages and times go on.
_LONGEST: Final = 15.0
#: What stands for whoever is signed in, in a page that is rendered for all: nobody can guess it, so no page has it by chance.
_NAME: Final = secrets.token_hex(16)
_CSRF: Final = secrets.token_hex(16)


class SharedValues:
    """Values by key, each from one computation. `forget` them when something changed."""

    def __init__(self) -> None:
        self.is_on = False
        self._tasks: dict[Hashable, tuple[float, asyncio.Task[Any]]] = {}

    async def get(self, key: Hashable, compute: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """The value of a key. One that failed is computed again for the next who asks."""
        if not self.is_on:
            return await compute()
        now = asyncio.get_running_loop().time()
        since, task = self._tasks.get(key, (now, None))
        if task is None or now - since > _LONGEST:
            self._drop_old(now)
            task = asyncio.create_task(compute())
            self._tasks[key] = now, task
            task.add_done_callback(lambda done: self._drop_failed(key, done))
        found: Value = await asyncio.shield(task)  # whoever asked first may go away
        return found

    def forget(self) -> None:
        self._tasks.clear()

    def _drop_old(self, now: float) -> None:
        self._tasks = {key: one for key, one in self._tasks.items() if now - one[0] <= _LONGEST}

    def _drop_failed(self, key: Hashable, done: asyncio.Task[Any]) -> None:
        _, task = self._tasks.get(key, (0.0, None))
        if (done.cancelled() or done.exception()) and task is done:
            del self._tasks[key]


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
