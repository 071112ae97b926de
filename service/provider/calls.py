"""The requests to the provider: one constructor for each call.

Paths are relative to the base URL, which ends in /v1. Their sources are sections 3 to 5 of infrahub-api.md.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from service import errors
from service.core.create_body import CreateBody

VMS = "/core/virtual-machines"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRequest:
    """One request to the provider.

    `safe`: it only reads, so it may always be repeated. `not_found` is the error for a 404: it means that the VM is
    absent only if the path names nothing but a VM.
    """

    operation: str
    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = field(default=None, repr=False)
    safe: bool
    not_found: type[errors.Refused] = errors.Refused

    @property
    def target(self) -> str:
        """The encoded path and query, after the base URL."""
        return f"{self.path}?{urlencode(self.query, quote_via=quote)}" if self.query else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class ReassignRoute:
    """The call that changes a VM's contract. No public page names one (infrahub-api.md section 4.2).

    `path` holds "{vm_id}", and "{contract_id}" if it must; the body is `{"contract_id": n}` either way.
    Raises `ConfigError` if that is no route.
    """

    method: str
    path: str

    def __post_init__(self) -> None:
        field_errors = []
        if self.method not in {"PATCH", "POST", "PUT"}:
            field_errors.append(errors.FieldError("reassign method", f"is {self.method}; use PATCH, POST or PUT"))
        if not self.path.startswith("/") or "{vm_id}" not in self.path:
            field_errors.append(
                errors.FieldError("reassign path", f"is {self.path}; begin with / and contain {{vm_id}}")
            )
        if field_errors:
            raise errors.ConfigError(field_errors)


def create(body: CreateBody) -> ProviderRequest:
    return ProviderRequest(operation="create", method="POST", path=VMS, body=body.to_bytes(), safe=False)


def list_vms(*, page: int, page_size: int, search: str | None = None) -> ProviderRequest:
    return _get("list_vms", VMS, page=page, pageSize=page_size, search=search)


def get_vm(vm_id: int) -> ProviderRequest:
    return _get("get_vm", f"{VMS}/{vm_id}", not_found=errors.VmNotFound)


def delete_vm(vm_id: int) -> ProviderRequest:
    return _change("delete_vm", "DELETE", vm_id)


def vm_events(vm_id: int) -> ProviderRequest:
    return _get("vm_events", f"{VMS}/{vm_id}/events", not_found=errors.VmNotFound)


def set_labels(vm_id: int, labels: Sequence[str]) -> ProviderRequest:
    return _change("set_labels", "PUT", vm_id, "/label", {"labels": list(labels)})


def attach_callback(vm_id: int, url: str) -> ProviderRequest:
    return _change("attach_callback", "POST", vm_id, "/attach-callback", {"url": url})


def update_callback(vm_id: int, url: str) -> ProviderRequest:
    return _change("update_callback", "PUT", vm_id, "/update-callback", {"url": url})


def delete_callback(vm_id: int) -> ProviderRequest:
    return _change("delete_callback", "DELETE", vm_id, "/delete-callback")


def reassign_contract(route: ReassignRoute, vm_id: int, contract_id: int) -> ProviderRequest:
    # The 404 may be about the contract, so it does not mean that the VM is absent.
    path = route.path.replace("{vm_id}", str(vm_id)).replace("{contract_id}", str(contract_id))
    body = _json({"contract_id": contract_id})
    return ProviderRequest(operation="reassign_contract", method=route.method, path=path, body=body, safe=False)


def name_availability(name: str, *, count: int) -> ProviderRequest:
    return _get("name_availability", f"{VMS}/name-availability/{quote(name, safe='')}", count=count)


def contracts(*, page: int, per_page: int) -> ProviderRequest:
    # per_page; every other list says pageSize: infrahub-api.md section 4.1.
    return _get("contracts", "/pricebook/contracts", page=page, per_page=per_page)


def contract(contract_id: int) -> ProviderRequest:
    return _get("contract", f"/pricebook/contracts/{contract_id}")


def contract_vms(contract_id: int, *, page: int, page_size: int, search: str | None = None) -> ProviderRequest:
    path = f"{VMS}/contract/{contract_id}/virtual-machines"
    return _get("contract_vms", path, page=page, pageSize=page_size, search=search)


def flavors(*, region: str | None = None) -> ProviderRequest:
    return _get("flavors", "/core/flavors", region=region)


def images(*, region: str | None = None) -> ProviderRequest:
    return _get("images", "/core/images", region=region)


def environments(*, page: int, page_size: int, search: str | None = None) -> ProviderRequest:
    return _get("environments", "/core/environments", page=page, pageSize=page_size, search=search)


def keypairs(*, page: int, page_size: int, search: str | None = None) -> ProviderRequest:
    return _get("keypairs", "/core/keypairs", page=page, pageSize=page_size, search=search)


def sg_rules_protocols() -> ProviderRequest:
    return _get("sg_rules_protocols", "/core/sg-rules-protocols")


def stocks() -> ProviderRequest:
    return _get("stocks", "/core/stocks")


def pricebook() -> ProviderRequest:
    return _get("pricebook", "/pricebook")


def _get(
    operation: str, path: str, not_found: type[errors.Refused] = errors.Refused, **query: str | int | None
) -> ProviderRequest:
    wanted = tuple((key, str(value)) for key, value in query.items() if value is not None)
    return ProviderRequest(operation=operation, method="GET", path=path, query=wanted, safe=True, not_found=not_found)


def _change(
    operation: str, method: str, vm_id: int, below: str = "", body: Mapping[str, Any] | None = None
) -> ProviderRequest:
    return ProviderRequest(
        operation=operation,
        method=method,
        path=f"{VMS}/{vm_id}{below}",
        body=None if body is None else _json(body),
        safe=False,
        not_found=errors.VmNotFound,
    )


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
