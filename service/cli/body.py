"""Build the body of a submission from flags and a file. The daemon validates it."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from service.cli.exits import CliError, Exit
from service.client.requests import SubmissionRequestJson


def of(file: str | None, fields: Mapping[str, object], policy: Mapping[str, object]) -> SubmissionRequestJson:
    """The file's body with the flags over it. `count` is 1 if neither has it."""
    body: dict[str, Any] = {"count": 1, **(read(file) if file is not None else {})}
    body |= {name: value for name, value in fields.items() if value is not None}
    policy_flags = {name: value for name, value in policy.items() if value is not None}
    if policy_flags:
        body["policy"] = {**_object(body.get("policy", {}), "policy"), **policy_flags}
    return cast("SubmissionRequestJson", body)  # which the daemon checks


def read(file: str) -> dict[str, Any]:
    """The JSON object of a file, or of standard input for `-`."""
    text = sys.stdin.read() if file == "-" else text_of(Path(file))
    try:
        return _object(json.loads(text), file)
    except ValueError as error:
        raise CliError(Exit.USAGE, f"{file} is not JSON: {error}") from error


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CliError(Exit.USAGE, f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CliError(Exit.USAGE, f"{path} is not text in UTF-8") from error


def duration(text: str | None) -> float | str | None:
    """A duration for the body: a number as a number, anything else as it is written; the daemon reads it."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def security_rules(texts: Sequence[str] | None) -> list[dict[str, Any]] | None:
    """Rules that let traffic in, each from PROTOCOL:PORTS:CIDR, such as `tcp:22:203.0.113.0/24` or `icmp::0.0.0.0/0`."""
    return [_rule(text) for text in texts] if texts else None


_ALTERNATIVE: Final = {
    "flavor": "flavor_name",
    "environment": "environment_name",
    "image": "image_name",
    "key": "key_name",
    "contract": "contract_id",
    "max-price": "max_price_per_hour",
}


def alternatives(texts: Sequence[str] | None) -> list[dict[str, Any]] | None:
    """Alternatives, each from `flavor=F,environment=E`, and if they differ `image=`, `key=`, and `contract=N` or `contract=none`.

    `max-price=` is what a VM of it may cost per hour.
    """
    return [_alternative(text) for text in texts] if texts else None


def _alternative(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        field = _ALTERNATIVE.get(name.strip())
        if field is None or not equals:
            raise CliError(
                Exit.USAGE,
                f"--alternative {text!r}: write flavor=F,environment=E, and image=, key=, contract= if they differ; max-price=",
            )
        if field != "contract_id":
            found[field] = value
        elif value == "none":
            found["on_demand"] = True
        else:
            found[field] = int(value) if value.isascii() and value.isdigit() else value
    return found


def _rule(text: str) -> dict[str, Any]:
    protocol, _, rest = text.partition(":")
    ports, colon, network = rest.partition(":")
    if not colon or not network:
        raise CliError(
            Exit.USAGE, f"--security-rule {text!r}: write PROTOCOL:PORTS:CIDR, such as tcp:22:203.0.113.0/24"
        )
    rule: dict[str, Any] = {
        "direction": "ingress",
        "ethertype": "IPv6" if ":" in network else "IPv4",
        "protocol": protocol,
        "remote_ip_prefix": network,
    }
    if ports:
        first, _, last = ports.partition("-")
        rule["port_range_min"], rule["port_range_max"] = _port(first, text), _port(last or first, text)
    return rule


def _port(text: str, rule: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise CliError(Exit.USAGE, f"--security-rule {rule!r}: {text!r} is not a port")
    return int(text)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CliError(Exit.USAGE, f"{where} must hold a JSON object")
    return value
