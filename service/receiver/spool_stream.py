"""A JetStream stream of NATS as the storage of the spool. It survives the machine, and any receiver drains it.

Groups are published as messages, each a small segment of `records`, and a group is durable when a quorum of the stream's
replicas has acknowledged all of it. Everybody drains through one durable consumer, and acknowledges what is in Postgres;
then the stream removes it. What a receiver takes and does not acknowledge, another gets later: an event is stored once
however often it is delivered.

A receiver uses Postgres again once all that it has published, or has found at its start, is acknowledged. So a receiver
that drains alone keeps the order of arrival. If several drain, one may be done with a message before another is with an
earlier one. That is harmless, as any order of drains is (tests/integration/test_spools_apart.py): it costs a refresh.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import msgspec
from nats.aio.msg import Msg

from service.config import Settings
from service.errors import Overloaded, StorageUnavailable
from service.receiver.error_boundary import ErrorBoundary, log
from service.receiver.nats_session import NatsError, NatsSession
from service.receiver.nats_stream import StreamState
from service.receiver.records import HEADER_BYTES, SALT_BYTES, Contents, header, pack, unpack
from service.runtime.health import Health
from service.spool_url import SpoolUrl
from service.storage.events import Event

#: Health issues: the stream may lose what it acknowledges; it holds messages that are not ours, or damaged.
_WEAK: Final = "spool stream"
_DAMAGED: Final = "spool messages"
#: Seconds until a group that the stream does not acknowledge is refused. Within them it is published again if a server
#: or the stream's leader goes away: the replicas agree on another leader within 4 to 10 seconds.
_APPEND_SECONDS: Final = 12.0
#: Seconds that anything else waits for a connection; between two attempts; and between them when no server will do.
_WAIT_SECONDS: Final = 2.0
_BREATH_SECONDS: Final = 0.2
_AWAY_SECONDS: Final = 1.0
#: Events share a message up to this many bytes.
_MESSAGE_BYTES: Final = 512 * 1024
#: Bytes of a message that an event may take besides its body: its headers above all.
_AROUND_BODY: Final = 64 * 1024


class StreamStorage:
    """A `SpoolStorage`: a stream, over one connection that is opened again for ever."""

    issue: Final = "spool server"
    look_seconds: Final = 1.0

    def __init__(self, health: Health, settings: Settings, url: SpoolUrl) -> None:
        self._health = health
        self._url = url
        self._most_bytes = settings.spool_max_bytes
        self._longest = longest(settings)
        self._public_url = settings.public_url
        self._session: NatsSession | None = None
        self._opened = asyncio.Event()
        #: Set once every server has been tried since the session was lost, or a session is open.
        self._tried = asyncio.Event()
        self._lost_at = time.monotonic()
        self._why_not = f"no connection to {url.shown}"
        self._connecting: asyncio.Task[None] | None = None
        self._in_hand: list[Msg] = []
        #: The sequence up to which messages must be in Postgres before our next callback is; None before the first look.
        self._ours: int | None = None
        self.bytes = 0
        self.left = 0

    async def open(self) -> None:
        """Connect, and see what the stream holds: all of that goes before new callbacks."""
        self._connecting = asyncio.create_task(self._keep_open(), name="spool: NATS")
        await self.look()

    async def append(self, group: Sequence[Event]) -> None:
        acknowledged: dict[str, int] = {}
        # Without a session, only for as long as a change of the leader may take: then refuse at once.
        since = time.monotonic() if self._session else self._lost_at
        try:
            async with asyncio.timeout(max(0.0, since + _APPEND_SECONDS - time.monotonic())):
                await self._publish(group, acknowledged)
        except TimeoutError:
            raise StorageUnavailable(f"the spool cannot be written: {self._why_not}") from None
        finally:
            self._ours = max([self._ours or 0, *acknowledged.values()])

    async def _publish(self, group: Sequence[Event], acknowledged: dict[str, int]) -> None:
        session = await self._ready()
        # Once, so that what is published again is the same.
        packed = await asyncio.to_thread(_packed, group, session.most_bytes)
        while not await self._is_published(session, packed, acknowledged):
            await asyncio.sleep(_BREATH_SECONDS)
            session = await self._ready()
        self.bytes += sum(map(len, packed.messages.values()))
        if packed.too_large:
            raise StorageUnavailable(f"a callback is larger than a message of the spool ({session.most_bytes} bytes)")

    async def _is_published(self, session: NatsSession, packed: "_Packed", acknowledged: dict[str, int]) -> bool:
        try:
            await session.publish(packed.messages, acknowledged)
        except NatsError as error:
            self._end(session, error)
            return False
        return True

    async def complete(self) -> Sequence["Messages"]:
        session = await self._current()
        with self._ending(session):
            # What could not be stored comes first again. Given back, later messages might overtake it.
            self._in_hand = self._in_hand or await session.pull()
        self.left = self._in_hand[-1].metadata.num_pending if self._in_hand else 0
        return [Messages(self, self._in_hand)] if self._in_hand else []

    async def is_drained(self) -> bool:
        session = await self._current()
        with self._ending(session):
            return await session.drained_up_to(self._ours or 0)

    async def look(self) -> bool:
        session = await self._current()
        with self._ending(session):
            state = await session.state()
        self._tell(state)
        is_first, self.bytes = self._ours is None, state.bytes
        if is_first:
            self._ours = state.last_sequence
        return is_first and state.waiting > 0

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._session is not None:
            with suppress(OSError):
                await self._session.give_back(self._in_hand)
            await self._session.close()

    async def remove(self, good: Sequence[Msg], bad: Sequence[Msg]) -> None:
        """Acknowledge messages, and move the bad ones out of the way."""
        session = await self._current()
        with self._ending(session):
            await session.acknowledge(good)
            if bad:
                log.error("spool.unreadable", messages=len(bad), outcome=f"moved to {self._url.stream}.damaged")
                with suppress(Overloaded):  # they come again, when there is room
                    await session.keep_damaged(bad)
        self._in_hand = []
        self.bytes = max(0, self.bytes - sum(len(one.data) for one in good))

    def _tell(self, state: StreamState) -> None:
        """Report and resolve health issues."""
        if not state.is_full:
            self._health.resolve(self.issue)
        damaged, name = state.damaged, self._url.stream
        issues = {
            _WEAK: f"the stream {name}: {'; '.join(state.weaknesses)}" if state.weaknesses else "",
            _DAMAGED: f"{damaged} messages in {name}.damaged are not ours, or damaged; look at them" if damaged else "",
        }
        for issue, text in issues.items():
            if text:
                self._health.report(issue, text, advisory=True)
            else:
                self._health.resolve(issue)

    # The session.

    async def _ready(self) -> NatsSession:
        """The session, as soon as there is one."""
        while self._session is None:
            await self._opened.wait()
        return self._session

    async def _current(self) -> NatsSession:
        """The session. Raises `NatsError` if there is none, and none is opened in a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._tried.wait()
        if self._session is None:
            raise NatsError(self._why_not)
        return self._session

    async def _keep_open(self) -> None:
        """Open a session, and another whenever it is lost, at one server after another."""
        servers = deque(self._url.servers)
        servers.rotate(secrets.randbelow(len(servers)))  # not all receivers at one server
        failures = 0
        while True:
            session = None
            with ErrorBoundary("spool.connect"):
                session = await self._open_at(servers[0])
            servers.rotate(-1)
            if session is None:
                failures += 1
                if is_away := failures >= len(servers):
                    self._tried.set()
                await asyncio.sleep(_AWAY_SECONDS if is_away else _BREATH_SECONDS)
                continue
            failures = 0
            try:
                await session.lost.wait()
            finally:
                self._end(session, NatsError("the connection was lost"))
                await session.close()

    async def _open_at(self, server: str) -> NatsSession | None:
        try:
            session = await NatsSession.connect(self._url, server, public_url=self._public_url)
            try:
                state = await session.prepare(most_bytes=self._most_bytes, longest=self._longest)
                self._session = session
            finally:
                if self._session is not session:
                    await session.close()
        except OSError as error:
            self._why_not = str(error)
            return None
        self._tell(state)
        self._opened.set()
        self._tried.set()
        log.info("spool.connected", server=server, replicas=state.replicas)
        return session

    @contextmanager
    def _ending(self, session: NatsSession) -> Iterator[None]:
        """End the session if it fails, so that another is opened."""
        try:
            yield
        except NatsError as error:
            self._end(session, error)
            raise

    def _end(self, session: NatsSession, error: NatsError) -> None:
        session.lost.set()
        if session is self._session:
            self._session, self._lost_at, self._why_not = None, time.monotonic(), str(error)
            self._opened.clear()
            self._tried.clear()


