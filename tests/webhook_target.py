"""A target of webhooks for tests: it answers as a test says, and keeps what it was sent."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

KEY = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cyBvZiB3ZWJob29rcyE="


@dataclass
class Target:
    """What arrived, and what is answered: a status, or a handler of requests."""

    url: str = ""
    answer: int | Callable[[web.Request], Any] = 204
    requests: list[tuple[dict[str, str], str]] = field(default_factory=list)

    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def arrived(self, count: int) -> None:
        """Wait until so many requests have arrived."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, body in self.requests]

    def targets(self, **more: Any) -> str:
        """The setting that leads here."""
        return json.dumps([{"name": "ops", "to": self.url, "secrets": [KEY], **more}])

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((dict(request.headers), await request.text()))
        async with self._arrived:
            self._arrived.notify_all()
        return web.Response(status=self.answer) if isinstance(self.answer, int) else await self.answer(request)


@asynccontextmanager
async def listening() -> AsyncIterator[Target]:
    target = Target()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", target.handle)
    async with TestServer(app) as server:
        target.url = str(server.make_url("/hook/a-secret-path"))
        yield target
