import pytest

from service.simulator.config import CloudConfig, FlavorConfig
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
    ],
)
def test_a_mistake_is_named_by_its_path(data, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_config(data)


def test_faults_can_be_read_alone():
    assert parse_faults({"get_lags": True}) == Faults(get_lags=True)
