import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import VMS, Caller, statuses_of

BOOT = 40


def booted(**settings_):
    """A VM of one family with an address, and its callbacks until it had one."""
    caller = Caller(**settings_)
    (vm_id,) = caller.made(assign_floating_ip=True)
    return caller, vm_id, caller.wait(BOOT)


def statuses(deliveries):
    return [status for _, status, _ in statuses_of(deliveries)]


@pytest.mark.parametrize(
    ("family", "create", "attach", "delete"),
    [
        (
            "A",
            [("createVM", "CREATING"), ("createVM", "BUILD"), ("createVM", "SUCCESS")],
            [("attachFloatingIP", "ATTACHING"), ("attachFloatingIP", "SUCCESS")],
            [("deleteVM", "DELETING"), ("deleteVM", "SUCCESS")],
        ),
        (
            "B",
            [("createInstance", "CREATING"), ("createInstance", "building"), ("createInstance", "ACTIVE")],
            [("attachFloatingIPToInstance", "ATTACHING"), ("attachFloatingIPToInstance", "ATTACHED")],
            [("deleteInstances", "DELETING"), ("deleteInstances", "DELETED")],
        ),
        (
            "C",
            [
                ("InstanceCreationSuccess", "CREATING"),
                ("InstanceCreationSuccess", "BUILD"),
                ("InstanceCreationSuccess", "ACTIVE"),
            ],
            [("AttachFloatingIPToInstanceSuccess", "ATTACHING"), ("AttachFloatingIPToInstanceSuccess", "ATTACHED")],
            [("InstanceDeleteSuccess", "DELETING"), ("InstanceDeleteSuccess", "DELETED")],
        ),
    ],
)
def test_each_family_has_its_own_names(family, create, attach, delete):
    caller, vm_id, deliveries = booted(families=[family])
    assert [(name, status) for name, status, _ in statuses_of(deliveries)] == create + attach
    caller.call("DELETE", f"{VMS}/{vm_id}")
    deliveries = caller.wait(20)
    assert [(name, status) for name, status, _ in statuses_of(deliveries)] == delete
    assert [data for _, _, data in statuses_of(deliveries)] == ["DELETING", "DELETED"]


@pytest.mark.parametrize(
    ("family", "reported"),
    [("A", ("deleteVM", "FAILED")), ("B", ("deleteInstance", "FAILED")), ("C", ("InstanceDeleteFailed", "ACTIVE"))],
)
def test_each_family_has_its_own_way_to_fail(family, reported):
    caller = Caller(families=[family], faults={"vms": {"delete_failed": 1}})
    vm_id = caller.active()
    caller.call("DELETE", f"{VMS}/{vm_id}")
    assert [(name, status) for name, status, _ in statuses_of(caller.wait(20))][-1] == reported


def test_a_body_has_the_composed_shape():
    _, vm_id, deliveries = booted(families=["B"], callback_ids="text")
    assert json.loads(deliveries[2].body) == {
        "resource": {"id": str(vm_id), "name": "vm", "type": "virtual_machine"},
        "operation": {"name": "createInstance", "status": "ACTIVE"},
        "data": {"id": vm_id, "name": "vm", "status": "ACTIVE", "floating_ip": "", "fixed_ip": "10.7.189.143"},
    }
    assert json.loads(deliveries[-1].body)["data"]["floating_ip"].startswith("198.")
    assert deliveries[0].headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(("ids", "kinds"), [("text", {str}), ("number", {int}), ("mixed", {int, str})])
def test_the_id_is_text_or_number(ids, kinds):
    caller = Caller(callback_ids=ids)
    caller.made(count=20)
    assert {type(json.loads(delivery.body)["resource"]["id"]) for delivery in caller.wait(BOOT)} == kinds


def test_variety_leaves_things_out_and_changes_their_case():
    caller = Caller(callback_variety=0.5)
    caller.made(count=20)
    contents = [json.loads(delivery.body) for delivery in caller.wait(BOOT)]
    assert {frozenset(content["resource"]) for content in contents} > {frozenset({"id"})}
    assert {"data" in content for content in contents} == {True, False}
    assert {"CREATING", "creating", "Creating"} <= {content["operation"]["status"] for content in contents}


def test_a_vm_without_a_url_sends_no_callback():
    caller = Caller()
    caller.made(callback_url=None)
    assert caller.wait(BOOT) == []


def test_callbacks_go_where_they_were_attached_last():
    caller = Caller()
    (vm_id,) = caller.made(callback_url=None)
    path = f"{VMS}/{vm_id}"
    assert caller.call("PUT", path + "/update-callback", {"url": "http://h/a"}).status == 400
    assert caller.call("POST", path + "/attach-callback", {"url": "http://h/A?B=C"}).json()["url"] == "http://h/A?b=c"
    assert [delivery.url for delivery in caller.wait(10)] == ["http://h/A?b=c"]
    assert caller.call("PUT", path + "/update-callback", {"url": "http://h/b"}).status == 200
    assert [delivery.url for delivery in caller.wait(10)] == ["http://h/b"]
    assert caller.call("DELETE", path + "/delete-callback").status == 200
    assert caller.call("DELETE", path + "/delete-callback").status == 400
    caller.call("DELETE", path)
    assert caller.wait(20) == []


@pytest.mark.parametrize("content", [{}, {"url": ""}, {"url": 1}, {"url": "http://h/" + "x" * 250}, []])
def test_a_url_that_cannot_be_is_refused(content):
    caller = Caller()
    (vm_id,) = caller.made()
    assert caller.call("POST", f"{VMS}/{vm_id}/attach-callback", content).status == 400


