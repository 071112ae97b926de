"""Where webhooks may lead: nowhere inside, however the address is written."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.notify.addresses import refusal

OWN = frozenset({("127.0.0.1", 8080), ("10.0.0.7", 8081)})
INSIDE = ["127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.1", "198.18.0.1", "240.0.0.1"]
INSIDE_V6 = ["::1", "fd00::1", "fc00::7", "2001:db8::1", "fec0::1"]
NEVER = [
    "169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "100.100.100.200",
    "224.0.0.1",
    "ff02::1",
    "0.0.0.0",
    "::",
]
OUTSIDE = ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101", "2002:101:101::1"]


def embedded(address: str) -> list[str]:
    """The ways to write an IPv4 address inside of an IPv6 one."""
    number = int(ipaddress.IPv4Address(address))
    high, low = number >> 16, number & 0xFFFF
    return [
        f"::ffff:{address}",
        f"64:ff9b::{address}",
        f"64:ff9b:1::{address}",
        f"2002:{high:x}:{low:x}::1",
        f"::{address}",
    ]


@pytest.mark.parametrize("address", [*INSIDE, *INSIDE_V6])
def test_private_addresses_need_the_setting(address: str) -> None:
    assert "ROLLCALL_NOTIFY_PRIVATE" in (refusal(address, 443, private=False, own=OWN) or "")
    assert refusal(address, 443, private=True, own=OWN) is None


@pytest.mark.parametrize("address", NEVER)
@pytest.mark.parametrize("private", [True, False])
def test_link_local_and_metadata_addresses_are_refused_whatever_is_set(address: str, private: bool) -> None:
    assert refusal(address, 80, private=private, own=OWN) is not None


@pytest.mark.parametrize("address", OUTSIDE)
def test_public_addresses_are_free(address: str) -> None:
    assert refusal(address, 443, private=False, own=OWN) is None


@pytest.mark.parametrize("port", [8080, 8081])
@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_our_own_listeners_are_refused_even_if_private_addresses_are_allowed(address: str, port: int) -> None:
    assert refusal(address, port, private=True, own=OWN) == "it leads to Rollcall itself"


def test_a_listener_on_an_address_of_its_own_is_refused_there_too() -> None:
    assert refusal("10.0.0.7", 8081, private=True, own=OWN) == "it leads to Rollcall itself"
    assert refusal("10.0.0.7", 8080, private=True, own=OWN) is None


@given(st.ip_addresses(v=4), st.booleans())
def test_an_ipv4_address_inside_of_an_ipv6_one_is_judged_as_itself(
    address: ipaddress.IPv4Address, private: bool
) -> None:
    plain = refusal(str(address), 443, private=private, own=OWN)
    if int(address) > 1:  # ::0.0.0.0 and ::0.0.0.1 are addresses of their own
        for written in embedded(str(address)):
            assert (refusal(written, 443, private=private, own=OWN) is None) == (plain is None), written
