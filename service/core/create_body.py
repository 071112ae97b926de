"""The body of the provider's create call, with the rules of its create page (infrahub-api.md section 3.1)."""

import hashlib
import ipaddress
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    field_serializer,
    field_validator,
)
from pydantic_core import PydanticCustomError

from service.core.validation import field_errors_of, validate

__all__ = [
    "CreateBody",
    "CustomFlavor",
    "Profile",
    "SecurityRule",
    "VmSpec",
    "field_errors_of",
    "spec_without_user_data",
    "validate",
    "validate_create",
]

MAX_NAME = 50
MAX_COUNT = 20
MAX_CALLBACK_URL = 250

# https://infrahub-api.nexgencloud.com/v1/core/sg-rules-protocols lists them; infrahub-api.md section 3.1 copies the list.
Protocol = Literal[
    "any", "ah", "dccp", "egp", "esp", "gre", "hopopt", "icmp", "igmp", "ip", "ipip", "ipv6-encap", "ipv6-frag",
    "ipv6-icmp", "icmpv6", "ipv6-nonxt", "ipv6-opts", "ipv6-route", "ospf", "pgm", "rsvp", "sctp", "tcp", "udp",
    "udplite", "vrrp",
]  # fmt: skip
NETWORKS: Mapping[str, type[ipaddress.IPv4Network | ipaddress.IPv6Network]] = {
    "IPv4": ipaddress.IPv4Network,
    "IPv6": ipaddress.IPv6Network,
}


def wrong(message: str, *, field: str | None = None) -> PydanticCustomError:
    # `field` names the sibling that is wrong; field_errors_of puts it in place of the one being checked.
    return PydanticCustomError("rule", "{message}", {"message": message, "field": field})


def _not_blank(value: str) -> str:
    if not value.strip():
        raise wrong("must not be empty")
    return value


Text = Annotated[str, AfterValidator(_not_blank)]


class Part(BaseModel):
    # Strict, because the provider is: it would refuse "20" for 20 or 1 for true, but later.
    # Input is hidden because user_data and callback URLs hold secrets, and errors end in logs.
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


class SecurityRule(Part):
    """One firewall rule. TCP and UDP need both ports; other protocols take both or none."""

    direction: Literal["ingress", "egress"] = Field(description="the direction of the traffic")
    protocol: Protocol = Field(description="one of the protocols that GET /core/sg-rules-protocols lists")
    ethertype: Literal["IPv4", "IPv6"] = Field(description="the kind of addresses")
    remote_ip_prefix: str = Field(description="the address range, such as 0.0.0.0/0 for everyone")
    port_range_min: int | None = Field(default=None, ge=0, le=65535, description="the lowest port")
    port_range_max: int | None = Field(
        default=None, ge=0, le=65535, validate_default=True, description="the highest port"
    )

    @field_validator("remote_ip_prefix")
    @classmethod
    def _is_a_range(cls, value: str, info: ValidationInfo) -> str:
        kinds = [info.data["ethertype"]] if "ethertype" in info.data else list(NETWORKS)
        if not any(_is_cidr(value, NETWORKS[kind]) for kind in kinds):
            example = "2001:db8::/32" if kinds == ["IPv6"] else "203.0.113.0/24"
            raise wrong(f"{json.dumps(value)} is not an {' or '.join(kinds)} address range; write it like {example}")
        return value

    @field_validator("port_range_max")
    @classmethod
    def _ports_make_a_range(cls, highest: int | None, info: ValidationInfo) -> int | None:
        if "port_range_min" not in info.data:
            return highest
        lowest, protocol = info.data["port_range_min"], info.data.get("protocol")
        if lowest is None or highest is None:
            _check_missing_ports(lowest, highest, protocol)
        elif lowest > highest:
            raise wrong(f"is {highest}, below port_range_min {lowest}; swap them")
        elif protocol in {"tcp", "udp"} and lowest == 0:
            raise wrong(f"is 0, but {protocol} ports begin at 1", field="port_range_min")
        return highest


