"""Which addresses a webhook may lead to. Asked of each address when it is connected to, so that no DNS answer can change
in between.
"""

import ipaddress
import socket
from collections.abc import Callable, Collection
from typing import Any, Final

from service.config import Settings, host_and_port

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: As aiohttp passes it: family, type, protocol, canonical name, and the address with its port.
AddrInfo = tuple[Any, Any, int, str, tuple[Any, ...]]

#: IPv6 networks whose last 32 bits are an IPv4 address (RFC 6052, and the deprecated compatible ones).
_EMBEDDING: Final = (
    ipaddress.IPv6Network("64:ff9b::/96"),
    ipaddress.IPv6Network("64:ff9b:1::/96"),
    ipaddress.IPv6Network("::/96"),
)
#: Metadata services that are not link-local: AWS over IPv6, Alibaba, Oracle.
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))


class AddressRefusedError(OSError):
    """A webhook leads where it must not."""


def refusal(host: str, port: int, *, private: bool, own: Collection[tuple[str, int]]) -> str | None:
    """Why nothing may be sent to an address, or None. `private` allows all but link-local addresses and `own` listeners."""
    address = _embedded(ipaddress.ip_address(host.partition("%")[0]))
    if address.is_link_local or address in _METADATA or address.is_multicast or address.is_unspecified:
        return "it leads to a link-local, multicast or metadata address"
    if address.is_global and not getattr(address, "is_site_local", False):
        return None
    if not private:
        return "it leads to a private address; ROLLCALL_NOTIFY_PRIVATE=true allows that"
    ours = any(port == number and (address.is_loopback or str(address) == place) for place, number in own)
    return "it leads to Rollcall itself" if ours else None


def _embedded(address: Address) -> Address:
    """The IPv4 address inside of an IPv6 address, if there is one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inside = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
    if inside is None and address not in {ipaddress.IPv6Address("::"), ipaddress.IPv6Address("::1")}:
        inside = next((ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) for net in _EMBEDDING if address in net), None)
    return inside or address


def listeners(settings: Settings) -> set[tuple[str, int]]:
    """The addresses and ports of our listeners."""
    return {host_and_port(settings.callback_listen), host_and_port(settings.api_listen)}


def guarded(settings: Settings) -> Callable[[AddrInfo], socket.socket]:
    """Makes the socket for an address that is about to be connected to. Raises `AddressRefusedError` instead."""
    ours, private = listeners(settings), settings.notify_private

    def make(info: AddrInfo) -> socket.socket:
        family, kind, protocol, _, place = info
        why = refusal(str(place[0]), int(place[1]), private=private, own=ours)
        if why is not None:
            raise AddressRefusedError(why)
        return socket.socket(family, kind, protocol)

    return make
