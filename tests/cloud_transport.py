"""A transport to a simulated cloud in the same process, and the way back: its callbacks, kept as the receiver would."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from pydantic import SecretStr
from simulated import Caller

from service.core.token import verify
from service.errors import Unconfirmed
from service.provider.client import Client
from service.provider.wire import HttpResponse
from service.runtime.runtime import Runtime
from service.simulator.http import HttpRequest
from service.storage import events
from service.storage.engine import begin
from service.storage.events import Event

SITE = "http://provider.example"


async def _nothing() -> None:
    return None


class CloudTransport:
    """Carries calls to a cloud whose time only tests move. `before` is done before each call."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.asked: list[str] = []
        self.before: Callable[[], Awaitable[object]] = _nothing

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, within: float
    ) -> HttpResponse:
        path = url.removeprefix(SITE)
        self.asked.append(f"{method} {path.partition('?')[0]}")
        await self.before()
        request = HttpRequest(method=method, path=path, headers=headers, body=body or b"")
        reply = self.caller.cloud.handle(request, self.caller.now)
        if reply.fate != "normal":
            raise Unconfirmed(f"the connection was {reply.fate}")
        return HttpResponse(status=reply.status, headers=reply.headers, body=reply.body)


def connected(runtime: Runtime, transport: CloudTransport) -> Runtime:
    """The runtime with the cloud as its provider."""
    client = Client(transport, base_url=f"{SITE}/v1", api_key=SecretStr("an-api-key-of-tests"))
    return replace(runtime, client=client, transport=transport)


async def let_pass(rt: Runtime, transport: CloudTransport, seconds: float) -> None:
    """Let time pass for both, and keep the callbacks that fell due in the order in which they were sent."""
    rt.clock.advance(seconds)
    heard = [
        Event(
            submission_id=ref.submission_id,
            creation_no=ref.creation_no,
            received_at=rt.clock.now() + timedelta(microseconds=number),
            event_id=rt.uuid(),
            body=sent.body,
            headers={},
            peer=None,
            digest=hashlib.sha256(sent.body).digest(),
        )
        for number, sent in enumerate(transport.caller.wait(seconds))
        if (ref := verify(sent.url.rpartition("/")[2], rt.callback_secrets))
    ]
    if heard:
        async with begin(rt.engine) as conn:
            await events.insert(conn, heard)
