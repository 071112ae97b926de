"""Listening sockets."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

_BACKLOG: Final = 1024


async def create_server(factory: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> asyncio.Server:
    """Listen on every address of `host`; `::` includes IPv4. Raises OSError if an address is not free."""
    loop = asyncio.get_running_loop()
    if host != "::":
        return await loop.create_server(factory, host, port, backlog=_BACKLOG)
    # asyncio creates IPv6 sockets that refuse IPv4.
    return await loop.create_server(factory, sock=_both_families(port), backlog=_BACKLOG)


def _both_families(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, False)
        made.bind(("::", port))
    except OSError:
        made.close()
        raise
    return made
