from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import VMS, Caller, refusal

from service.simulator.lifecycle import MACHINE, OPERATIONS

CALLS = {
    "start": ("GET", "start"),
    "stop": ("GET", "stop"),
    "reboot": ("GET", "hard-reboot"),
    "hibernate": ("GET", "hibernate"),
    "restore": ("GET", "hibernate-restore"),
    "attach_ip": ("POST", "attach-floatingip"),
    "detach_ip": ("POST", "detach-floatingip"),
}
BEING_CREATED = (
    "VM demo is currently being created and cannot be deleted yet. "
    "Please wait until the creation process is finished before attempting deletion."
)
ALLOWED_NEXT = {
    (steps[index].status, steps[index + 1].status)
    for steps in (operation.steps for operation in OPERATIONS.values())
    for index in range(len(steps) - 1)
}


def request(caller, vm_id, operation):
    if operation == "delete":
        return caller.call("DELETE", f"{VMS}/{vm_id}")
    method, name = CALLS[operation]
    return caller.call(method, f"{VMS}/{vm_id}/{name}")


def statuses(caller, vm_id):
    return [(step["at"], step["status"]) for step in caller.truth(vm_id)["history"]]


def test_a_vm_goes_from_creating_through_build_to_active():
    caller = Caller()
    (vm_id,) = caller.made()
    caller.wait(100)
    assert statuses(caller, vm_id) == [(0, "CREATING"), (10, "BUILD"), (20, "ACTIVE")]
    shown = caller.vm(vm_id)
    assert (shown["power_state"], shown["vm_state"], shown["floating_ip_status"]) == (
        "RUNNING",
        "active",
        "NO FLOATING IP",
    )


def test_the_public_address_comes_some_time_after_active():
    caller = Caller()
    (vm_id,) = caller.made(assign_floating_ip=True)
    caller.wait(25)
    shown = caller.vm(vm_id)
    assert (shown["status"], shown["floating_ip"], shown["floating_ip_status"]) == ("ACTIVE", None, "ATTACHING")
    caller.wait(5)
    shown = caller.vm(vm_id)
    assert (shown["floating_ip"][:4], shown["floating_ip_status"]) == ("198.", "ATTACHED")
    assert shown["port_randomization_status"] == "ENABLED"


def test_an_address_that_is_not_there_may_be_an_empty_text():
    caller = Caller(empty_address="text")
    assert caller.vm(caller.active())["floating_ip"] == ""


@pytest.mark.parametrize(
    ("operation", "on_the_way", "end"),
    [
        ("stop", "STOPPING", "SHUTOFF"),
        ("reboot", "REBOOTING", "ACTIVE"),
        ("hibernate", "HIBERNATING", "HIBERNATED"),
    ],
)
def test_an_operation_passes_through_its_statuses(operation, on_the_way, end):
    caller = Caller()
    vm_id = caller.active()
    assert request(caller, vm_id, operation).status == 200
    shown = caller.vm(vm_id)
    assert (shown["status"], (shown["power_state"], shown["vm_state"])) == (on_the_way, MACHINE[on_the_way])
    caller.wait(10)
    assert caller.vm(vm_id)["status"] == end


def test_a_stopped_vm_starts_and_a_hibernated_one_is_restored():
    caller = Caller()
    vm_id = caller.active()
    for operation, status in (("stop", "SHUTOFF"), ("start", "ACTIVE"), ("hibernate", "HIBERNATED")):
        request(caller, vm_id, operation)
        caller.wait(10)
        assert caller.vm(vm_id)["status"] == status
    assert request(caller, vm_id, "restore").json()["message"] == "VM vm is scheduled to restore."
    caller.wait(10)
    assert caller.vm(vm_id)["status"] == "ACTIVE"


@pytest.mark.parametrize("operation", ["start", "restore", "detach_ip"])
def test_an_operation_is_refused_in_the_wrong_state_and_changes_nothing(operation):
    caller = Caller()
    vm_id = caller.active()
    assert refusal(request(caller, vm_id, operation))[:2] == (400, "bad_request")
    caller.wait(100)
    assert statuses(caller, vm_id)[-1][1] == "ACTIVE"


def test_deleting_a_vm_that_is_being_made_is_refused_in_the_providers_words():
    caller = Caller()
    (vm_id,) = caller.made(name="demo")
    for _ in range(2):
        assert refusal(request(caller, vm_id, "delete")) == (
            400,
            "bad_request",
            BEING_CREATED,
        )
        caller.wait(10)
    caller.wait(0)
    assert request(caller, vm_id, "delete").status == 200


def test_a_deleted_vm_is_deleting_and_then_not_found():
    caller = Caller()
    vm_id = caller.active()
    assert request(caller, vm_id, "delete").json() == {"status": True, "message": "Instance is being deleted."}
    assert caller.vm(vm_id)["status"] == "DELETING"
    caller.wait(10)
    gone = (404, "not_found", f"VM {vm_id} does not exists.")
    assert refusal(caller.get(vm_id)) == refusal(request(caller, vm_id, "delete")) == gone
    assert refusal(caller.call("GET", f"{VMS}/{vm_id}/events")) == gone
    assert caller.names() == []


