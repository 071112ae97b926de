import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import VMS, Caller, refusal

A100 = "A100-80G-PCIe"


def on_contract(**more):
    settings = {"id": 41, "discounts": [{"resource_name": A100, "resource_count": 8, "remaining_count": 3}]} | more
    return {"contracts": [settings]}


def reassign(caller, vm_id, contract_id):
    return caller.call("PUT", f"/_sim/virtual-machines/{vm_id}/contract", {"contract_id": contract_id})


def test_a_vm_on_its_contract_takes_gpus_from_it_and_gives_them_back():
    caller = Caller(**on_contract())
    vm_id = caller.active(contract_id=41)
    assert caller.vm(vm_id)["contract_id"] == 41
    assert caller.left() == 2
    caller.call("DELETE", f"{VMS}/{vm_id}")
    caller.wait(20)
    assert caller.left() == 3


@pytest.mark.parametrize(
    ("contract", "request_", "reason"),
    [
        ({}, {"contract_id": 1}, "Contract with ID: 1 not found."),
        ({"end_date": "2026-08-17T09:33:45"}, {"contract_id": 41}, "Contract with ID: 41 is not usable."),
        ({"start_date": "2026-08-18T00:00:00"}, {"contract_id": 41}, "Contract with ID: 41 is not usable."),
        ({"status": "ended"}, {"contract_id": 41}, "Contract with ID: 41 is not usable."),
        (
            {},
            {"contract_id": 41, "flavor_name": "n3-H100x1"},
            "Contract with ID: 41 does not cover H100-80G-PCIe.",
        ),
        (
            {},
            {"contract_id": 41, "flavor_name": "n1-cpu-small"},
            "Contract with ID: 41 does not cover this flavor.",
        ),
        (
            {},
            {"contract_id": 41, "flavor_name": "n3-A100x4"},
            "Contract with ID: 41 has insufficient GPU resources.",
        ),
        ({}, {"contract_id": 41, "count": 4}, "Contract with ID: 41 has insufficient GPU resources."),
    ],
)
def test_a_failed_assignment_makes_the_vms_on_demand_and_says_why(contract, request_, reason):
    caller = Caller(**on_contract(**contract))
    reply = caller.create(**request_)
    assert reply.status == 200
    assert reply.json()["errors"] == {"contract": reason}
    assert {vm["contract_id"] for vm in reply.json()["instances"]} == {None}
    assert caller.left() == 3


def test_reasons_come_as_a_list_when_told_so():
    reply = Caller(contract_errors="list").create(contract_id=1)
    assert reply.json()["errors"] == {"contract": ["Contract with ID: 1 not found."]}


def test_there_is_no_errors_key_when_nothing_is_wrong():
    assert "errors" not in Caller().create(contract_id=41).json()


def test_some_vms_may_be_placed_and_others_not():
    caller = Caller(**on_contract(), partial_assignment=True)
    reply = caller.create(contract_id=41, count=5).json()
    assert [vm["contract_id"] for vm in reply["instances"]] == [41, 41, 41, None, None]
    assert reply["errors"]
    assert caller.left() == 0


@pytest.mark.parametrize(("key", "other"), [("contract", "contracts"), ("contracts", "contract")])
def test_the_key_of_one_contract_is_configurable(key, other):
    content = Caller(contract_key=key).call("GET", "/pricebook/contracts/41").json()
    assert content[key]["id"] == 41
    assert other not in content


def test_an_unknown_contract_is_not_found():
    assert refusal(Caller().call("GET", "/pricebook/contracts/999"))[:2] == (404, "not_found")


def test_contracts_are_paged_with_per_page():
    caller = Caller(contracts=[{"id": number} for number in range(1, 6)], count_means="total")
    content = caller.call("GET", "/pricebook/contracts?page=2&per_page=2").json()
    assert ([contract["id"] for contract in content["contracts"]], content["count"]) == ([3, 4], 5)


def test_capacity_changes_by_schedule():
    change = {"at": 50, "contract_id": 41, "resource_name": A100, "remaining_count": 7}
    caller = Caller(**on_contract(), contract_changes=[change])
    assert caller.left() == 3
    caller.wait(50)
    assert caller.left() == 7


def test_a_larger_contract_has_as_much_more_left():
    caller = Caller(**on_contract(), contract_changes=[{"at": 50, "contract_id": 41, "resource_count": 10}])
    caller.wait(50)
    assert caller.left() == 5


