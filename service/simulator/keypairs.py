"""Keypairs: those from the config and those imported by POST /core/keypairs. infrahub-api.md section 10."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.simulator.config import EnvironmentConfig
from service.simulator.http import ApiError

if TYPE_CHECKING:
    from service.simulator.fleet import SimulatedFleet

MAX_NAME = 50
KEY_TYPES = ("ssh-rsa ", "ssh-ed25519 ", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-")


@dataclass(frozen=True, slots=True)
class Keypair:
    name: str
    environment: EnvironmentConfig
    public_key: str
    created_at: float = 0.0


def all_keypairs(fleet: "SimulatedFleet") -> list[Keypair]:
    configured = [
        Keypair(keypair.name, environment, f"ssh-ed25519 AAAA {keypair.name}")
        for keypair in fleet.config.keypairs
        for environment in fleet.config.environments
        if keypair.environment in {None, environment.name}
    ]
    return configured + fleet.imported_keypairs


def import_keypair(fleet: "SimulatedFleet", body: Any, now: float) -> Keypair:
    """Add a keypair. Raises `ApiError`: 400, 404 for the environment, 409 for a name that the environment has."""
    name, environment_name, public_key = _fields(body)
    environment = next((one for one in fleet.config.environments if one.name == environment_name), None)
    if environment is None:
        raise ApiError(404, f"Environment {environment_name} not found")
    if any(one.name == name and one.environment == environment for one in all_keypairs(fleet)):
        raise ApiError(409, f"Keypair {name} already exists.")
    keypair = Keypair(name, environment, public_key, now)
    fleet.imported_keypairs.append(keypair)
    return keypair


def serialize(fleet: "SimulatedFleet", keypair: Keypair) -> dict[str, Any]:
    """The keypair in the provider's form."""
    number = 1 + all_keypairs(fleet).index(keypair)
    environment = keypair.environment
    return {
        "id": number,
        "name": keypair.name,
        "environment": {
            "id": 668 + fleet.config.environments.index(environment),
            "name": environment.name,
            "region": environment.region,
            "features": {"network_optimised": False, "green_status": "GREEN"},
            "created_at": fleet.calendar.text(0),
        },
        "public_key": keypair.public_key,
        "fingerprint": f"{number:02x}:00:00:00",
        "created_at": fleet.calendar.text(keypair.created_at),
    }


def _fields(body: Any) -> tuple[str, str, str]:
    if not isinstance(body, Mapping):
        raise ApiError(400, "The request body must be a JSON object.")
    values = [body.get(key) for key in ("name", "environment_name", "public_key")]
    name, environment_name, public_key = (value if isinstance(value, str) else "" for value in values)
    if not (name and environment_name and public_key):
        raise ApiError(400, "name, environment_name and public_key are required and must be strings.")
    if len(name) > MAX_NAME:
        raise ApiError(400, f"Name must not exceed {MAX_NAME} characters.")
    if not public_key.startswith(KEY_TYPES):
        raise ApiError(400, "The public key is not valid.")
    return name, environment_name, public_key