def test_a_delete_while_another_is_processed_conflicts():
    caller = Caller()
    vm_id = caller.active()
    assert request(caller, vm_id, "delete").status == 200
    assert refusal(request(caller, vm_id, "delete"))[:2] == (409, "already_exist")
    caller.wait(10)
    assert request(caller, vm_id, "delete").status == 404


def test_a_repeated_delete_may_be_accepted():
    caller = Caller(repeated_delete="accepted")
    vm_id = caller.active()
    assert [request(caller, vm_id, "delete").status for _ in range(2)] == [200, 200]
    caller.wait(10)
    assert statuses(caller, vm_id)[-2:] == [(40, "DELETING"), (50, "DELETED")]


def test_the_delete_that_a_conflict_refers_to_may_fail():
    caller = Caller(faults={"vms": {"delete_failed": [1]}})
    vm_id = caller.active()
    assert [request(caller, vm_id, "delete").status for _ in range(2)] == [200, 409]
    caller.wait(10)
    assert caller.vm(vm_id)["status"] == "ACTIVE"
    assert request(caller, vm_id, "delete").status == 200


@pytest.mark.parametrize(("settings", "has_address"), [({}, True), ({"restored_address": "none"}, False)])
def test_a_restored_vm_has_another_address_by_default_if_hibernation_released_it(settings, has_address):
    caller = Caller(**settings)
    (vm_id,) = caller.made(assign_floating_ip=True)
    caller.wait(40)
    before = caller.vm(vm_id)["floating_ip"]
    request(caller, vm_id, "hibernate")
    caller.wait(20)
    request(caller, vm_id, "restore")
    caller.wait(30)
    after = caller.vm(vm_id)["floating_ip"]
    assert (after is not None) is has_address
    assert after != before


def test_a_restored_vm_keeps_an_address_that_was_retained():
    caller = Caller()
    (vm_id,) = caller.made(assign_floating_ip=True)
    caller.wait(40)
    before = caller.vm(vm_id)["floating_ip"]
    caller.call("GET", f"{VMS}/{vm_id}/hibernate?retain_ip=true")
    caller.wait(20)
    request(caller, vm_id, "restore")
    caller.wait(30)
    assert caller.vm(vm_id)["floating_ip"] == before


def test_a_spot_vm_takes_longer_to_build():
    caller = Caller(timing={"callback": 0, "creating": 10, "build": 10, "spot_build": 400})
    (spot,) = caller.made(name="spot", flavor_name="n1-L40x1-spot")
    (normal,) = caller.made(name="normal")
    caller.wait(409)
    assert (caller.vm(spot)["status"], caller.vm(normal)["status"]) == ("BUILD", "ACTIVE")
    caller.wait(1)
    assert caller.vm(spot)["status"] == "ACTIVE"


def test_a_spot_vm_takes_more_than_five_minutes_by_default():
    caller = Caller(timing={})
    (vm_id,) = caller.made(flavor_name="n1-L40x1-spot")
    caller.wait(300)
    assert caller.vm(vm_id)["status"] == "BUILD"


def test_any_vm_may_be_slow_to_build():
    caller = Caller(faults={"vms": {"slow_build": [1], "slow_build_seconds": 1000}})
    (vm_id,) = caller.made()
    caller.wait(1009)
    assert caller.vm(vm_id)["status"] == "BUILD"
    caller.wait(1)
    assert caller.vm(vm_id)["status"] == "ACTIVE"


def test_a_deleted_vm_can_stay_visible_for_a_while():
    caller = Caller(deleted_visible=30)
    vm_id = caller.active()
    request(caller, vm_id, "delete")
    caller.wait(10)
    assert caller.vm(vm_id)["status"] == "DELETED"
    caller.wait(30)
    assert caller.get(vm_id).status == 404


def test_hibernation_keeps_the_address_only_when_told():
    for query, kept in (("", False), ("?retain_ip=true", True)):
        caller = Caller()
        (vm_id,) = caller.made(assign_floating_ip=True)
        caller.wait(40)
        caller.call("GET", f"{VMS}/{vm_id}/hibernate{query}")
        caller.wait(20)
        assert (caller.vm(vm_id)["floating_ip"] is not None) is kept


def test_restoring_too_early_has_a_text_of_its_own():
    caller = Caller()
    vm_id = caller.active()
    request(caller, vm_id, "hibernate")
    assert refusal(request(caller, vm_id, "restore"))[2] == (
        "The VM hibernation process is still going on. Please try later."
    )


def test_some_flavors_cannot_hibernate():
    caller = Caller()
    assert request(caller, caller.active(flavor_name="n1-cpu-small"), "hibernate").status == 400


