import json

import pytest
from simulated import VMS, Caller, refusal, statuses_of


def faulty(**faults):
    return Caller(faults=faults)


def made_by(caller):
    return [call["created_vms"] for call in caller.private("GET", "calls").json()["calls"]]


@pytest.mark.parametrize(
    ("fault", "status", "fate"),
    [("cut", 0, "cut"), ("hang_before", 0, "hang"), ("limited", 429, "normal")],
)
def test_faults_before_the_work_make_nothing(fault, status, fate):
    caller = faulty(create={fault: [1]})
    reply = caller.create()
    assert (reply.status, reply.fate) == (status, fate)
    assert caller.cloud.truth() == []
    assert caller.create().status == 200


def test_an_error_before_the_work_makes_nothing_and_one_after_it_does():
    caller = faulty(create={"error_before": [1], "error_after": [1]})
    assert caller.create().status >= 500
    assert made_by(caller) == [[]]
    assert caller.create().status >= 500
    assert len(made_by(caller)[1]) == 1


def test_a_5xx_has_several_shapes():
    caller = faulty(read={"error_before": 1})
    replies = [caller.call("GET", "/core/stocks") for _ in range(50)]
    assert {reply.status for reply in replies} == {500, 502, 503, 504}
    assert b'{"message": "Internal Server Error"}' in {reply.body for reply in replies}


@pytest.mark.parametrize(("fault", "fate"), [("lost", "lost"), ("hang_after", "hang")])
def test_an_answer_may_be_lost_after_the_work(fault, fate):
    caller = faulty(create={fault: [1]})
    reply = caller.create(name="made-all-the-same")
    assert (reply.status, reply.fate) == (200, fate)
    assert caller.names() == ["made-all-the-same"]


def test_an_unreadable_answer_has_its_status_and_is_not_json():
    caller = faulty(create={"unreadable": 1})
    for number in range(10):
        reply = caller.create(name=f"vm{number}")
        assert reply.status == 200
        with pytest.raises(ValueError, match=r"."):
            json.loads(reply.body)
    assert len(caller.names()) == 10


def test_a_slow_answer_takes_its_time_after_the_work():
    caller = Caller(faults={"create": {"slow": [1]}, "slow": 7}, timing={"answer": 1})
    assert caller.create().delay == 8
    assert caller.create().delay == 1


def test_each_kind_of_call_has_its_own_faults():
    caller = faulty(change={"cut": 1})
    vm_id = caller.active()
    assert caller.get(vm_id).fate == "normal"
    for method, path in (("DELETE", ""), ("GET", "/stop"), ("PUT", "/label"), ("POST", "/attach-floatingip")):
        assert caller.call(method, f"{VMS}/{vm_id}{path}").fate == "cut"
    assert caller.vm(vm_id)["status"] == "ACTIVE"


def test_a_create_may_make_fewer_than_asked_for():
    caller = faulty(partial=1)
    assert 1 <= len(caller.made(count=5)) < 5
    assert len(caller.made(name="single", count=1)) == 1


@pytest.mark.parametrize(
    ("answer", "status", "fate"), [("error", 500, "normal"), ("hang", 0, "hang"), ("cut", 0, "lost")]
)
def test_a_create_may_be_fulfilled_long_after_its_answer(answer, status, fate):
    caller = faulty(late=[1], late_after=45, late_answer=answer)
    reply = caller.create(name="late", count=2, contract_id=41)
    assert (reply.status, reply.fate) == (status, fate)
    caller.wait(44)
    assert caller.names() == []
    (first, *_) = caller.wait(1)
    assert caller.names() == ["late-1", "late-2"]
    assert statuses_of([first])[0][2] == "CREATING"
    assert (caller.left(), caller.vm(first.vm_id)["created_at"]) == (62, "2026-08-17T09:34:31")
    assert {vm["create_call"] for vm in caller.cloud.truth()} == {1}


def test_early_callbacks_are_due_before_the_answer():
    caller = Caller(faults={"early": [1]}, timing={"callback": 5})
    reply = caller.create(count=2)
    assert reply.callbacks_first
    assert len(caller.wait(0)) == 2
    assert not caller.create().callbacks_first
    assert caller.wait(0) == []


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("no_balance", "Insufficient balance to create the resource"),
        ("no_stock", "Not Enough Stock of A100-80G-PCIe. Unable to launch virtual-machines."),
    ],
)
def test_money_and_stock_may_run_out(fault, text):
    caller = faulty(**{fault: {"probability": 1, "until": 60}})
    assert refusal(caller.create()) == (400, "bad_request", text)
    caller.wait(60)
    assert caller.create().status == 200


def test_an_address_without_money_has_a_status_of_its_own():
    caller = faulty(no_balance=[2])
    reply = caller.call("POST", f"{VMS}/{caller.active()}/attach-floatingip")
    assert (reply.status, "error_reason" in reply.json()) == (402, False)


def test_a_key_may_be_rejected_for_a_while():
    caller = faulty(unauthorized={"probability": 1, "since": 10, "until": 20})
    assert caller.create().status == 200
    caller.wait(10)
    assert refusal(caller.create())[:2] == (401, "unauthorized")
    caller.wait(10)
    assert caller.create(name="later").status == 200


def test_an_error_may_come_without_its_reason():
    reply = faulty(no_reason=1).get(1)
    assert reply.json() == {"status": False, "message": "VM 1 does not exists."}


def test_a_429_may_say_when_to_come_back():
    caller = faulty(read={"limited": 1}, retry_after=[2], retry_after_seconds=17)
    headers = [caller.call("GET", "/core/stocks").headers for _ in range(3)]
    assert [entry.get("Retry-After") for entry in headers] == [None, "17", None]


def test_faults_can_be_replaced_at_run_time():
    caller = Caller()
    assert caller.create().fate == "normal"
    assert caller.private("POST", "faults", {"create": {"lost": [1]}}).status == 200
    assert [caller.create().fate for _ in range(2)] == ["lost", "normal"]
    assert caller.private("POST", "faults", {"create": {"lots": 1}}).status == 400


def test_an_outage_cuts_every_connection_and_ends():
    caller = Caller()
    assert caller.private("POST", "outage", {"seconds": 30}).status == 200
    assert caller.create().fate == "cut"
    caller.wait(30)
    assert caller.create().fate == "normal"
    for content in ({}, {"seconds": -1}, {"seconds": "x"}):
        assert caller.private("POST", "outage", content).status == 400