def test_vms_are_deleted_at_the_end_of_a_contract_that_says_so():
    # Ends 60 seconds after the start of simulated time.
    caller = Caller(**on_contract(end_date="2026-08-17T09:34:46", expiration_policy=0))
    vm_id = caller.active(contract_id=41)
    other = caller.active(name="other")
    caller.wait(60)
    assert caller.get(vm_id).status == 404
    assert caller.vm(other)["status"] == "ACTIVE"


def test_a_vm_still_being_made_when_its_contract_ends_is_deleted_afterwards():
    caller = Caller(**on_contract(end_date="2026-08-17T09:33:56", expiration_policy=0))
    (vm_id,) = caller.made(contract_id=41)
    caller.wait(100)
    assert caller.truth(vm_id)["ended"] == "deleted"


def test_vms_are_kept_when_the_contract_says_so_or_was_prolonged():
    kept = Caller(**on_contract(end_date="2026-08-17T09:34:46", expiration_policy=1))
    prolonged = Caller(
        **on_contract(end_date="2026-08-17T09:34:46", expiration_policy=0),
        contract_changes=[{"at": 50, "contract_id": 41, "end_date": "2026-09-01T00:00:00"}],
    )
    for caller in (kept, prolonged):
        vm_id = caller.active(contract_id=41)
        caller.wait(100)
        assert caller.vm(vm_id)["status"] == "ACTIVE"


def test_a_vm_can_be_reassigned_on_our_own_path():
    caller = Caller(**on_contract())
    vm_id = caller.active()
    reply = reassign(caller, vm_id, 41)
    assert (reply.status, reply.json()["instance"]["contract_id"]) == (200, 41)
    assert caller.left() == 2
    assert reassign(caller, vm_id, 41).status == 200
    assert caller.left() == 2


def test_reassigning_gives_the_old_place_back():
    line = {"resource_name": A100, "resource_count": 1}
    caller = Caller(contracts=[{"id": 41, "discounts": [line]}, {"id": 42, "discounts": [line]}])
    vm_id = caller.active(contract_id=41)
    reassign(caller, vm_id, 42)
    assert (caller.left(41), caller.left(42)) == (1, 0)


@pytest.mark.parametrize(("contract_id", "status"), [(1, 404), (42, 400), ("41", 400), (True, 400), (None, 400)])
def test_a_reassignment_that_cannot_be_changes_nothing(contract_id, status):
    caller = Caller(contracts=[*on_contract()["contracts"], {"id": 42}])
    vm_id = caller.active(contract_id=41)
    assert reassign(caller, vm_id, contract_id).status == status
    assert caller.vm(vm_id)["contract_id"] == 41


def test_the_vms_of_a_contract_include_those_that_are_gone():
    caller = Caller()
    gone, there = caller.active(name="gone", contract_id=41), caller.active(name="there", contract_id=41)
    caller.call("DELETE", f"{VMS}/{gone}")
    caller.wait(20)
    path = f"{VMS}/contract/41/virtual-machines"
    first, second = caller.call("GET", path).json()["instances"]
    assert (first["id"], first["total_usage_time"], first["termination_time"]) == (gone, 90, "2026-08-17T09:35:16")
    assert (second["id"], second["gpu_count"], second["termination_time"]) == (there, 1, None)
    assert [vm["id"] for vm in caller.call("GET", path + "?search=HER").json()["instances"]] == [there]
    assert [vm["id"] for vm in caller.call("GET", path + "?page=2&pageSize=1").json()["instances"]] == [there]


def test_the_allocation_graph_shows_when_gpus_were_taken():
    caller = Caller()
    caller.active(name="one", contract_id=41)
    caller.active(name="two", contract_id=41)
    path = "/pricebook/contracts/41/gpu_allocation_graph"
    graph = caller.call("GET", path).json()["contract"]
    assert graph["id"] == "41"
    assert [point["value"] for point in graph["allocated_gpu_count_graph"]] == [0, 1, 2]
    later = caller.call("GET", path + "?start_date=2026-08-17T09:34:00").json()["contract"]
    assert [point["value"] for point in later["allocated_gpu_count_graph"]] == [2]
    assert caller.call("GET", path + "?end_date=yesterday").status == 400


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=12))
@settings(max_examples=30)
def test_a_contract_is_never_overdrawn_and_always_balances(steps):
    caller = Caller(**on_contract(), partial_assignment=True)
    for number, (count, delete) in enumerate(steps):
        caller.made(name=f"vm{number}", contract_id=41, count=count)
        caller.wait(40)
        if delete:
            caller.call("DELETE", f"{VMS}/{caller.listing()['instances'][0]['id']}")
            caller.wait(20)
        used = sum(1 for vm in caller.cloud.truth() if vm["contract_id"] == 41 and vm["ended"] is None)
        assert caller.left() == 3 - used >= 0
