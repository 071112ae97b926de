"""From a callback's bytes to what it claims: every shape that was ever seen, and every shape that was not."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.event import Callback, Unreadable, parse
from service.core.lifecycle import VmState

ID = 507279
S = VmState

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(["resource", "operation", "data", "id", "name", "status", "event", "floating_ip", "fixed_ip"])
likely = st.dictionaries(keys, json_values | st.dictionaries(keys, json_values, max_size=5), max_size=6)


def body(operation=None, status=None, *, data=None, resource=None, **more):
    content = {"resource": resource or {"id": str(ID)}, "operation": {"name": operation, "status": status}, **more}
    if data is not None:
        content["data"] = data
    return json.dumps(content).encode()


def claimed(*args, **kwargs):
    found = parse(body(*args, **kwargs))
    assert isinstance(found, Callback)
    assert found.provider_id == ID
    return found


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_no_bytes_raise(raw):
    # basilica (field-notes.md section 1): a null status crashed the handler.
    assert isinstance(parse(raw), Callback | Unreadable)


@settings(deadline=None, max_examples=300)
@given(json_values | likely)
def test_no_json_raises(value):
    found = parse(json.dumps(value).encode())
    assert isinstance(found, Callback | Unreadable)
    if isinstance(found, Callback):
        assert 0 < found.provider_id < 2**63
        assert found.state in {None, *VmState}


@settings(deadline=None, max_examples=100)
@given(likely)
def test_a_real_callback_with_anything_else_in_it_still_names_its_vm(more):
    found = parse(json.dumps({**more, "resource": {"id": ID}}).encode())
    assert isinstance(found, Callback)
    assert found.provider_id == ID


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a":' * 20_000, b"\xff\xfe{}", b"", b"null", b"nan", b'"\\ud800"'])
def test_garbage_is_unreadable_and_says_why(raw):
    found = parse(raw)
    assert isinstance(found, Unreadable)
    assert 0 < len(found.reason) < 200


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"text"', b"true", b"null"])
def test_json_that_is_no_object_is_unreadable(raw):
    found = parse(raw)
    assert isinstance(found, Unreadable)
    assert "object" in found.reason


@pytest.mark.parametrize("given_id", [ID, str(ID), float(ID), f" {ID} "])
def test_ids_come_as_numbers_and_as_text(given_id):
    assert claimed("createVM", "SUCCESS", resource={"id": given_id}).state is S.ACTIVE


@pytest.mark.parametrize(
    "given_id",
    [None, True, 0, -5, 1.5, "", "abc", "12x", "-3", "\uff11\uff12", 2**63, "9" * 39, "9" * 50, [], {}, "1e3"],
)
def test_what_is_no_id_names_no_vm(given_id):
    assert isinstance(parse(body("createVM", resource={"id": given_id})), Unreadable)


@pytest.mark.parametrize(
    "content",
    [
        {"resource": ID},
        {"resource": str(ID)},
        {"data": {"id": ID}},
        {"resource": {}, "data": {"id": str(ID)}},
        {"id": ID},
        {"resource": None, "id": str(ID)},
    ],
)
def test_an_id_is_found_wherever_it_may_be(content):
    found = parse(json.dumps(content).encode())
    assert isinstance(found, Callback)
    assert found.provider_id == ID


def test_the_resources_own_id_wins():
    assert claimed(data={"id": 1}, id=2).provider_id == ID


# infrahub-api.md section 1.3: the composed deliveries.
@pytest.mark.parametrize(
    ("raw", "state", "address"),
    [
        (
            (
                b'{"resource": {"id": "507279", "name": "example-vm", "type": "virtual_machine"},'
                b'"operation": {"name": "createInstance", "status": "CREATING"},'
                b'"data": {"id": 507279, "name": "example-vm", "status": "CREATING", "floating_ip": "", "fixed_ip": null}}'
            ),
            S.CREATING,
            None,
        ),
        (
            (
                b'{"resource": {"id": "507279", "name": "example-vm", "type": "virtual_machine"},'
                b'"operation": {"name": "createInstance", "status": "SUCCESS"},'
                b'"data": {"id": 507279, "status": "ACTIVE", "floating_ip": "203.0.113.10", "fixed_ip": "10.0.1.7"}}'
            ),
            S.ACTIVE,
            "203.0.113.10",
        ),
        (
            (
                b'{"resource": {"id": 507279}, "operation": {"name": "deleteInstances", "status": null},'
                b'"data": {"status": "DELETED"}}'
            ),
            S.DELETED,
            None,
        ),
        (b'{"resource": {"id": "507279"}, "operation": {"name": "deleteInstance", "status": "FAILED"}}', None, None),
    ],
)
def test_the_deliveries_of_the_reference(raw, state, address):
    found = parse(raw)
    assert isinstance(found, Callback)
    assert (found.provider_id, found.state, found.floating_ip) == (ID, state, address)


# infrahub-api.md sections 1.4 to 1.6: family A (createVM), B (createInstance), C (InstanceCreationSuccess).
NAMES = {
    "create": ("createVM", "createInstance", "InstanceCreationSuccess"),
    "delete": ("deleteVM", "deleteInstances", "InstanceDeleteSuccess"),
    "start": ("startVM", "startInstance", "InstanceStartSuccess"),
    "stop": ("stopVM", "stopInstance", "InstanceStopSuccess"),
    "reboot": ("hardRebootVM", "rebootInstance", "InstanceRebootSuccess"),
    "hibernate": ("hibernateVM", "hibernateInstance", "HibernateInstanceSuccess"),
    "restore": ("restoreVM", "restoreInstance", "RestoreHibernationInstanceSuccess"),
}
STEPS = {
    "create": (S.CREATING, S.BUILD, S.ACTIVE),
    "delete": (S.DELETING, S.DELETED),
    "start": (S.STARTING, S.ACTIVE),
    "stop": (S.STOPPING, S.SHUTOFF),
    "reboot": (S.REBOOTING, S.ACTIVE),
    "hibernate": (S.HIBERNATING, S.HIBERNATED),
    "restore": (S.RESTORING, S.ACTIVE),
}
EVERY_STEP = [(about, name, step) for about, names in NAMES.items() for name in names for step in STEPS[about]]


@pytest.mark.parametrize(("about", "name", "step"), EVERY_STEP)
def test_every_step_of_every_operation_in_every_family(about, name, step):
    for spelling in (str.upper, str.lower, str.capitalize):
        status = spelling(step.value)
        in_data = claimed(name, None, data={"status": status})
        in_operation = claimed(name, status)
        assert in_data.state is in_operation.state is step
        assert in_data.about == in_operation.about == about
        assert in_data.concerns_state


@pytest.mark.parametrize(("about", "name"), [(about, name) for about, names in NAMES.items() for name in names])
def test_success_stands_for_the_last_step_of_its_operation(about, name):
    assert claimed(name, "SUCCESS").state is STEPS[about][-1]
    assert claimed(name, "success", data={"status": None}).state is STEPS[about][-1]


@pytest.mark.parametrize(("about", "name"), [(about, name) for about, names in NAMES.items() for name in names])
def test_a_name_alone_concludes_nothing_not_even_one_that_ends_in_success(about, name):
    # basilica (field-notes.md section 1): operation.status was null in production.
    assert claimed(name, None).state is None
    assert claimed(name, None, data={"status": None}).state is None
    assert claimed(name, None, data={}).state is None


@pytest.mark.parametrize("name", ["createVM", "createInstance", "InstanceCreationFailed"])
def test_a_failed_create_is_an_error(name):
    assert claimed(name, "FAILED").state is S.ERROR
    assert claimed(name, "ERROR").state is S.ERROR
    assert claimed(name, "failed", data={"status": "error"}).state is S.ERROR


@pytest.mark.parametrize(
    "name", ["deleteVM", "deleteInstance", "InstanceDeleteFailed", "HibernateInstanceFailed", "restoreVM", "stopVM"]
)
def test_after_another_failure_the_vm_may_be_anywhere(name):
    assert claimed(name, "FAILED").state is None
    assert claimed(name, "FAILED", data={"status": "ACTIVE"}).state is S.ACTIVE


def test_the_status_in_data_comes_before_that_of_the_operation():
    found = claimed("createInstance", "CREATING", data={"status": "ACTIVE"})
    assert (found.state, found.status) == (S.ACTIVE, "ACTIVE")


def test_a_word_that_nobody_knows_is_kept_and_concludes_nothing():
    found = claimed("createInstance", None, data={"status": "SHELVED_OFFLOADED"})
    assert (found.state, found.status) == (None, "SHELVED_OFFLOADED")


@pytest.mark.parametrize("name", ["resizeVM", "InstanceSnapshot", "whatEver", None, 7, ["x"]])
def test_an_operation_that_nobody_knows_is_read_by_its_status(name):
    assert claimed(name, None, data={"status": "SHUTOFF"}).state is S.SHUTOFF
    assert claimed(name, "SUCCESS").state is None


@pytest.mark.parametrize(
    "name",
    [
        "AttachFloatingIPToInstanceSuccess",
        "DetachFloatingIPToInstanceFailed",
        "attachFloatingIP",
        "attach_floating_ip",
        "AttachVolumeToInstanceSuccess",
        "DetachVolumeToInstanceFailed",
        "attachVolume",
        "VolumeCreationSuccess",
        "VolumeCreationFailed",
        "VolumeDeleteSuccess",
        "VolumeDeleteFailed",
        "AttachSecurityRuleToInstanceSuccess",
        "DetachSecurityRuleToInstanceFailed",
        "GenerateVNCConsoleSuccess",
        "GenerateVNCConsoleFailed",
    ],
)
@pytest.mark.parametrize(
    "status", ["SUCCESS", "FAILED", "DELETED", "DELETING", "CREATING", "ATTACHED", "AVAILABLE", None]
)
def test_what_is_attached_to_a_vm_never_claims_the_vms_state(name, status):
    for data in (None, {"status": status}, {"status": "DELETED"}):
        found = claimed(name, status, data=data)
        assert found.state is None
        assert not found.concerns_state


@pytest.mark.parametrize("address", ["", None, "   ", 5, []])
def test_an_empty_address_is_none(address):
    assert claimed("createVM", "SUCCESS", data={"floating_ip": address, "fixed_ip": address}).floating_ip is None


def test_addresses_are_taken_over():
    found = claimed("createVM", "SUCCESS", data={"floating_ip": "203.0.113.9", "fixed_ip": "10.0.0.2"})
    assert (found.floating_ip, found.fixed_ip) == ("203.0.113.9", "10.0.0.2")


def test_a_status_at_the_root_counts_where_there_is_no_other():
    assert claimed("createVM", None, status_="x").state is None
    found = parse(json.dumps({"id": ID, "event": "createVM", "status": "BUILD"}).encode())
    assert isinstance(found, Callback)
    assert (found.operation, found.about, found.state) == ("createVM", "create", S.BUILD)


@pytest.mark.parametrize("odd", [5, [], "text", None, True])
def test_parts_of_the_wrong_kind_are_as_if_they_were_not_there(odd):
    found = parse(json.dumps({"resource": {"id": ID}, "operation": odd, "data": odd}).encode())
    assert isinstance(found, Callback)
    assert (found.provider_id, found.state, found.about) == (ID, None, None)


def test_long_texts_are_cut():
    assert len(claimed("x" * 5000, "y" * 5000).operation) == 200
