"""Validates the create body and parses it into a `CreateRequest`: infrahub-api.md section 3.1."""

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from service.simulator.config import CloudConfig, EnvironmentConfig, FlavorConfig
from service.simulator.http import ApiError
from service.simulator.keypairs import Keypair

Named = TypeVar("Named", EnvironmentConfig, FlavorConfig)

MAX_NAME = 50
MAX_URL = 250
PROTOCOLS = (
    "any", "ah", "dccp", "egp", "esp", "gre", "hopopt", "icmp", "igmp", "ip", "ipip", "ipv6-encap", "ipv6-frag",
    "ipv6-icmp", "icmpv6", "ipv6-nonxt", "ipv6-opts", "ipv6-route", "ospf", "pgm", "rsvp", "sctp", "tcp", "udp",
    "udplite", "vrrp",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """A valid create body with the provider's defaults filled in."""

    name: str
    count: int
    environment: EnvironmentConfig
    flavor: FlavorConfig
    image: str | None
    key_name: str
    labels: tuple[str, ...]
    callback_url: str | None
    assign_address: bool
    port_randomization: bool
    contract_id: int | None
    security_rules: tuple[Mapping[str, Any], ...]


def parse_create_request(body: Any, config: CloudConfig, keypairs: Iterable[Keypair]) -> CreateRequest:
    """Raises `ApiError`: 400 for an invalid field or scope, 404 for an unknown flavor, environment or keypair."""
    fields = _check_types(body)
    _check_limits(fields, config)
    environment = _find(config.environments, fields["environment_name"], "Environment")
    return CreateRequest(
        name=fields["name"],
        count=fields["count"],
        environment=environment,
        flavor=_flavor(fields["flavor_name"], environment, config),
        image=_image(fields, config),
        key_name=_key(fields["key_name"], environment, config, keypairs),
        labels=tuple(fields.get("labels") or ()),
        callback_url=normalize_callback_url(fields.get("callback_url")),
        assign_address=bool(fields.get("assign_floating_ip")),
        port_randomization=fields.get("enable_port_randomization") is not False,
        contract_id=fields.get("contract_id"),
        security_rules=tuple(parse_rule(rule) for rule in fields.get("security_rules") or ()),
    )


def normalize_callback_url(url: str | None) -> str | None:
    """The callback URL as the provider stores it: its query string in lower case (section 1.1), None if empty.

    Raises `ApiError` if it is too long or not an HTTP URL.
    """
    if not url:
        return None
    if len(url) > MAX_URL:
        raise ApiError(400, f"callback_url must not exceed {MAX_URL} characters.")
    if not url.startswith(("http://", "https://")):
        raise ApiError(400, "callback_url is not a valid URL.")
    path, separator, query = url.partition("?")
    return path + separator + query.lower()


def parse_rule(rule: Any) -> dict[str, Any]:
    """A security rule; raises `ApiError` if it breaks a rule of the create page."""
    if not isinstance(rule, Mapping):
        raise ApiError(400, "security_rules must be a list of objects.")
    for name, allowed in RULE_CHOICES.items():
        if rule.get(name) not in allowed:
            raise ApiError(400, f"security rule: {name} must be one of {', '.join(allowed)}.")
    try:
        ipaddress.ip_network(str(rule.get("remote_ip_prefix")), strict=False)
    except ValueError as error:
        raise ApiError(400, "security rule: remote_ip_prefix is not a valid CIDR.") from error
    ports = [rule.get("port_range_min"), rule.get("port_range_max")]
    if rule["protocol"] in {"tcp", "udp"} and not all(_port(port) for port in ports):
        raise ApiError(400, "security rule: port_range_min and port_range_max are required for tcp and udp.")
    return {**{name: rule[name] for name in RULE_CHOICES}, "remote_ip_prefix": rule["remote_ip_prefix"]} | {
        "port_range_min": ports[0],
        "port_range_max": ports[1],
    }


RULE_CHOICES: Mapping[str, tuple[str, ...]] = {
    "direction": ("ingress", "egress"),
    "ethertype": ("IPv4", "IPv6"),
    "protocol": PROTOCOLS,
}


def _port(value: Any) -> bool:
    return _is(int)(value) and 0 < value < 65536


def _is(kind: type) -> Callable[[Any], bool]:
    # In Python a bool is an int; for the provider it is not.
    return lambda value: type(value) is kind


def _is_string_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_profile(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("name"), str)


REQUIRED = ("name", "environment_name", "flavor_name", "key_name", "count")
TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("a string", _is(str)),
    "environment_name": ("a string", _is(str)),
    "flavor_name": ("a string", _is(str)),
    "key_name": ("a string", _is(str)),
    "image_name": ("a string", _is(str)),
    "volume_name": ("a string", _is(str)),
    "user_data": ("a string", _is(str)),
    "callback_url": ("a string", _is(str)),
    "count": ("an integer", _is(int)),
    "contract_id": ("an integer", _is(int)),
    "create_bootable_volume": ("a boolean", _is(bool)),
    "assign_floating_ip": ("a boolean", _is(bool)),
    "enable_port_randomization": ("a boolean", _is(bool)),
    "enhanced_monitoring_enabled": ("a boolean", _is(bool)),
    "security_rules": ("a list", _is(list)),
    "labels": ("a list of strings", _is_string_list),
    "flavor": ("an object", _is(dict)),
    "profile": ("an object with a name", _is_profile),
}


