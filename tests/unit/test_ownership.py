"""The marks: made within the provider's limits, known again however it changes them, and never taken for another's."""

import gc
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.core import ownership
from service.core.observation import Observation
from service.core.ownership import Tags, callback_url, creation_label, creation_name, has_tag_of, names_of, ref_of
from service.core.token import CreationRef, mint

SECRET = b"a secret of thirty-two characters"
OTHER = b"another secret, which is as long."
REF = CreationRef(UUID("0198c0de-0000-7000-8000-00000000beef"), 7)
PATTERNS = (
    "{name}",
    "{name}-{i}",
    "{name}{i}",
    "{name}_{i}",
    "{name}-{i:02}",
    "{name}.{i}",
    "{name} ({i})",
    "{i}-{name}",
)

refs = st.builds(CreationRef, st.uuids(), st.integers(0, 99_999))
bases = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=50)


def shown(**fields):
    return Observation(provider_id=1, **fields)


def named(name):
    return names_of(shown(name=name))


@given(bases, st.builds(CreationRef, st.uuids(), st.integers(0, 5_100)))
def test_a_name_leaves_room_for_numbering_within_fifty_characters(base, ref):
    name = creation_name(base, ref)
    assert len(f"{name}-20") <= 50
    assert name.endswith("x")


def test_a_long_name_is_cut_and_a_short_one_is_not():
    assert creation_name("train", REF) == "train-000000beef-7x"
    assert creation_name("x" * 50, REF) == "x" * 33 + "-000000beef-7x"


@settings(max_examples=200)
@given(bases, refs, st.sampled_from(PATTERNS), st.integers(1, 20))
def test_a_name_is_known_again_under_any_numbering_and_case(base, ref, pattern, number):
    # karpenter-provider-hetzner #61 (field-notes.md section 1): a mark that is written has to be read back.
    name = creation_name(base, ref)
    numbered = pattern.format(name=name, i=number)
    for spelling in (str, str.lower, str.upper):
        assert name.lower() in named(spelling(numbered))


def test_a_number_before_the_name_may_be_a_part_of_it_or_not():
    assert named("3-train-000000beef-7x") == ("3-train-000000beef-7x", "train-000000beef-7x")


@settings(max_examples=300)
@given(
    bases,
    refs,
    refs,
    st.sampled_from(PATTERNS[:7]),
    st.sampled_from(PATTERNS[:7]),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_no_numbering_turns_the_name_of_one_creation_into_that_of_another(base, one, other, first, second, i, j):
    assume(creation_name(base, one) != creation_name(base, other))
    a = named(first.format(name=creation_name(base, one), i=i))
    b = named(second.format(name=creation_name(base, other), i=j))
    assert not {creation_name(base, other).lower()} & set(a)
    assert not {creation_name(base, one).lower()} & set(b)


@given(bases, st.uuids(), st.integers(0, 9_999), st.integers(0, 9_999))
def test_creations_of_one_submission_never_share_a_name(base, submission_id, one, other):
    assume(one != other)
    names = [creation_name(base, CreationRef(submission_id, number)) for number in (one, other)]
    assert names[0] != names[1]
    assert not names[0].startswith(names[1])


@pytest.mark.parametrize(
    "name", [None, "", "train", "train-1", "train-000000beef-7", "train-00000beef-7x", "-x", "x" * 500]
)
def test_a_name_of_another_form_is_nobodys(name):
    assert named(name) == ()


@given(st.text(max_size=60))
def test_no_name_raises(name):
    assert all(one in name.lower() for one in named(name))


@given(refs)
def test_the_label_alone_names_the_creation(ref):
    label = creation_label(ref)
    for labels in ((label,), ("mine", label), (label.upper(),), (f" {label} ",)):
        assert ref_of(shown(labels=labels), [SECRET]) == ref


@pytest.mark.parametrize(
    "labels", [(), ("mine",), ("rollcall-",), ("rollcall-0198c0de00007000800000000000beef",), ("rollcall-zz-1",)]
)
def test_other_labels_name_nothing(labels):
    assert ref_of(shown(labels=labels), [SECRET]) is None


@given(refs, st.sampled_from(["", "/", "?a=1", "#x", "/?a=1"]))
def test_the_callback_url_alone_names_the_creation_whatever_its_case(ref, tail):
    # basilica (field-notes.md section 1): the provider lowercases the query, and perhaps more of the URL.
    url = callback_url("https://rollcall.example.com/", ref, SECRET)
    assert url.startswith("https://rollcall.example.com/callbacks/")
    for spelling in (str, str.lower, str.upper):
        assert ref_of(shown(callback_url=spelling(url + tail)), [OTHER, SECRET]) == ref


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://rollcall.example.com/callbacks/",
        "https://rollcall.example.com/callbacks/abc",
        "http://[::1",
        "http://[not-an-address]/callbacks/x",
        "\0",
        f"https://elsewhere.example/callbacks/{mint(REF, OTHER)}",
    ],
)
def test_other_urls_name_nothing_and_forged_ones_do_not_either(url):
    assert ref_of(shown(callback_url=url), [SECRET]) is None


