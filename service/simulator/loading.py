"""Parses plain data (from JSON) into the simulator's settings. Unknown keys are errors."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union, cast

from service.simulator import config_checks
from service.simulator.config import CloudConfig, ContractChange, KeypairConfig
from service.simulator.faults import Faults
from service.simulator.rng import Range, Trigger

T = TypeVar("T")
Report = Callable[[str], None]

#: Stands for a value with errors; they have been reported.
INVALID: Any = object()


def parse_config(data: Mapping[str, Any]) -> CloudConfig:
    """A config from plain data. Missing fields keep their defaults.

    Raises ValueError with one line per error, each with the path of the field. A `Range` may be a number or a pair, a
    `Trigger` a probability or a list of occasions, a `KeypairConfig` its name.
    """
    return _parse(CloudConfig, data, "config", config_checks.config_errors)


def parse_faults(data: Mapping[str, Any]) -> Faults:
    """As `parse_config`, for faults."""
    return _parse(Faults, data, "faults", config_checks.fault_errors)


def parse_contract_change(data: Mapping[str, Any]) -> ContractChange:
    """As `parse_config`, for a change of a contract."""
    return _parse(ContractChange, data, "contract", lambda _: [])


def _parse(cls: type[T], data: Any, path: str, check: Callable[[T], list[str]]) -> T:
    errors: list[str] = []
    value: T = _build(cls, data, path, errors.append)
    if not errors:
        errors += [f"{path}.{error}" for error in check(value)]
    if errors:
        raise ValueError("\n".join(errors))
    return value


def _build(cls: type[Any], data: Any, path: str, report: Report) -> Any:
    """An instance of `cls`, or INVALID."""
    if not isinstance(data, Mapping):
        return _invalid(report, f"{path}: expected an object, not {data!r}")
    hints = _hints(cls)
    if unknown := sorted(str(key) for key in data if key not in hints):
        report(f"{path}: unknown {', '.join(unknown)}; known are {', '.join(sorted(hints))}")
    values = {
        name: _value(hints[name], given, f"{path}.{name}", report) for name, given in data.items() if name in hints
    }
    if unknown or any(value is INVALID for value in values.values()):
        return INVALID
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        return _invalid(report, f"{path}: {error}")


def _invalid(report: Report, message: str) -> Any:
    report(message)
    return INVALID


_HINTS: dict[type[Any], dict[str, Any]] = {}


def _hints(cls: type[Any]) -> dict[str, Any]:
    # Cached: evaluating annotations is slow, and tests parse thousands of configs.
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def _value(hint: Any, given: Any, path: str, report: Report) -> Any:
    origin = typing.get_origin(hint)
    if origin in {Union, types.UnionType}:
        return _optional(hint, given, path, report)
    if origin is Literal:
        return _one_of(typing.get_args(hint), given, path, report)
    if origin is tuple:
        return _items(typing.get_args(hint), given, path, report)
    if dataclasses.is_dataclass(hint):
        return _build(cast("type[Any]", hint), _shorthand(hint, given), path, report)
    return _plain(hint, given, path, report)


def _optional(hint: Any, given: Any, path: str, report: Report) -> Any:
    if given is None:
        return None
    (one,) = (arm for arm in typing.get_args(hint) if arm is not type(None))
    return _value(one, given, path, report)


def _one_of(choices: tuple[Any, ...], given: Any, path: str, report: Report) -> Any:
    if given not in choices:
        return _invalid(report, f"{path}: {given!r} is not one of {', '.join(map(repr, choices))}")
    return given


def _items(hints: tuple[Any, ...], given: Any, path: str, report: Report) -> Any:
    if not isinstance(given, list | tuple):
        return _invalid(report, f"{path}: expected a list, not {given!r}")
    if hints[-1] is not Ellipsis and len(hints) != len(given):
        return _invalid(report, f"{path}: expected {len(hints)} items, not {len(given)}")
    items = tuple(_value(hints[0], item, f"{path}[{index}]", report) for index, item in enumerate(given))
    return INVALID if any(item is INVALID for item in items) else items


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


def _plain(hint: Any, given: Any, path: str, report: Report) -> Any:
    if hint is float and isinstance(given, int) and not isinstance(given, bool):
        return float(given)
    if type(given) is not hint:
        return _invalid(report, f"{path}: expected {hint.__name__}, not {given!r}")
    return given
