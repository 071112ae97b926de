"""Callback tokens: who they are of, and that nobody else can make them."""

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.config import _MAX_PUBLIC_URL
from service.core.ownership import callback_url
from service.core.token import TOKEN_LENGTH, CreationRef, mint, redact, verify

SECRET = b"a secret of thirty-two characters"
OTHER = b"another secret, which is as long."
REF = CreationRef(UUID("0198c0de-0000-7000-8000-00000000beef"), 7)

refs = st.builds(CreationRef, st.uuids(), st.integers(0, 0xFFFFFF))
secrets = st.binary(min_size=1, max_size=80)


@given(refs, secrets)
def test_a_token_names_its_creation(ref, secret):
    token = mint(ref, secret)
    assert verify(token, [secret]) == ref
    assert len(token) == TOKEN_LENGTH


@given(refs, secrets)
def test_a_token_is_lowercase_hex_only(ref, secret):
    # basilica (field-notes.md section 1): a mixed-case token never matched, since the provider lowercases it.
    assert set(mint(ref, secret)) <= set("0123456789abcdef")


@pytest.mark.parametrize("position", range(TOKEN_LENGTH))
def test_a_token_with_any_other_character_is_refused(position):
    token = mint(REF, SECRET)
    for other in set("0123456789abcdefg-A\0é") - {token[position]}:
        assert verify(token[:position] + other + token[position + 1 :], [SECRET]) is None


@settings(max_examples=200)
@given(st.text(max_size=100) | st.text(st.sampled_from("0123456789abcdef"), min_size=60, max_size=75))
def test_text_of_any_kind_is_refused_and_never_raises(text):
    assert verify(text, [SECRET, OTHER]) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: "",
        lambda token: token[:-1],
        lambda token: token + "0",
        lambda token: token.upper(),
        lambda token: " " + token[1:],
        lambda token: token + "\n",
        lambda token: token[:-1] + "é",
        lambda token: token[:-1] + "\ud800",
        lambda token: "\uff10" * TOKEN_LENGTH,
        lambda token: token[:38] + "0" * 32,
        lambda token: "0" * TOKEN_LENGTH,
    ],
)
def test_a_token_of_another_form_is_refused(spoil):
    assert verify(spoil(mint(REF, SECRET)), [SECRET]) is None


def test_every_secret_verifies_and_only_those():
    for secret in (SECRET, OTHER):
        assert verify(mint(REF, secret), [SECRET, OTHER]) == REF
        assert verify(mint(REF, secret), [OTHER, SECRET]) == REF
    assert verify(mint(REF, OTHER), [SECRET]) is None
    assert verify(mint(REF, SECRET), []) is None


@given(refs, refs)
def test_one_creations_mac_does_not_serve_another(one, other):
    if one != other:
        assert verify(mint(other, SECRET)[:38] + mint(one, SECRET)[38:], [SECRET]) is None


@pytest.mark.parametrize("number", [-1, 0x1000000, 10**12])
def test_a_creation_number_that_does_not_fit_is_an_error(number):
    with pytest.raises(ValueError, match="does not fit"):
        mint(CreationRef(REF.submission_id, number), SECRET)


def test_the_longest_public_url_leaves_a_url_that_the_provider_takes():
    longest = "https://" + "a" * (_MAX_PUBLIC_URL - len("https://"))
    assert len(callback_url(longest, REF, SECRET)) == 250


def test_a_token_is_redacted_down_to_the_creation_it_is_of():
    token = mint(REF, SECRET)
    shown = redact(f"posted to https://x.example/callbacks/{token}?a=1 and {token.upper()}")
    assert token[38:] not in shown.lower()
    assert shown == f"posted to https://x.example/callbacks/{token[:38]}…?a=1 and {token[:38].upper()}…"


@pytest.mark.parametrize("around", ["%2Fcallbacks%2F{}", '"\\n{}"', "_{}_", "00{}", "{}00"])
def test_a_token_is_redacted_whatever_stands_around_it(around):
    token = mint(REF, SECRET)
    assert token[38:] not in redact(around.format(token))


@given(st.text(max_size=80))
def test_text_without_a_token_is_left_as_it_is(text):
    assert redact(text) == text