def test_a_forged_url_does_not_hide_the_label():
    forged = callback_url("https://rollcall.example.com", REF, OTHER)
    assert ref_of(shown(callback_url=forged, labels=(creation_label(REF),)), [SECRET]) == REF


def test_the_url_wins_over_the_label_since_it_is_proved():
    other = CreationRef(REF.submission_id, 8)
    url = callback_url("https://rollcall.example.com", REF, SECRET)
    assert ref_of(shown(callback_url=url, labels=(creation_label(other),)), [SECRET]) == REF


def test_a_fleet_that_is_named_after_a_vm_of_another_is_not_taken_for_it():
    theirs = CreationRef(REF.submission_id, 8)
    name = creation_name("train", REF)
    named_after = creation_name(name, theirs)
    assert name in named_after
    for seen in (
        shown(name=f"{named_after}-1"),
        shown(name=f"{named_after}-1", labels=(creation_label(theirs),)),
        shown(name=f"{name}-1", labels=(creation_label(theirs),)),
    ):
        assert not has_tag_of(seen, ref=REF, name=name, secrets=[SECRET])


@given(bases, refs, st.sampled_from([*PATTERNS, "({i}) {name}"]), st.integers(1, 20))
def test_a_name_marks_a_vm_where_nothing_else_does(base, ref, pattern, number):
    name = creation_name(base, ref)
    assert has_tag_of(shown(name=pattern.format(name=name.upper(), i=number)), ref=ref, name=name, secrets=[SECRET])


CREATIONS = [CreationRef(REF.submission_id, number) for number in range(3)]
BASE = "a-fleet"
URLS = [
    callback_url("https://r.example.com", ref, secret) for ref in CREATIONS for secret in (SECRET, OTHER, b"forged")
]
TAGGED = st.builds(
    lambda **fields: fields,
    callback_url=st.none() | st.sampled_from(URLS) | st.just("https://elsewhere.example.com/callbacks/ff"),
    labels=st.lists(st.sampled_from([*map(creation_label, CREATIONS), "other"]), max_size=2).map(tuple),
    name=st.none() | st.builds(
        lambda pattern, ref, i: pattern.format(name=creation_name(BASE, ref), i=i),
        st.sampled_from((*PATTERNS, "x{name}", "another")), st.sampled_from(CREATIONS), st.integers(1, 20),
    ),
)  # fmt: skip


@given(st.lists(TAGGED, max_size=12), st.lists(TAGGED, max_size=3))
def test_indexed_tags_find_the_vms_that_carry_a_tag_and_no_others(before, after):
    tags = Tags([SECRET, OTHER])
    vms = [Observation(provider_id=number, **fields) for number, fields in enumerate([*before, *after], 1)]
    for vm in vms:
        tags.add(vm)
    for ref in CREATIONS:
        name = creation_name(BASE, ref)
        expected = [vm for vm in vms if has_tag_of(vm, ref=ref, name=name, secrets=[SECRET, OTHER])]
        found = {vm.provider_id: vm for vm in tags.of(ref=ref, name=name)}
        assert sorted(found) == [vm.provider_id for vm in expected]
        assert [tags.ref_of(vm) for vm in vms] == [ref_of(vm, [SECRET, OTHER]) for vm in vms]


def test_a_token_is_verified_once_however_many_creations_are_looked_for(monkeypatch):
    verified = []
    sound = ownership.verify
    monkeypatch.setattr(ownership, "verify", lambda token, secrets: verified.append(token) or sound(token, secrets))
    tags = Tags([SECRET])
    of = [CreationRef(REF.submission_id, number) for number in range(200)]
    for number in range(1000):
        url = callback_url("https://r.example.com", of[number % 200], SECRET)
        tags.add(Observation(provider_id=number, callback_url=url))
    for ref in (*of, *of):
        assert len(tags.of(ref=ref, name=creation_name(BASE, ref))) == 5
    assert len(verified) == 1000


def test_a_vm_of_a_list_is_nothing_that_the_garbage_collector_goes_through():
    """A list of a large fleet is 100,000 of them, and a collection runs on the event loop."""
    one = shown(name="train", labels=(f"rollcall-{'0' * 32}-1",), status="ACTIVE")
    assert not gc.is_tracked(one)
