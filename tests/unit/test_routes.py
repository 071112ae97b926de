"""Where requests lead: two places exist, and everything else is one and the same nowhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_events import REF

from service.core.token import CreationRef, mint
from service.receiver.routes import Place, Routes

SECRET = b"a secret of thirty-two characters"
OLDER = b"an older secret of thirty-two char"
TOKEN = mint(REF, SECRET)


@pytest.fixture
def routes():
    return Routes((SECRET, OLDER))


def test_a_post_with_a_token_is_a_callback_of_its_creation_however_often(routes):
    assert [routes.find("POST", f"/callbacks/{TOKEN}") for _ in range(3)] == [REF] * 3


def test_a_token_of_an_older_secret_is_good(routes):
    assert routes.find("POST", f"/callbacks/{mint(REF, OLDER)}") == REF


def test_a_query_is_passed_over(routes):
    assert routes.find("POST", f"/callbacks/{TOKEN}?from=Infrahub") == REF


@pytest.mark.parametrize("rest", ["/", "/?from=Infrahub"])
def test_a_slash_after_the_token_is_accepted(routes, rest):
    assert routes.find("POST", f"/callbacks/{TOKEN}{rest}") == REF


@pytest.mark.parametrize(
    "target",
    [
        f"/callbacks/{TOKEN[:-1]}",
        f"/callbacks/{TOKEN}//",
        f"/callbacks/{TOKEN}/x",
        f"/callbacks/{TOKEN[:-1]}/",
        f"/callbacks/{TOKEN.upper()}",
        f"/callbacks//{TOKEN}",
        f"callbacks/{TOKEN}",
        f"/CALLBACKS/{TOKEN}",
        f"http://x/callbacks/{TOKEN}",
        f"/{TOKEN}",
        f"/callbacks/?{TOKEN}",
        "/callbacks/" + mint(REF, b"a secret that is not one of ours.."),
        "/livez/",
        "/",
        "",
        "*",
    ],
)
def test_nothing_else_is_there(routes, target):
    assert routes.find("POST", target) is Place.NOWHERE


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "post", "CONNECT"])
def test_only_a_post_is_a_callback_also_when_the_token_is_known(routes, method):
    routes.find("POST", f"/callbacks/{TOKEN}")
    assert routes.find(method, f"/callbacks/{TOKEN}") is Place.NOWHERE


@pytest.mark.parametrize(("method", "place"), [("GET", Place.LIVE), ("HEAD", Place.LIVE), ("POST", Place.NOWHERE)])
def test_whether_it_lives_is_asked_by_get_and_head(routes, method, place):
    assert routes.find(method, "/livez") is place


@given(method=st.text(max_size=8), target=st.text() | st.text("0123456789abcdef", min_size=70, max_size=70))
def test_no_target_raises_and_none_is_good_by_chance(method, target):
    routes = Routes((SECRET,))
    assert routes.find(method, f"/callbacks/{target}") is Place.NOWHERE
    assert isinstance(routes.find(method, target), Place)


def test_what_is_remembered_does_not_grow_without_end_and_is_never_wrong(routes):
    refs = [CreationRef(REF.submission_id, number) for number in range(5000)]
    targets = [f"/callbacks/{mint(ref, SECRET)}" for ref in refs]
    assert [routes.find("POST", target) for target in targets] == refs
    assert len(routes._genuine) <= 4096
    assert routes.find("POST", targets[0]) == refs[0]