def _check_types(body: Any) -> dict[str, Any]:
    """The fields that are not null. Unknown keys are ignored."""
    if not isinstance(body, Mapping):
        raise ApiError(400, "The request body must be a JSON object.")
    fields = {name: value for name, value in body.items() if value is not None}
    if missing := [name for name in REQUIRED if name not in fields or fields[name] == ""]:
        raise ApiError(400, f"Missing required field: {', '.join(missing)}.")
    for name, value in fields.items():
        kind, is_valid = TYPES.get(name, ("anything", lambda _: True))
        if not is_valid(value):
            raise ApiError(400, f"{name} must be {kind}.")
    return fields


def _check_limits(fields: Mapping[str, Any], config: CloudConfig) -> None:
    if len(fields["name"]) > MAX_NAME:
        raise ApiError(400, f"Name must not exceed {MAX_NAME} characters.")
    if not 1 <= fields["count"] <= config.max_count:
        raise ApiError(400, f"count must be between 1 and {config.max_count}.")


def _find(choices: tuple[Named, ...], name: str, what: str) -> Named:
    for choice in choices:
        if choice.name == name:
            return choice
    raise ApiError(404, f"{what} {name} not found")


def _image(fields: Mapping[str, Any], config: CloudConfig) -> str | None:
    """The image, or None if an existing bootable volume is given. Exactly one of them is required."""
    image, volume = fields.get("image_name"), fields.get("volume_name")
    if bool(image) == bool(volume):
        raise ApiError(400, "Provide either image_name or the volume_name of an existing bootable volume.")
    if volume and fields.get("create_bootable_volume"):
        raise ApiError(400, "create_bootable_volume must be false when volume_name is given.")
    if volume and volume not in config.volumes:
        raise ApiError(400, f"Volume {volume} does not exist")
    if image and image not in config.images:
        raise ApiError(400, "Image does not exist", "not_found")
    return image or None


def _flavor(name: str, environment: EnvironmentConfig, config: CloudConfig) -> FlavorConfig:
    """The flavor in the environment's region. The texts of the two scope errors are not known (section 10)."""
    local = tuple(flavor for flavor in config.flavors if flavor.region == environment.region)
    flavor = _find(local + config.flavors, name, "Flavor")
    if config.enforce_scopes and flavor.region != environment.region:
        raise ApiError(400, f"Flavor {name} is not available in region {environment.region}.")
    return flavor


def _key(name: str, environment: EnvironmentConfig, config: CloudConfig, keypairs: Iterable[Keypair]) -> str:
    environments = {keypair.environment for keypair in keypairs if keypair.name == name}
    if not environments:
        raise ApiError(404, f"Keypair {name} not found")
    if config.enforce_scopes and environment not in environments:
        raise ApiError(400, f"Keypair {name} does not belong to environment {environment.name}.")
    return name