@pytest.mark.parametrize(("setting", "status"), [("replaced", 200), ("refused", 400)])
def test_attaching_where_one_is_attached_is_configurable(setting, status):
    caller = Caller(attach_existing=setting)
    (vm_id,) = caller.made()
    assert caller.call("POST", f"{VMS}/{vm_id}/attach-callback", {"url": "http://h/b"}).status == status


def with_fault(**faults):
    return booted(families=["C"], faults={"callbacks": faults})


def test_a_lost_callback_is_never_handed_out_and_is_on_record():
    caller, _, deliveries = with_fault(lost=[2])
    assert statuses(deliveries) == ["CREATING", "ACTIVE", "ATTACHING", "ATTACHED"]
    lost = caller.private("GET", "deliveries").json()["deliveries"][1]
    assert (lost["fate"], lost["faults"]) == ("lost", ["lost"])


def test_a_repeated_callback_comes_again_with_the_same_bytes():
    _, _, deliveries = with_fault(repeated=[1], repeats=[2, 2])
    assert len(deliveries) == 7
    assert [delivery.body for delivery in deliveries].count(deliveries[0].body) == 3


def test_a_delayed_callback_is_overtaken():
    _, _, deliveries = with_fault(delayed=[1], delay=15)
    assert statuses(deliveries)[:3] == ["BUILD", "CREATING", "ACTIVE"]
    assert deliveries[1].at == 15


def test_a_reordered_callback_comes_right_after_the_next_one():
    _, _, deliveries = with_fault(reordered=[2])
    assert statuses(deliveries) == ["CREATING", "ACTIVE", "BUILD", "ATTACHING", "ATTACHED"]


def test_a_reordered_callback_that_has_no_next_one_comes_late():
    caller, _, deliveries = with_fault(reordered=[5], reorder_wait=60)
    assert statuses(deliveries)[-1] == "ATTACHING"
    assert statuses(caller.wait(60)) == ["ATTACHED"]


def test_a_nulled_callback_has_no_operation_status_and_perhaps_none_in_data():
    caller = Caller(families=["C"], faults={"callbacks": {"nulled": 1}})
    caller.made(count=20)
    assert {(status, data) for _, status, data in statuses_of(caller.wait(0))} == {(None, None), (None, "CREATING")}


def test_garbage_is_no_event():
    _, vm_id, deliveries = with_fault(garbage=1)
    assert len(deliveries) == 5
    for delivery in deliveries:
        assert str(vm_id).encode() not in delivery.body


def test_an_unmatched_callback_names_a_vm_of_another_account():
    caller, vm_id, deliveries = with_fault(unmatched=[3])
    assert len(deliveries) == 6
    (unmatched,) = [delivery for delivery in deliveries if delivery.vm_id != vm_id]
    assert unmatched.url == deliveries[0].url
    assert caller.get(unmatched.vm_id).status == 404


@pytest.mark.parametrize(("silent", "reported"), [(False, [("createVM", "FAILED", "ERROR")]), (True, [])])
def test_a_spontaneous_error_sends_a_callback_or_not(silent, reported):
    caller = Caller(families=["A"], faults={"vms": {"error": 1, "error_after": 30, "error_silent": silent}})
    caller.active()
    assert statuses_of(caller.wait(30)) == reported


def test_a_boot_error_is_reported_as_a_failed_creation():
    caller = Caller(families=["C"], faults={"vms": {"boot_error": 1}})
    caller.made()
    assert statuses_of(caller.wait(BOOT))[-1] == ("InstanceCreationFailed", "ERROR", "ERROR")


def test_an_address_that_cannot_be_had_is_reported():
    *_, deliveries = booted(families=["C"], faults={"vms": {"address_failed": 1}})
    assert statuses_of(deliveries)[-1][:2] == ("AttachFloatingIPToInstanceFailed", "NO FLOATING IP")


def test_callbacks_due_during_an_outage_are_lost():
    caller, _, deliveries = booted(faults={"outage": {"probability": 1, "since": 5, "until": 15}})
    assert [delivery.at for delivery in deliveries] == [0, 20, 20, 30]
    assert caller.private("GET", "deliveries").json()["deliveries"][1]["faults"] == ["outage"]


@given(
    st.integers(0, 1000),
    st.fixed_dictionaries(
        {name: st.floats(0, 1) for name in ("lost", "repeated", "delayed", "reordered", "nulled", "garbage")}
    ),
)
@settings(max_examples=50)
def test_every_callback_is_handed_out_or_lost_whatever_goes_wrong(seed, faults):
    caller = Caller(seed=seed, faults={"callbacks": faults})
    caller.made(count=3, assign_floating_ip=True)
    out = [delivery for _ in range(200) for delivery in caller.wait(5)]
    assert len({delivery.delivery_id for delivery in out}) == len(out)
    record = caller.private("GET", "deliveries").json()["deliveries"]
    assert {entry["fate"] for entry in record} <= {"sent", "lost"}
    assert len(out) == sum(entry["fate"] == "sent" for entry in record)
    assert sum("repeat" not in entry["faults"] for entry in record) == 15


@given(st.integers(0, 1000))
@settings(max_examples=25)
def test_without_faults_the_callbacks_of_a_vm_come_in_order(seed):
    caller = Caller(seed=seed, timing={"creating": [0, 1], "build": [0, 1], "callback": [0, 30]})
    caller.made(count=5)
    out = caller.wait(600)
    for vm_id in {delivery.vm_id for delivery in out}:
        mine = [delivery for delivery in out if delivery.vm_id == vm_id]
        assert all(one.at <= other.at and one.delivery_id < other.delivery_id for one, other in pairwise(mine))
        assert [data for _, _, data in statuses_of(mine)] == ["CREATING", "BUILD", "ACTIVE"]
