"""Daemons may share a database exactly if each takes what the other creates."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.shared_settings import SharedSettings, differences, fingerprint
from service.core.token import CreationRef, mint, verify

REF = CreationRef(UUID(int=7), 1)
SECRETS = st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True).map(
    lambda numbers: [f"secret number {number} of thirty-two characters".encode() for number in numbers]
)


def shared(secrets: list[bytes], **changes: str | None) -> SharedSettings:
    given = {"public_url": "https://a.example", "provider_url": "https://provider.example/v1", **changes}
    return SharedSettings([fingerprint(one) for one in secrets], given["public_url"], given["provider_url"])


@given(ours=SECRETS, theirs=SECRETS)
def test_running_daemons_agree_if_and_only_if_each_accepts_the_callback_urls_of_the_other(
    ours: list[bytes], theirs: list[bytes]
) -> None:
    accepted = verify(mint(REF, theirs[0]), ours) == REF and verify(mint(REF, ours[0]), theirs) == REF
    assert (differences(shared(ours), shared(theirs), "x", running=True) == []) is accepted


@given(ours=SECRETS, theirs=SECRETS)
def test_after_a_daemon_that_has_stopped_the_callback_urls_that_it_left_behind_must_be_accepted(
    ours: list[bytes], theirs: list[bytes]
) -> None:
    accepted = verify(mint(REF, theirs[0]), ours) == REF
    assert (differences(shared(ours), shared(theirs), "x", running=False) == []) is accepted


@pytest.mark.parametrize(
    ("changes", "running", "refused"),
    [
        ({"public_url": "https://b.example"}, True, ["ROLLCALL_PUBLIC_URL"]),
        ({"public_url": "https://b.example"}, False, []),
        ({"public_url": None}, True, []),
        ({"provider_url": "https://staging.example/v1"}, True, ["ROLLCALL_INFRAHUB_URL"]),
        ({"provider_url": "https://staging.example/v1"}, False, ["ROLLCALL_INFRAHUB_URL"]),
    ],
)
def test_urls_that_differ_are_named(changes: dict[str, str | None], running: bool, refused: list[str]) -> None:
    secrets = [b"a secret of thirty-two characters"]
    found = differences(shared(secrets), shared(secrets, **changes), "x", running=running)
    assert [one.field for one in found] == refused


def test_no_part_of_a_secret_is_in_what_is_said() -> None:
    ours, theirs = b"first secret of thirty-two characters", b"other secret of thirty-two characters"
    for running in (True, False):
        (found,) = differences(shared([ours]), shared([theirs]), "host:1", running=running)
        assert fingerprint(theirs) in found.message
        assert "secret of thirty" not in found.message
