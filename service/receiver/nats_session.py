"""A connection to one NATS server, and what the spool asks of JetStream over it.

A session is not repaired: whoever meets a failure ends it and opens another, at the next server. So a server that hangs,
a stream without a leader and a changed password are all met in one way. Every method raises `NatsError` on failure,
after at most a few seconds.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Self, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api

from service.errors import Overloaded
from service.receiver.error_boundary import log
from service.receiver.nats_stream import CONSUMER, MESSAGE_HEADERS, StreamState, new_consumer, new_stream, refusals
from service.runtime.tasks import gather_all
from service.spool_url import SpoolUrl

Result = TypeVar("Result")

#: Messages and bytes that one pull takes: they are in memory together.
_AT_ONCE: Final = 256
_BYTES_AT_ONCE: Final = 16 * 2**20
#: Seconds for a server to accept a connection, and to answer a request or acknowledge what was published.
_CONNECT_SECONDS: Final = 2
_ANSWER_SECONDS: Final = 3.0
_CLOSE_SECONDS: Final = 1.0
_PING_SECONDS: Final = 5
#: Errors of JetStream by number: the stream is full; it exists with another configuration.
_FULL: Final = 10077
_EXISTS: Final = 10058
_NO_RESPONDERS: Final = "503"


class NatsError(ConnectionError):
    """The server, or its stream, cannot be used now. The message is for people, and holds no secret."""


class _Connection(Client):
    """Sends no password before TLS if the URL asks for TLS: the library would leave that to the server."""

    def __init__(self, *, tls: bool) -> None:
        super().__init__()
        self._needs_tls = tls

    def _connect_command(self) -> bytes:
        if self._needs_tls and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        return super()._connect_command()


class NatsSession:
    """A connection to one server. `lost` is set when it has ended, or must be."""

    def __init__(self, url: SpoolUrl, server: str, public_url: str | None) -> None:
        self._url = url
        self._public_url = public_url
        self._server = server
        self._client = _Connection(tls=url.tls)
        self._jetstream = self._client.jetstream(timeout=_ANSWER_SECONDS)
        self._pulled: asyncio.Queue[Msg] = asyncio.Queue()
        self._inbox = ""
        self._pulls = 0
        self._said = ""
        self.lost = asyncio.Event()

    @classmethod
    async def connect(cls, url: SpoolUrl, server: str, *, public_url: str | None = None) -> Self:
        """Connect, and ask for nothing yet. `public_url` says to whom the stream should belong."""
        logging.getLogger("nats").setLevel(logging.CRITICAL)  # we report its errors ourselves
        session = cls(url, server, public_url)
        try:
            await session._connect()
        finally:
            if not session._inbox:
                await session.close()
        return session

    async def _connect(self) -> None:
        user, password = self._url.user, self._url.password
        is_token = user is not None and password is None
        with self._translated():
            async with asyncio.timeout(2 * _CONNECT_SECONDS):
                await self._client.connect(
                    servers=[f"nats://{self._server}"],
                    name="rollcall",
                    user=user.get_secret_value() if user and password else None,
                    password=password.get_secret_value() if password else None,
                    token=user.get_secret_value() if user and is_token else None,
                    tls=ssl.create_default_context() if self._url.tls else None,
                    error_cb=self._failed,
                    closed_cb=self._closed,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=_CONNECT_SECONDS,
                    ping_interval=_PING_SECONDS,
                    pending_size=-1,  # buffer nothing for a connection that is gone
                )
                self._inbox = self._client.new_inbox()
                await self._client.subscribe(f"{self._inbox}.*", cb=self._pulled.put)

    async def close(self) -> None:
        self.lost.set()
        with suppress(TimeoutError, OSError, nats.errors.Error):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.close()

    @property
    def most_bytes(self) -> int:
        """The largest message that the server takes, without its headers."""
        return self._client.max_payload - MESSAGE_HEADERS

    # The stream and its consumer.

    async def prepare(self, *, most_bytes: int, longest: int) -> StreamState:
        """Make the stream and the consumer if there are none. Refuses a stream that may lose what it acknowledges.

        `most_bytes`: the size of a new stream. `longest`: the largest event that must find room in a message.
        """
        with self._translated():
            info = await self.stream() or await self._create(most_bytes)
        if reasons := refusals(info.config, self._url.stream, room=self.most_bytes, longest=longest):
            raise NatsError(f"the stream {self._url.stream} cannot be used: {'; '.join(reasons)}")
        wanted = new_consumer(self._url.stream)
        with self._translated():
            try:
                consumer = await self._ask(self._jetstream.consumer_info(self._url.stream, CONSUMER))
            except nats.js.errors.NotFoundError:
                consumer = await self._ask(self._jetstream.add_consumer(self._url.stream, wanted))
        if consumer.config.filter_subject != wanted.filter_subject:
            raise NatsError(f"the consumer {CONSUMER} of {self._url.stream} must filter {wanted.filter_subject}")
        return StreamState.of(info, self._url, self._public_url)

    async def stream(self) -> api.StreamInfo | None:
        """The stream, if there is one."""
        with self._translated():
            try:
                return await self._ask(
                    self._jetstream.stream_info(self._url.stream, subjects_filter=f"{self._url.stream}.>")
                )
            except nats.js.errors.NotFoundError:
                return None

    async def state(self) -> StreamState:
        info = await self.stream()
        if info is None:
            raise NatsError(f"the stream {self._url.stream} is gone")
        return StreamState.of(info, self._url, self._public_url)

    async def _create(self, most_bytes: int) -> api.StreamInfo:
        try:
            made = await self._ask(self._jetstream.add_stream(new_stream(self._url, most_bytes, self._public_url)))
        except nats.js.errors.APIError as error:
            if error.err_code == _EXISTS and (info := await self.stream()):
                return info  # another receiver was faster
            why = f"the stream {self._url.stream} cannot be made with {self._url.replicas} replicas"
            raise NatsError(f"{why}: {error.description}") from None
        log.warning("spool.stream", stream=self._url.stream, replicas=self._url.replicas, outcome="made")
        return made

    # Messages.

    async def publish(self, messages: Mapping[str, bytes], acknowledged: dict[str, int]) -> None:
        """Publish what is not acknowledged yet, all at once, by message id. On return a quorum has all of it.

        `acknowledged` gets the sequence of each message that was, also if others fail. Raises `Overloaded` if the
        stream is full.
        """

        async def one(message_id: str, data: bytes) -> None:
            subject, headers = f"{self._url.stream}.events", {"Nats-Msg-Id": message_id}
            ack = await self._jetstream.publish(
                subject, data, timeout=_ANSWER_SECONDS, stream=self._url.stream, headers=headers
            )
            acknowledged[message_id] = ack.seq

        rest = [one(key, data) for key, data in messages.items() if key not in acknowledged]
        with self._translated():
            await self._ask(gather_all(rest))

    async def pull(self) -> list[Msg]:
        """The next messages that no receiver has in hand; none if there are none now."""
        with self._translated():
            # Alone, a message is taken whatever its size.
            return await self._ask(self._pull(batch=_AT_ONCE, max_bytes=_BYTES_AT_ONCE)) or await self._ask(
                self._pull(batch=1)
            )

    async def _pull(self, **request: int) -> list[Msg]:
        found: list[Msg] = []
        self._pulls += 1
        subject, reply = f"$JS.API.CONSUMER.MSG.NEXT.{self._url.stream}.{CONSUMER}", f"{self._inbox}.{self._pulls}"
        await self._client.publish(subject, json.dumps({**request, "no_wait": True}).encode(), reply=reply)
        while len(found) < request["batch"]:
            message = await self._pulled.get()
            status = (message.headers or {}).get("Status")
            if not status:
                found.append(message)
            elif message.subject == reply:  # after a full batch comes a status too, which the next pull finds
                if status == _NO_RESPONDERS:
                    raise nats.errors.NoRespondersError
                break  # no more, or none for us now
        return found

    async def acknowledge(self, messages: Sequence[Msg]) -> None:
        """Have the stream remove them: their events are in Postgres. Another session may have pulled them."""
        with self._translated():
            await self._ask(gather_all(self._client.request(one.reply, timeout=_ANSWER_SECONDS) for one in messages))

    async def give_back(self, messages: Sequence[Msg]) -> None:
        """Let any receiver have them at once."""
        with self._translated():
            await self._ask(gather_all(self._client.publish(one.reply, Msg.Ack.Nak) for one in messages))

    async def keep_damaged(self, messages: Sequence[Msg]) -> None:
        """Move them to a subject that nobody drains, where people find them."""
        for one in messages:
            headers = {"Nats-Msg-Id": f"damaged-{one.metadata.sequence.stream}"}
            with self._translated():
                await self._ask(
                    self._jetstream.publish(
                        f"{self._url.stream}.damaged", one.data, headers=headers, timeout=_ANSWER_SECONDS
                    )
                )
        await self.acknowledge(messages)

    async def drained_up_to(self, sequence: int) -> bool:
        """Whether all messages up to this one are acknowledged."""
        with self._translated():
            info: api.ConsumerInfo = await self._ask(self._jetstream.consumer_info(self._url.stream, CONSUMER))
        if not info.num_pending and not info.num_ack_pending:
            return True
        return info.ack_floor is not None and info.ack_floor.stream_seq >= sequence

    # Bounds and errors.

    async def _ask(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`, if it comes before the connection ends, and in time."""
        task, ended = asyncio.create_task(work), asyncio.create_task(self.lost.wait())
        try:
            await asyncio.wait((task, ended), timeout=_ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not task.cancelled():
                return task.result()
            why = "the connection was lost" if self.lost.is_set() else "it does not answer"
            raise NatsError(f"{self._server}: {self._said or why}")
        finally:
            ended.cancel()
            # The library may take its time to end, or swallow that it was cancelled.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            task.cancel()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Have every error of the library, and of the network, raised as `NatsError`, or as `Overloaded`."""
        try:
            yield
        except NatsError:
            raise
        except TimeoutError:
            raise NatsError(f"{self._server}: {self._said or 'it does not answer'}") from None
        except nats.js.errors.APIError as error:
            if error.err_code == _FULL:
                raise Overloaded("the spool is full") from None
            raise NatsError(f"{self._server}: {error.description or 'JetStream is unavailable'}") from None
        except (nats.errors.Error, OSError, ValueError) as error:
            raise NatsError(f"{self._server}: {self._said or _text(error)}") from None

    async def _failed(self, error: Exception) -> None:
        if not isinstance(error, nats.errors.UnexpectedEOF):
            self._said = _text(error)

    async def _closed(self) -> None:
        self.lost.set()


def _text(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.removeprefix("nats: ").strip() or type(error).__name__
