"""What senders of ill will post, drawn by chance from a seed. Bytes only: who sends them is another's business."""

import gzip
import random
from collections.abc import Callable, Iterator

LARGE = 300_000

_BOMB = gzip.compress(b"\x00" * 2**20)


def hostile(rng: random.Random, good_path: str) -> list[bytes]:
    """The pieces of one connection's bytes. Some of them know a good token."""
    return rng.choice(_KINDS)(rng, good_path)


def requests(seed: int, good_path: str, number: int) -> Iterator[list[bytes]]:
    rng = random.Random(seed)
    for _ in range(number):
        yield hostile(rng, good_path)


def slow(rng: random.Random, good_path: str) -> tuple[bytes, bytes]:
    """What somebody sends at once, and what a byte at a time, never coming to its end: of a head, or of a body."""
    head, length, chunks = (b"", b"Content-Length: 10000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n")
    begun = f"POST {good_path} HTTP/1.1\r\nHost: x\r\n".encode()
    return begun + rng.choice([head, length, chunks]), b"1\r\nx\r\n" * 2000


def _request(path: str, *lines: str, body: bytes = b"", method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1") + body


def _wrong_token(rng: random.Random, good: str) -> list[bytes]:
    at = rng.randrange(len("/callbacks/"), len(good))
    path = good[:at] + rng.choice("0123456789abcdefG/%") + good[at + 1 :]
    return [_request(path if path != good else "/callbacks/x", "Content-Length: 2", body=b"{}")]


def _another_path(rng: random.Random, _good: str) -> list[bytes]:
    path = rng.choice(["/", "/.env", "/callbacks", "/callbacks/../livez", "/%00", "/" + "a" * 5000, "//", "/v1/vms"])
    return [_request(path, method=rng.choice(["GET", "POST", "PUT", "TRACE", "CONNECT"]))]


def _huge_by_word(rng: random.Random, good: str) -> list[bytes]:
    return [_request(good, f"Content-Length: {rng.randrange(LARGE, 10**12)}"), b"x" * 1000]


def _huge_by_deed(_chance: random.Random, good: str) -> list[bytes]:
    return [
        _request(good, "Transfer-Encoding: chunked"),
        *[b"8000\r\n" + b"x" * 0x8000 + b"\r\n"] * (LARGE // 0x8000 + 1),
    ]


def _crumbs(_chance: random.Random, good: str) -> list[bytes]:
    return [_request(good, "Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 2000, b"0\r\n\r\n"]


def _broken_off(rng: random.Random, good: str) -> list[bytes]:
    whole = _request(good, "Content-Length: 500", body=b"x" * 500)
    return [whole[: rng.randrange(len(whole))]]


def _malformed(rng: random.Random, good: str) -> list[bytes]:
    whole = bytearray(_request(good, "Content-Length: 20", "X-Header: y", body=b"x" * 20))
    for _ in range(rng.randrange(1, 6)):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    return [bytes(whole)]


def _garbage(rng: random.Random, _good: str) -> list[bytes]:
    return [rng.randbytes(rng.randrange(1, 2000))]


def _smuggled(_chance: random.Random, good: str) -> list[bytes]:
    return [_request(good, "Content-Length: 4", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + _request(good))]


def _many_headers(_chance: random.Random, good: str) -> list[bytes]:
    return [_request(good, *[f"X-{number}: {'y' * 100}" for number in range(500)])]


def _odd_body(rng: random.Random, good: str) -> list[bytes]:
    """A body that a receiver has to keep, however odd."""
    body = rng.choice([b"[" * 100_000, b"\xff\xfe\x00" * 100, _BOMB, b"", b'{"a":' * 10_000, b"\x00" * 1000])
    return [_request(good, f"Content-Length: {len(body)}", "Content-Encoding: gzip", body=body)]


_KINDS: tuple[Callable[[random.Random, str], list[bytes]], ...] = (
    _wrong_token,
    _another_path,
    _huge_by_word,
    _huge_by_deed,
    _crumbs,
    _broken_off,
    _malformed,
    _garbage,
    _smuggled,
    _many_headers,
    _odd_body,
)
