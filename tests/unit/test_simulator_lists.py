import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import VMS, Caller, refusal


def thirty(**given_settings):
    caller = Caller(**given_settings)
    for name in ("first", "second"):
        caller.made(name=name, count=15)
    return caller


def ids(content):
    return [vm["id"] for vm in content["instances"]]


def test_a_list_is_oldest_first():
    caller = Caller()
    made = [vm_id for name in ("b", "a", "c") for vm_id in caller.made(name=name)]
    assert ids(caller.listing()) == made


@pytest.mark.parametrize(("setting", "page", "size", "shown"), [("all", None, None, 30), ("first_10", 1, 10, 10)])
def test_what_a_list_without_paging_holds_is_configurable(setting, page, size, shown):
    content = thirty(unpaged=setting).listing()
    assert (content["page"], content["page_size"], len(content["instances"])) == (page, size, shown)


@pytest.mark.parametrize(("setting", "count"), [("total", 30), ("page", 7)])
def test_what_count_means_is_configurable(setting, count):
    assert thirty(count_means=setting).listing(page=2, pageSize=7)["count"] == count


def test_count_is_the_number_on_the_page_by_default():
    assert thirty().listing(page=2, pageSize=7)["count"] == 7


def test_what_count_means_may_differ_from_answer_to_answer():
    caller = thirty(count_means="mixed")
    assert {caller.listing(page=2, pageSize=7)["count"] for _ in range(20)} == {7, 30}


@pytest.mark.parametrize(("setting", "count"), [("total", 2), ("page", 1)])
@pytest.mark.parametrize("path", ["/core/environments?page=1&pageSize=1", "/pricebook/contracts?page=1&per_page=1"])
def test_what_count_means_holds_for_other_lists(setting, count, path):
    caller = Caller(count_means=setting, contracts=[{"id": 41}, {"id": 42}])
    assert caller.call("GET", path).json()["count"] == count


def test_a_page_is_no_larger_than_the_largest():
    content = thirty(max_page_size=20).listing(page=1, pageSize=1000)
    assert (content["page_size"], len(content["instances"])) == (20, 20)


def test_a_page_without_a_size_has_ten():
    assert len(thirty().listing(page=3)["instances"]) == 10


def test_pages_beyond_the_last_are_empty():
    assert thirty().listing(page=9, pageSize=10)["instances"] == []


@pytest.mark.parametrize("query", ["page=0", "page=-1", "page=x", "pageSize=0", "pageSize=1.5"])
def test_a_page_that_is_no_number_is_refused(query):
    assert refusal(Caller().call("GET", f"{VMS}?{query}"))[:2] == (400, "bad_request")


@given(st.integers(1, 40))
@settings(max_examples=20)
def test_the_pages_together_are_the_whole_list(size):
    caller = thirty()
    pages = [ids(caller.listing(page=page, pageSize=size)) for page in range(1, 32)]
    assert [vm_id for page in pages for vm_id in page] == ids(caller.listing())


def test_a_search_finds_part_of_the_name_in_any_case_and_the_id():
    caller = Caller()
    (one,) = caller.made(name="Fleet-Alpha")
    caller.made(name="other")
    assert caller.names(search="ALPH") == caller.names(search=one) == ["Fleet-Alpha"]
    assert caller.names(search="nothing") == []
    assert caller.listing(search="ALPH", page=1, pageSize=5)["count"] == 1


def test_an_environment_is_matched_in_part_or_exactly():
    caller = Caller(environments=[{"name": "test1"}, {"name": "test10"}])
    caller.made(name="one")
    caller.made(name="ten", environment_name="test10")
    assert caller.names(environment="TEST1") == ["one", "ten"]
    assert caller.names(environment="test1", exact_environment_match="true") == ["one"]


def test_a_list_lags_behind_a_create():
    caller = Caller(faults={"list_lag": 10})
    (vm_id,) = caller.made(name="new")
    assert caller.names() == caller.names(search="new") == []
    assert caller.vm(vm_id)["name"] == "new"
    caller.wait(10)
    assert caller.names(search="new") == ["new"]


def test_a_get_may_lag_as_well():
    caller = Caller(faults={"list_lag": 10, "get_lags": True})
    (vm_id,) = caller.made()
    assert caller.get(vm_id).status == 404
    caller.wait(10)
    assert caller.get(vm_id).status == 200


def test_labels_may_be_missing_from_create_get_and_list():
    caller = Caller(faults={"labels_emptied": 1})
    (shown,) = caller.create(labels=["mine"]).json()["instances"]
    assert (shown["labels"], caller.vm(shown["id"])["labels"]) == ([], [])
    assert caller.listing()["instances"][0]["labels"] == []
    assert caller.truth(shown["id"])["labels"] == ["mine"]


def test_a_list_may_omit_the_callback_url():
    caller = Caller(faults={"url_omitted": [2]})
    caller.made()
    assert ["callback_url" in caller.listing()["instances"][0] for _ in range(3)] == [True, False, True]


def test_a_later_page_may_be_shifted_by_one():
    caller = thirty(faults={"shifted_page": 1})
    whole = ids(caller.listing())
    assert ids(caller.listing(page=1, pageSize=10)) == whole[:10]
    assert ids(caller.listing(page=2, pageSize=10)) in (whole[9:19], whole[11:21])


def test_labels_are_replaced_as_a_whole():
    caller = Caller()
    (vm_id,) = caller.made(labels=["a"])
    reply = caller.call("PUT", f"{VMS}/{vm_id}/label", {"labels": ["b", "c"]})
    assert reply.json()["message"] == "labels for VM: vm is set to: ['b', 'c']"
    assert caller.vm(vm_id)["labels"] == ["b", "c"]
    for content in ({}, {"labels": "b"}, {"labels": [1]}, []):
        assert caller.call("PUT", f"{VMS}/{vm_id}/label", content).status == 400
    assert caller.call("PUT", f"{VMS}/1/label", {"labels": []}).status == 404


def test_a_names_availability_has_no_status():
    caller = Caller()
    caller.made(name="taken", count=2)
    path = f"{VMS}/name-availability"
    assert caller.call("GET", f"{path}/free").json() == {
        "name": "free",
        "available": True,
        "message": "This name is available",
    }
    assert caller.call("GET", f"{path}/taken?count=2").json()["available"] is False
    assert caller.call("GET", f"{path}/taken").json()["available"] is False
    assert caller.call("GET", f"{path}/taken-3").json()["available"] is True
    assert caller.call("GET", f"{path}/{'x' * 51}").json()["available"] is False