def longest(settings: Settings) -> int:
    """Bytes of a message that an event needs at most, unless its headers are extraordinary."""
    return settings.callback_max_bytes + _AROUND_BODY


class Messages:
    """A `SpoolPart`: messages that were pulled together."""

    def __init__(self, storage: StreamStorage, messages: Sequence[Msg]) -> None:
        self._storage, self._messages = storage, messages
        self._good: list[Msg] = []
        self._bad: list[Msg] = []

    @property
    def name(self) -> str:
        sequences = [one.metadata.sequence.stream for one in self._messages]
        return f"{min(sequences)}-{max(sequences)}"

    async def read(self) -> Contents | None:
        found = await asyncio.to_thread(lambda: [_read(one.data) for one in self._messages])
        for one, contents in zip(self._messages, found, strict=True):
            (self._bad if contents.unreadable else self._good).append(one)
        events = [event for contents in found for event in contents.events]
        return Contents(events, sum(contents.unreadable for contents in found))

    async def remove(self, contents: Contents) -> None:  # noqa: ARG002  which messages are bad is more than it says
        await self._storage.remove(self._good, self._bad)


@dataclass(frozen=True, slots=True)
class _Packed:
    """Messages by their ids, which are those of their first events, and how many events were too large for any."""

    messages: dict[str, bytes]
    too_large: int


