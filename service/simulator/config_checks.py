"""Checks of a config that concern several fields or the range of a value. Each error begins with the field's path."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from service.simulator.config import CloudConfig
from service.simulator.faults import CallFaults, Faults

FAULT_GROUPS = ("create", "read", "change", "list", "get", "delete")


def config_errors(config: CloudConfig) -> list[str]:
    checks: tuple[Callable[[CloudConfig], Iterator[str]], ...] = (_numbers, _names, _references, _dates)
    errors = [error for check in checks for error in check(config)]
    return errors + [f"faults.{error}" for error in fault_errors(config.faults)]


def fault_errors(faults: Faults) -> list[str]:
    errors = [f"{group}.{error}" for group in FAULT_GROUPS for error in _call_fault_errors(getattr(faults, group))]
    low, high = faults.callbacks.repeats
    if not 0 <= low <= high:
        errors.append("callbacks.repeats: must satisfy 0 <= first <= second")
    if faults.callbacks.reorder_wait < 0:
        errors.append("callbacks.reorder_wait: must not be negative")
    if faults.vms.crowd_size < 0:
        errors.append("vms.crowd_size: must not be negative")
    if not faults.vms.unknown_statuses:
        errors.append("vms.unknown_statuses: must not be empty")
    if faults.retry_after_seconds < 0:
        errors.append("retry_after_seconds: must not be negative")
    return errors


def _call_fault_errors(faults: CallFaults) -> Iterator[str]:
    if not faults.gateway_statuses:
        yield "gateway_statuses: must not be empty"
    for status in faults.gateway_statuses:
        if not 200 <= status <= 599:
            yield f"gateway_statuses: {status} is not a status from 200 to 599"
    if faults.bad_field_count < 1:
        yield "bad_field_count: must be at least 1"
    for text in faults.bad_field_values:
        if text and not _is_json(text):
            yield f"bad_field_values: {text!r} is not JSON"


def _is_json(text: str) -> bool:
    try:
        # Any size is allowed: Python limits the digits of an int.
        json.loads(text, parse_int=str)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _numbers(config: CloudConfig) -> Iterator[str]:
    for name in ("max_count", "max_page_size"):
        if getattr(config, name) < 1:
            yield f"{name}: must be at least 1"
    for name in ("rate_limit", "deleted_visible", "first_vm_id"):
        if not 0 <= getattr(config, name) < math.inf:
            yield f"{name}: must not be negative or infinite"
    if not 0 < config.rate_window < math.inf:
        yield "rate_window: must be positive"
    if not 0 <= config.callback_variety <= 1:
        yield "callback_variety: must be between 0 and 1"


def _names(config: CloudConfig) -> Iterator[str]:
    yield from _duplicates("environments", (one.name for one in config.environments))
    yield from _duplicates("flavors", (f"{one.name} in {one.region}" for one in config.flavors))
    yield from _duplicates("contracts", (str(one.id) for one in config.contracts))
    for name in ("families", "api_key_headers"):
        if not getattr(config, name):
            yield f"{name}: must not be empty"
    try:
        config.name_pattern.format(name="vm", i=1)
    except (LookupError, ValueError, AttributeError):
        yield f"name_pattern: {config.name_pattern!r} may contain only {{name}} and {{i}}"


def _references(config: CloudConfig) -> Iterator[str]:
    environments = {one.name for one in config.environments}
    for index, keypair in enumerate(config.keypairs):
        if keypair.environment is not None and keypair.environment not in environments:
            yield f"keypairs[{index}].environment: there is no environment {keypair.environment!r}"
    yield from _changes(config)


def _changes(config: CloudConfig) -> Iterator[str]:
    flavors = {one.name for one in config.flavors}
    contracts = {one.id for one in config.contracts}
    for index, stock_change in enumerate(config.stock_changes):
        if stock_change.flavor not in flavors:
            yield f"stock_changes[{index}].flavor: there is no flavor {stock_change.flavor!r}"
    priced = {one.gpu or one.name for one in config.flavors}
    for index, price_change in enumerate(config.price_changes):
        if price_change.resource not in priced:
            yield f"price_changes[{index}].resource: nothing has a price under {price_change.resource!r}"
    for index, contract_change in enumerate(config.contract_changes):
        if contract_change.contract_id not in contracts:
            yield f"contract_changes[{index}].contract_id: there is no contract {contract_change.contract_id}"


def _dates(config: CloudConfig) -> Iterator[str]:
    for index, contract in enumerate(config.contracts):
        for name in ("start_date", "end_date"):
            if not _is_date(getattr(contract, name)):
                yield f"contracts[{index}].{name}: {getattr(contract, name)!r} is not an ISO 8601 date"
    for index, change in enumerate(config.contract_changes):
        if change.end_date is not None and not _is_date(change.end_date):
            yield f"contract_changes[{index}].end_date: {change.end_date!r} is not an ISO 8601 date"


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        return False
    return True


def _duplicates(field: str, names: Iterable[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{field}: {name} occurs {count} times"
