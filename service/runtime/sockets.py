"""Listening sockets. No protocol."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

_BACKLOG: Final = 1024


async def create_server(factory: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> asyncio.Server:
    """Listen at every address of `host`; `::` takes IPv4 too. Raises OSError if an address cannot be had."""
    loop = asyncio.get_running_loop()
    if host != "::":
        return await loop.create_server(factory, host, port, backlog=_BACKLOG)
    # asyncio makes sockets of IPv6 that refuse IPv4.
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