def _packed(group: Sequence[Event], most_bytes: int) -> _Packed:
    """Events in their order, in as few messages as sensible."""
    salt = secrets.token_bytes(SALT_BYTES)
    messages: dict[str, bytearray] = {}
    latest, too_large = "", 0
    for event in group:
        record = pack(event, salt)
        if HEADER_BYTES + len(record) > most_bytes:
            too_large += 1
            continue
        if not latest or len(messages[latest]) + len(record) > min(most_bytes, _MESSAGE_BYTES):
            latest = event.event_id.hex
            messages[latest] = bytearray(header(salt))
        messages[latest] += record
    return _Packed({key: bytes(data) for key, data in messages.items()}, too_large)


def _read(message: bytes) -> Contents:
    """The events of a message that Postgres can take. Whoever may publish may have published anything."""
    try:
        contents = unpack(message)
        sound = [one for one in contents.events if _is_sound(one)]
    except (ValueError, TypeError, AttributeError, OverflowError):
        sound, contents = [], Contents([], len(message))
    unsound = len(contents.events) - len(sound)
    return Contents(sound, contents.unreadable + unsound or int(not sound))


def _is_sound(event: Event) -> bool:
    """Whether a receiver may have made it."""
    msgspec.convert(msgspec.structs.asdict(event), Event)
    texts = (event.peer or "", *event.headers, *event.headers.values())
    return event.source == "callback" and 0 <= event.creation_no < 2**31 and not any("\0" in text for text in texts)