def _is_cidr(value: str, network: type[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    address, slash, length = value.partition("/")
    # ipaddress also takes a bare address, a netmask after the slash, and a zone: none of them is a CIDR.
    if not (slash and length.isascii() and length.isdigit()) or "%" in address:
        return False
    try:
        network(value, strict=False)
    except ValueError:
        return False
    return True


def _check_missing_ports(lowest: int | None, highest: int | None, protocol: str | None) -> None:
    needed = protocol in {"tcp", "udp"}
    if not needed and lowest is highest:
        return
    field = "port_range_min" if lowest is None else "port_range_max"
    both = f"{protocol} needs both ports" if needed else "give both ports or none"
    raise wrong(f"is missing: {both}", field=field)


class CustomFlavor(Part):
    """A custom flavor. `ram` and `disk` are in GB."""

    cpu: int | None = Field(default=None, ge=1, description="the number of CPU cores")
    ram: float | None = Field(default=None, gt=0, description="memory in GB")
    disk: int | None = Field(default=None, ge=0, description="disk in GB")
    gpu: str | None = Field(default=None, description="the GPU model")
    gpu_count: int | None = Field(default=None, ge=0, description="the number of GPUs")

    @field_serializer("ram")
    def _as_integer_if_whole(self, ram: float | None) -> object:
        # The page shows 120.0 and the schema says integer: 120 suits both. With a return type of float, pydantic would
        # turn it back into 120.0.
        return int(ram) if ram is not None and ram.is_integer() else ram


class Profile(Part):
    """A provisioning profile to save this configuration as."""

    name: Text = Field(description="the profile's name")
    description: str | None = Field(default=None, description="what the profile is for")


class VmSpec(Part):
    """What every VM of a submission is made from: the create body without count and callback URL."""

    name: Text = Field(max_length=MAX_NAME, description="the VM's name")
    environment_name: Text = Field(description="the environment, which decides the region")
    image_name: Text | None = Field(default=None, description="the operating system image")
    flavor_name: Text = Field(description="the hardware; GET /core/flavors lists them")
    key_name: Text = Field(description="the SSH keypair, which must belong to the environment")
    assign_floating_ip: bool | None = Field(default=None, description="whether to assign a public address")
    enable_port_randomization: bool | None = Field(
        default=None, description="whether to randomize ports; it matters only with assign_floating_ip"
    )
    security_rules: Annotated[tuple[SecurityRule, ...], Strict(strict=False)] | None = Field(
        default=None, description="firewall rules to create with the VM"
    )
    create_bootable_volume: bool | None = Field(default=None, description="whether to boot from a new volume")
    volume_name: Text | None = Field(
        default=None, validate_default=True, description="an existing bootable volume, instead of an image"
    )
    user_data: str | None = Field(default=None, repr=False, description="a cloud-init script")
    profile: Profile | None = Field(default=None, description="a profile to save this configuration as")
    labels: Annotated[tuple[str, ...], Strict(strict=False)] | None = Field(
        default=None, description="labels of the VM"
    )
    contract_id: int | None = Field(default=None, gt=0, description="the contract to assign the VM to")
    flavor: CustomFlavor | None = Field(default=None, description="a custom flavor")
    enhanced_monitoring_enabled: bool | None = Field(default=None, description="whether to admit the monitoring agent")

    @field_validator("volume_name")
    @classmethod
    def _boots_from_one_thing(cls, volume: str | None, info: ValidationInfo) -> str | None:
        # Fields that are invalid themselves are not in info.data; they were reported already.
        if volume is None and info.data.get("image_name", "") is None:
            hint = "name the operating system image, or with volume_name an existing bootable volume"
            raise wrong(f"is missing: {hint}", field="image_name")
        if volume is not None and info.data.get("image_name") is not None:
            raise wrong("must be left out with volume_name: the volume has its own system", field="image_name")
        if volume is not None and info.data.get("create_bootable_volume"):
            raise wrong("must be false or left out with volume_name, which exists", field="create_bootable_volume")
        return volume

    def to_json(self) -> dict[str, Any]:
        """The body as JSON values, without fields that are unset or null: the provider has its own defaults."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_bytes(self) -> bytes:
        """The body as UTF-8 JSON. The same spec always gives the same bytes."""
        return json.dumps(self.to_json(), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()

    def redacted(self) -> dict[str, Any]:
        """`to_json` without secrets: user_data becomes its size and the beginning of its SHA-256."""
        shown = self.to_json()
        if self.user_data is not None:
            shown["user_data"] = summary_of_secret(self.user_data)
        return shown


def spec_without_user_data(stored: Mapping[str, Any]) -> VmSpec:
    """The spec of a submission as it is stored, without its user_data, which is encrypted there."""
    return VmSpec.model_validate({key: value for key, value in stored.items() if key != "user_data"})


class CreateBody(VmSpec):
    """The whole body of one create call."""

    count: int = Field(ge=1, le=MAX_COUNT, description=f"how many VMs to create, 1 to {MAX_COUNT} in one call")
    # The URL holds a MAC that lets its holder post events, so no repr shows it.
    callback_url: str | None = Field(
        default=None, max_length=MAX_CALLBACK_URL, repr=False, description="where the provider posts events"
    )

    @field_validator("callback_url")
    @classmethod
    def _is_a_web_address(cls, value: str | None) -> str | None:
        if value is not None and not _is_web_url(value):
            raise wrong("must be a whole http or https URL, such as https://example.com/callbacks/1f")
        return value

    def redacted(self) -> dict[str, Any]:
        """As for a spec; the callback URL loses the last segment of its path, and all after it."""
        shown = super().redacted()
        if self.callback_url is not None:
            url = urlsplit(self.callback_url)
            shown["callback_url"] = f"{url.scheme}://{_host(url.netloc)}{url.path.rstrip('/').rpartition('/')[0]}/…"
        return shown

    @classmethod
    def of(cls, spec: VmSpec, *, count: int, callback_url: str | None = None, **changes: Any) -> Self:
        """The body that creates `count` VMs of `spec`, with `changes` to its fields (a name, labels).

        Raises `Invalid` as `validate_create` does.
        """
        return validate(cls, {**spec.to_json(), **changes, "count": count, "callback_url": callback_url})


def summary_of_secret(text: str) -> str:
    """The size in bytes of a secret text, and the beginning of its SHA-256."""
    secret = text.encode()
    return f"{len(secret)} bytes, sha256 {hashlib.sha256(secret).hexdigest()[:12]}…"


def _host(netloc: str) -> str:
    return netloc.rpartition("@")[2]


def _is_web_url(value: str) -> bool:
    if not (value.isascii() and value.isprintable()) or " " in value:
        return False
    try:
        url = urlsplit(value)
        return url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:  # a bad port, or brackets that hold no address
        return False


def validate_create(data: Mapping[str, Any]) -> CreateBody:
    """Read the body of one create call.

    Raises `Invalid` with every error, each with its field ("security_rules.0.port_range_min") and what to do about it.
    A null is the same as an absent field.
    """
    return validate(CreateBody, data)
