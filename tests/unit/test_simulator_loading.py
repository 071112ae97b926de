import pytest

from service.simulator.config import CloudConfig, FlavorConfig, KeypairConfig
from service.simulator.faults import Faults
from service.simulator.loading import parse_config, parse_faults
from service.simulator.rng import Range, Trigger


def test_nothing_said_is_the_default_cloud_without_faults():
    assert parse_config({}) == CloudConfig()
    assert parse_config({}).faults == Faults()


def test_shorthands_become_ranges_and_chances():
    config = parse_config(
        {
            "timing": {"build": [10, 20], "creating": 3},
            "faults": {"create": {"lost": [1, 3], "cut": 0.5}, "outage": {"probability": 1, "since": 5, "until": 9}},
        }
    )
    assert (config.timing.build, config.timing.creating) == (Range(10, 20), Range(3, 3))
    assert (config.faults.create.lost, config.faults.create.cut) == (Trigger(nth=(1, 3)), Trigger(probability=0.5))
    assert config.faults.outage == Trigger(probability=1.0, since=5.0, until=9.0)


def test_lists_of_objects_become_their_own_kind():
    config = parse_config({"flavors": [{"name": "tiny", "stock": 2}], "environments": [{"name": "e"}]})
    assert config.flavors == (FlavorConfig(name="tiny", stock=2),)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"sede": 1}, "config: unknown sede"),
        ({"seed": "1"}, r"config.seed: expected int"),
        ({"unique_names": 1}, r"config.unique_names: expected bool"),
        ({"unpaged": "some"}, r"config.unpaged: 'some' is not one of 'all', 'first_10'"),
        ({"faults": {"create": {"lots": 1}}}, r"config.faults.create: unknown lots"),
        ({"faults": {"create": {"lost": 2}}}, r"config.faults.create.lost: a probability"),
        ({"faults": {"callbacks": {"repeats": [1]}}}, r"repeats: expected 2 items"),
        ({"timing": {"build": [20, 10]}}, r"config.timing.build: a range must satisfy"),
        ({"flavors": [{}]}, r"config.flavors\[0\]"),
        ({"flavors": {"name": "x"}}, r"config.flavors: expected a list"),
        ({"timing": 3}, r"config.timing: expected an object"),
        ({"timing": {"build": [0, float("inf")]}}, r"config.timing.build: a range must satisfy"),
        ({"faults": {"create": {"lost": [0]}}}, r"config.faults.create.lost: occasions are counted from 1"),
        ({"faults": {"outage": {"since": 9, "until": 3}}}, r"config.faults.outage: until"),
        (
            {"faults": {"list": {"bad_field_values": ["nul"]}}},
            r"config.faults.list.bad_field_values: 'nul' is not JSON",
        ),
        ({"faults": {"get": {"gateway_statuses": [99]}}}, r"config.faults.get.gateway_statuses: 99"),
        ({"faults": {"get": {"gateway_statuses": []}}}, r"config.faults.get.gateway_statuses: must not be empty"),
        ({"faults": {"get": {"bad_field_count": 0}}}, r"config.faults.get.bad_field_count"),
        ({"faults": {"callbacks": {"repeats": [3, 1]}}}, r"config.faults.callbacks.repeats"),
        ({"faults": {"callbacks": {"reorder_wait": -1}}}, r"config.faults.callbacks.reorder_wait"),
        ({"faults": {"vms": {"crowd_size": -1}}}, r"config.faults.vms.crowd_size"),
        ({"faults": {"vms": {"unknown_statuses": []}}}, r"config.faults.vms.unknown_statuses"),
        ({"faults": {"retry_after_seconds": -1}}, r"config.faults.retry_after_seconds"),
        ({"max_count": 0}, r"config.max_count"),
        ({"rate_window": 0}, r"config.rate_window"),
        ({"rate_limit": -1}, r"config.rate_limit"),
        ({"callback_variety": 2}, r"config.callback_variety"),
        ({"families": []}, r"config.families: must not be empty"),
        ({"name_pattern": "{nme}"}, r"config.name_pattern"),
        ({"environments": [{"name": "a"}, {"name": "a"}]}, r"config.environments: a occurs 2 times"),
        ({"keypairs": [{"name": "k", "environment": "x"}]}, r"config.keypairs\[0\].environment"),
        ({"stock_changes": [{"at": 1, "flavor": "x", "stock": 1}]}, r"config.stock_changes\[0\].flavor"),
        ({"contract_changes": [{"at": 1, "contract_id": 7}]}, r"config.contract_changes\[0\].contract_id"),
        ({"contracts": [{"id": 1, "end_date": "soon"}]}, r"config.contracts\[0\].end_date"),
        (
            {"contract_changes": [{"at": 1, "contract_id": 41, "end_date": "x"}]},
            r"config.contract_changes\[0\].end_date",
        ),
    ],
)
def test_a_mistake_is_named_by_its_path(data, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_config(data)


def test_faults_can_be_read_alone():
    assert parse_faults({"get_lags": True}) == Faults(get_lags=True)


def test_all_mistakes_are_named_at_once():
    data = {
        "sede": 1,
        "seed": "1",
        "timing": {"build": [20, 10], "creating": "x"},
        "faults": {"create": {"lost": 2, "lots": 1}, "vms": []},
        "flavors": [{}, {"name": 3}],
    }
    with pytest.raises(ValueError, match=r".") as caught:
        parse_config(data)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "config",
        "config.seed",
        "config.timing.build",
        "config.timing.creating",
        "config.faults.create",
        "config.faults.create.lost",
        "config.faults.vms",
        "config.flavors[0]",
        "config.flavors[1].name",
    ]


def test_all_inconsistencies_are_named_at_once():
    with pytest.raises(ValueError, match=r".") as caught:
        parse_config({"max_count": 0, "families": [], "faults": {"get": {"bad_field_values": ["{", "["]}}})
    assert len(str(caught.value).splitlines()) == 4


def test_values_of_bad_fields_may_be_of_any_size_and_depth():
    values = ["9" * 10_000, "[" * 5_000 + "]" * 5_000, "1e400", ""]
    assert parse_faults({"list": {"bad_field_values": values}}).list.bad_field_values == tuple(values)


def test_a_keypair_may_be_given_by_its_name():
    assert parse_config({"keypairs": ["k"]}).keypairs == (KeypairConfig(name="k"),)