def test_resizing_is_disabled():
    caller = Caller()
    reply = caller.call("POST", f"{VMS}/{caller.active()}/resize", {"flavor_name": "n3-A100x4"})
    assert refusal(reply) == (400, "bad_request", "This feature is currently disabled")


def test_an_address_can_be_attached_and_detached():
    caller = Caller()
    vm_id = caller.active()
    assert request(caller, vm_id, "attach_ip").json()["message"] == "A Public IP will be assigned to VM vm."
    caller.wait(10)
    assert caller.vm(vm_id)["floating_ip"]
    assert request(caller, vm_id, "attach_ip").status == 400
    assert request(caller, vm_id, "detach_ip").json()["message"] == "Public IP will be detached from the VM vm."
    caller.wait(10)
    shown = caller.vm(vm_id)
    assert (shown["floating_ip"], shown["floating_ip_status"]) == (None, "DETACHED")


def test_the_events_history_tells_request_and_success():
    caller = Caller()
    vm_id = caller.active(name="demo")
    request(caller, vm_id, "stop")
    caller.wait(10)
    events = caller.call("GET", f"{VMS}/{vm_id}/events").json()["instance_events"]
    assert [event["reason"] for event in events] == [
        "InstanceCreationRequest",
        "InstanceCreationSuccess",
        "InstanceStopRequest",
        "InstanceStopSuccess",
    ]
    assert events[0]["message"] == "Instance demo Creation Request Sent."
    assert (events[0]["instance_id"], events[0]["object"], events[0]["type"]) == (vm_id, "demo", "normal")


def test_a_boot_error_ends_in_error_and_the_vm_can_be_deleted():
    caller = Caller(faults={"vms": {"boot_error": [1]}})
    (vm_id,) = caller.made()
    caller.wait(20)
    assert statuses(caller, vm_id)[-1] == (20, "ERROR")
    request(caller, vm_id, "delete")
    caller.wait(10)
    assert caller.get(vm_id).status == 404


def test_a_stuck_vm_builds_for_ever_and_only_the_console_gets_rid_of_it():
    caller = Caller(faults={"vms": {"stuck": [1]}})
    (vm_id,) = caller.made()
    caller.wait(1e6)
    assert caller.vm(vm_id)["status"] == "BUILD"
    assert request(caller, vm_id, "delete").status == 400
    caller.private("POST", f"vms/{vm_id}/delete")
    caller.wait(10)
    assert caller.get(vm_id).status == 404


def test_a_vm_vanishes_without_a_word():
    caller = Caller(faults={"vms": {"vanish": [1], "vanish_after": 50}})
    (vm_id,) = caller.made(contract_id=41)
    assert len(caller.wait(49)) == 3
    assert caller.wait(100) == []
    assert caller.get(vm_id).status == 404
    assert (caller.truth(vm_id)["ended"], caller.truth(vm_id)["deleted_at"], caller.left()) == ("vanished", 50, 64)


def test_an_active_vm_falls_into_error():
    caller = Caller(faults={"vms": {"error": [1], "error_after": 30}})
    (vm_id,) = caller.made()
    caller.wait(100)
    assert statuses(caller, vm_id)[-1] == (50, "ERROR")


def test_a_failed_deletion_leaves_the_vm_as_it_was():
    caller = Caller(faults={"vms": {"delete_failed": [1]}})
    vm_id = caller.active()
    request(caller, vm_id, "delete")
    assert caller.vm(vm_id)["status"] == "DELETING"
    caller.wait(10)
    assert caller.vm(vm_id)["status"] == "ACTIVE"
    request(caller, vm_id, "delete")
    caller.wait(10)
    assert caller.get(vm_id).status == 404


def test_an_address_that_cannot_be_had_is_said_to_be_none():
    caller = Caller(faults={"vms": {"address_failed": [1]}})
    (vm_id,) = caller.made(assign_floating_ip=True)
    caller.wait(40)
    assert caller.vm(vm_id)["floating_ip_status"] == "NO FLOATING IP"


@given(st.lists(st.tuples(st.sampled_from([*CALLS, "delete"]), st.sampled_from([0, 3, 10, 25])), max_size=15))
def test_whatever_is_asked_a_vm_only_makes_the_moves_of_the_table(steps):
    caller = Caller()
    (vm_id,) = caller.made(assign_floating_ip=True)
    for operation, seconds in steps:
        assert request(caller, vm_id, operation).status in {200, 400, 404, 409}
        caller.wait(seconds)
    caller.wait(100)
    walked = [status for _, status in statuses(caller, vm_id)]
    begun = {operation.steps[0].status for operation in OPERATIONS.values()}
    for before, after in pairwise(walked):
        assert (before, after) in ALLOWED_NEXT or after in begun
    times = [at for at, _ in statuses(caller, vm_id)]
    assert times == sorted(times)
