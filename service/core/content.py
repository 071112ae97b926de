"""Decompresses bodies. Stored bodies stay as received."""

import zlib
from typing import Final

#: The largest decompressed body, in bytes. Larger ones are decompression bombs, or no callbacks.
MOST_BYTES: Final = 2**20
#: How gzip (RFC 1952) and zlib (RFC 1950, `Content-Encoding: deflate`) begin. No JSON does.
_GZIP: Final = b"\x1f\x8b"
_ZLIB: Final = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_EITHER: Final = zlib.MAX_WBITS | 32


def unpacked(body: bytes) -> bytes:
    """The body without gzip or zlib compression, recognised by its first bytes. Raises ValueError if damaged or too large."""
    if not body.startswith((_GZIP, *_ZLIB)):
        return body
    unpack = zlib.decompressobj(_EITHER)
    try:
        whole = unpack.decompress(body, MOST_BYTES)
    except zlib.error:
        raise ValueError("damaged compression") from None
    if unpack.unconsumed_tail:
        raise ValueError(f"more than {MOST_BYTES} bytes when unpacked")
    if not unpack.eof:
        raise ValueError("truncated compression")
    return whole
