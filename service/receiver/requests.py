"""From a connection's bytes to its requests: what the HTTP parser tells is gathered here, and refused as early as can be.

Nothing is written from here and no time is kept; that is the connection's part. Bodies are taken as they come: not
parsed, not decoded, not decompressed.
"""

from typing import Final, Protocol

import httptools

from service.core.token import CreationRef
from service.receiver import answers
from service.receiver.answers import Answer
from service.receiver.arrival import KEPT_HEADERS
from service.receiver.desk import Desk
from service.receiver.edge import report
from service.receiver.routes import Place, find

#: Bytes of request line and headers together; proxies in front allow no more either.
MOST_HEAD: Final = 16_384
#: What chunks may be framed with, and trailers, beside the bytes that they carry.
MOST_FRAMING: Final = 2**18


class Listener(Protocol):
    """Who is told of requests."""

    def begins(self) -> None:
        """The first byte of a request is here."""

    def headed(self, *, invite: bool) -> None:
        """The headers are here and lead somewhere. `invite`: the sender waits for a word before it sends the body."""

    def hears(self, ref: CreationRef, body: bytes, headers: dict[str, bytes], held: int, *, keep_alive: bool) -> None:
        """A callback is complete. Its body was counted as held, `held` bytes of it, and is the listener's now."""

    def asked_if_alive(self, *, keep_alive: bool, without_body: bool) -> None:
        """A request for `/livez` is complete."""

    def refuses(self, answer: Answer, *, without_body: bool) -> None:
        """The request is answered so, and nothing that comes after it is of interest."""


class Requests:
    """Reads one connection's requests. After a refusal it reads no more."""

    def __init__(self, desk: Desk, listener: Listener) -> None:
        self._desk = desk
        self._listener = listener
        self._parser = httptools.HttpRequestParser(self)
        self._raw = 0  # bytes since the last whole request
        self.ended = False
        #: A request has begun and is not complete.
        self.begun = False
        self._held = 0  # bytes of the body so far, counted in the bounds
        self._body: list[bytes] = []
        self._headers: dict[str, bytes] = {}
        self._place: CreationRef | Place = Place.NOWHERE
        self._forget()

    def feed(self, data: bytes) -> None:
        """Read on. Never raises."""
        if self.ended:
            return
        self._raw += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The request was read as any other, and whatever it would change to is nothing that we speak.
            self._parser = httptools.HttpRequestParser(self)
            self.feed(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            report("callback.read", error)  # what our own methods below raised, wrapped by the parser
            self.refuse(answers.NOT_KEPT)
        except httptools.HttpParserError:
            self.refuse(answers.MALFORMED)
        else:
            self._weigh()

    def refuse(self, answer: Answer) -> None:
        """Answer the present request so, and read no more."""
        if not self.ended:
            self.stop()
            self._listener.refuses(answer, without_body=self._method == b"HEAD")

    def stop(self) -> None:
        """Read no more, and let go of what was held."""
        self.ended = True
        self._let_go()

    # What the parser calls. `_in_body` is also true after the body, while trailers come.

    def on_message_begin(self) -> None:
        self.begun = True
        self._listener.begins()

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            return
        name = name.lower()
        kept = KEPT_HEADERS.get(name)
        if kept:
            before = self._headers.get(kept)
            self._headers[kept] = value if before is None else before + b", " + value
        elif name == b"content-length":
            self._declared = int(value)  # the parser refuses what is no number
        elif name == b"expect":
            self._expects = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        if self.ended:
            return
        self._in_body = True
        self._method = self._parser.get_method()
        self._place = find(self._method, self._target, self._desk.secrets)
        if self._place is Place.NOWHERE:
            self.refuse(answers.NOT_FOUND)
        elif self._declared > self._desk.limits.most_body:
            self.refuse(answers.TOO_LARGE)
        else:
            self._listener.headed(invite=self._expects)

    def on_body(self, part: bytes) -> None:
        if self.ended:
            return
        if self._held + len(part) > self._desk.limits.most_body:
            self.refuse(answers.TOO_LARGE)
        elif self._desk.bounds.take(len(part)):
            self._held += len(part)
            self._body.append(part)
        else:
            self.refuse(answers.BUSY)

    def on_message_complete(self) -> None:
        if self.ended:
            return
        keep_alive = self._parser.should_keep_alive()
        self.begun = False
        self._raw = 0
        self.ended = not keep_alive
        if isinstance(self._place, CreationRef):
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._listener.hears(self._place, body, self._headers, self._held, keep_alive=keep_alive)
        else:
            self._let_go()
            self._listener.asked_if_alive(keep_alive=keep_alive, without_body=self._method == b"HEAD")
        self._forget()

    def _weigh(self) -> None:
        if not self._in_body and self._raw > MOST_HEAD:
            self.refuse(answers.HEAD_TOO_LARGE)
        elif self._raw > 2 * self._desk.limits.most_body + MOST_HEAD + MOST_FRAMING:
            self.refuse(answers.TOO_LARGE)

    def _let_go(self) -> None:
        self._desk.bounds.give(self._held)
        self._held = 0
        self._body.clear()

    def _forget(self) -> None:
        """Begin the next request with nothing of the last."""
        self._method = b""
        self._target = b""
        self._headers = {}
        self._declared = 0
        self._expects = False
        self._in_body = False
        self._place = Place.NOWHERE
        self._body = []
        self._held = 0
