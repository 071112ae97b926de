"""Parses plain data (from JSON) into the simulator's settings. Unknown keys are errors."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, cast

from service.simulator.config import CloudConfig, ContractChange, KeypairConfig
from service.simulator.faults import Faults
from service.simulator.rng import Range, Trigger

T = TypeVar("T")


def parse_config(data: Mapping[str, Any]) -> CloudConfig:
    """A config from plain data. Missing fields keep their defaults.

    Raises ValueError naming the first invalid field by its path. A `Range` may be a number or a pair, a `Trigger` a
    probability or a list of occasions.
    """
    return _build(CloudConfig, data, "config")


def parse_faults(data: Mapping[str, Any]) -> Faults:
    """As `parse_config`, for faults."""
    return _build(Faults, data, "faults")


def parse_contract_change(data: Mapping[str, Any]) -> ContractChange:
    """As `parse_config`, for a change of a contract."""
    return _build(ContractChange, data, "contract")


def _build(cls: type[T], data: Any, where: str) -> T:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected an object, not {data!r}")  # noqa: TRY004 - callers catch ValueError only
    hints = _hints(cls)
    if unknown := sorted(set(data) - set(hints)):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(sorted(hints))}")
    values = {name: _value(hints[name], given, f"{where}.{name}") for name, given in data.items()}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


_HINTS: dict[type[Any], dict[str, Any]] = {}


def _hints(cls: type[Any]) -> dict[str, Any]:
    # Cached: evaluating annotations is slow, and tests parse thousands of configs.
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def _value(hint: Any, given: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in {Union, types.UnionType}:
        return _optional(hint, given, where)
    if origin is Literal:
        return _one_of(typing.get_args(hint), given, where)
    if origin is tuple:
        return _items(typing.get_args(hint), given, where)
    if dataclasses.is_dataclass(hint):
        return _build(cast("type[Any]", hint), _shorthand(hint, given), where)
    return _plain(hint, given, where)


def _optional(hint: Any, given: Any, where: str) -> Any:
    if given is None:
        return None
    (one,) = (arm for arm in typing.get_args(hint) if arm is not type(None))
    return _value(one, given, where)


def _one_of(choices: tuple[Any, ...], given: Any, where: str) -> Any:
    if given not in choices:
        raise ValueError(f"{where}: {given!r} is not one of {', '.join(map(repr, choices))}")
    return given


def _items(hints: tuple[Any, ...], given: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(given, list | tuple):
        raise ValueError(f"{where}: expected a list, not {given!r}")  # noqa: TRY004 - as in _build
    if hints[-1] is not Ellipsis and len(hints) != len(given):
        raise ValueError(f"{where}: expected {len(hints)} items, not {len(given)}")
    return tuple(_value(hints[0], item, f"{where}[{index}]") for index, item in enumerate(given))


def _shorthand(hint: Any, given: Any) -> Any:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if hint is Range and number:
        return {"low": given, "high": given}
    if hint is Range and isinstance(given, list | tuple) and len(given) == 2:
        return {"low": given[0], "high": given[1]}
    if hint is KeypairConfig and isinstance(given, str):
        return {"name": given}
    if hint is Trigger and number:
        return {"probability": given}
    if hint is Trigger and isinstance(given, list | tuple):
        return {"nth": given}
    return given


def _plain(hint: Any, given: Any, where: str) -> Any:
    if hint is float and isinstance(given, int) and not isinstance(given, bool):
        return float(given)
    if type(given) is not hint:
        raise ValueError(f"{where}: expected {hint.__name__}, not {given!r}")
    return given
