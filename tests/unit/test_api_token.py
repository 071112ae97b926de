"""How an API token is written, and how a damaged one is told from a wrong one."""

import string

from hypothesis import given
from hypothesis import strategies as st

from service.core.api_token import (
    ALLOWED,
    RANDOM,
    Role,
    digest_of,
    is_api_token,
    is_damaged,
    mint_api_token,
    roles_text,
)

RANDOM_BYTES = st.binary(min_size=RANDOM, max_size=RANDOM)
WRITTEN = st.sampled_from(string.ascii_letters + string.digits)


@given(RANDOM_BYTES)
def test_a_token_is_as_long_as_every_other_and_recognized(random):
    token = mint_api_token(random)
    assert token.startswith("rollcall_")
    assert len(token) == 58
    assert token.isascii()
    assert is_api_token(token)
    assert not is_damaged(token)


@given(RANDOM_BYTES, RANDOM_BYTES)
def test_two_tokens_are_alike_only_if_their_random_bytes_are(one, other):
    assert (mint_api_token(one) == mint_api_token(other)) == (one == other)
    assert (digest_of(mint_api_token(one)) == digest_of(mint_api_token(other))) == (one == other)


@given(RANDOM_BYTES, st.integers(min_value=9, max_value=57), WRITTEN)
def test_a_character_that_was_mistyped_is_noticed(random, place, typed):
    token = mint_api_token(random)
    changed = token[:place] + typed + token[place + 1 :]
    assert is_damaged(changed) == (changed != token)


@given(RANDOM_BYTES, st.integers(min_value=9, max_value=57))
def test_a_token_that_was_cut_is_noticed(random, length):
    assert is_damaged(mint_api_token(random)[:length])


@given(st.text())
def test_what_does_not_begin_as_a_token_is_none_and_not_damaged(text):
    assert not is_api_token(text)
    assert is_damaged(text) == text.startswith("rollcall_")


def test_a_token_of_the_settings_is_not_damaged():
    assert not is_damaged("a-token-of-an-operator")


def test_an_administrator_may_do_all_and_an_auditor_changes_nothing():
    assert all(Role.ADMIN in roles for roles in ALLOWED.values())
    assert [needed for needed, roles in ALLOWED.items() if Role.AUDIT in roles] == [Role.READ, Role.AUDIT]
    assert roles_text(Role.SUBMIT) == "submit or admin"
    assert roles_text(Role.READ) == "read, submit, admin or audit"
