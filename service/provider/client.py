"""The client of the provider: one method for each call. It does not retry, wait, count or log; callers do."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from pydantic import SecretStr

from service import errors
from service.core.create_body import CreateBody
from service.core.observation import Contract, CreateAnswer, Flavor, HistoryEntry, Observation, Price, VmPage
from service.provider import answers, calls, wire
from service.provider.answers import Listed, NameAvailability, Stock
from service.provider.calls import ProviderRequest, ReassignRoute
from service.provider.wire import HttpResponse

Value = TypeVar("Value")

# Seconds for a whole call. Create calls may answer late, and giving up early only makes them unconfirmed.
TIMEOUT = 30.0
CREATE_TIMEOUT = 180.0


class Transport(Protocol):
    """Sends one request and returns the answer, of any status. It follows no redirect and tries once."""

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, within: float, /
    ) -> HttpResponse:
        """Send, and wait up to `within` seconds for the whole answer.

        Raises `TryLater` if the request certainly did not leave (connection refused, no such host, TLS failed),
        `Unconfirmed` if it may have, and no other `ServiceError`. The message holds no header.
        """


class Client:
    """Every call to the provider.

    Each method makes one request and raises a `ProviderError` if it fails: `TryLater` or `Refused` if it was certainly
    not done, `Unconfirmed` if it perhaps was (methods that only read never raise it). No error and no repr holds the
    API key.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        base_url: str,
        api_key: SecretStr,
        reassign: ReassignRoute | None = None,
        timeout: float = TIMEOUT,
        create_timeout: float = CREATE_TIMEOUT,
    ) -> None:
        key = api_key.get_secret_value()
        if not (key and key.isascii() and key.isprintable()) or " " in key:
            raise errors.ConfigError(
                [errors.FieldError("api_key", "must be printable ASCII without spaces, as issued")]
            )
        self._transport = transport
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._reassign = reassign
        self._timeout = timeout
        self._create_timeout = create_timeout

    @property
    def can_reassign(self) -> bool:
        """Whether a call that changes a VM's contract is configured."""
        return self._reassign is not None

    async def create(self, body: CreateBody) -> CreateAnswer:
        """Create VMs. After `Unconfirmed`, look them up before creating again: there is no idempotency key."""
        return await self._ask(calls.create(body), answers.created, within=self._create_timeout)

    async def list_vms(self, *, page: int = 1, page_size: int = 100, search: str | None = None) -> VmPage:
        """One page of all VMs, oldest first. `search` is a part of a name, in any case."""
        return await self._ask(calls.list_vms(page=page, page_size=page_size, search=search), answers.vm_page)

    async def get_vm(self, vm_id: int) -> Observation:
        """One VM. Raises `VmNotFound` if it is gone."""
        return await self._ask(calls.get_vm(vm_id), answers.vm)

    async def delete_vm(self, vm_id: int) -> None:
        """Begin to delete a VM. Raises `NotYet` while it is being created."""
        await self._ask(calls.delete_vm(vm_id), answers.done)

    async def vm_events(self, vm_id: int) -> tuple[HistoryEntry, ...]:
        """The events history of a VM, in no particular order."""
        return await self._ask(calls.vm_events(vm_id), answers.history)

    async def set_labels(self, vm_id: int, labels: Sequence[str]) -> None:
        """Replace a VM's labels."""
        await self._ask(calls.set_labels(vm_id, labels), answers.done)

    async def attach_callback(self, vm_id: int, url: str) -> None:
        """Set the callback URL, of at most 250 characters, of a VM that has none."""
        await self._ask(calls.attach_callback(vm_id, url), answers.done)

    async def update_callback(self, vm_id: int, url: str) -> None:
        await self._ask(calls.update_callback(vm_id, url), answers.done)

    async def delete_callback(self, vm_id: int) -> None:
        await self._ask(calls.delete_callback(vm_id), answers.done)

    async def reassign_contract(self, vm_id: int, contract_id: int) -> None:
        """Move a VM to a contract; only a refresh shows whether it worked. Raises `Refused` without a route."""
        if self._reassign is None:
            raise errors.Refused("no call that changes a VM's contract is configured")
        await self._ask(calls.reassign_contract(self._reassign, vm_id, contract_id), answers.done)

    async def name_availability(self, name: str, *, count: int = 1) -> NameAvailability:
        return await self._ask(calls.name_availability(name, count=count), answers.name_availability)

    async def contracts(self, *, page: int = 1, per_page: int = 100) -> tuple[Contract, ...]:
        return await self._ask(calls.contracts(page=page, per_page=per_page), answers.contracts)

    async def contract(self, contract_id: int) -> Contract:
        """One contract. Raises `Refused` with the reason "not_found" if there is none."""
        return await self._ask(calls.contract(contract_id), answers.contract)

    async def contract_vms(
        self, contract_id: int, *, page: int = 1, page_size: int = 100, search: str | None = None
    ) -> VmPage:
        """One page of the VMs on a contract. They come without addresses, labels, callback URL and environment."""
        call = calls.contract_vms(contract_id, page=page, page_size=page_size, search=search)
        return await self._ask(call, partial(answers.contract_vms, contract_id=contract_id))

    async def flavors(self, *, region: str | None = None) -> tuple[Flavor, ...]:
        return await self._ask(calls.flavors(region=region), answers.flavors)

    async def images(self, *, region: str | None = None) -> tuple[Listed, ...]:
        return await self._ask(calls.images(region=region), answers.images)

    async def environments(
        self, *, page: int = 1, page_size: int = 100, search: str | None = None
    ) -> tuple[Listed, ...]:
        return await self._ask(calls.environments(page=page, page_size=page_size, search=search), answers.environments)

    async def keypairs(self, *, page: int = 1, page_size: int = 100, search: str | None = None) -> tuple[Listed, ...]:
        return await self._ask(calls.keypairs(page=page, page_size=page_size, search=search), answers.keypairs)

    async def sg_rules_protocols(self) -> tuple[str, ...]:
        return await self._ask(calls.sg_rules_protocols(), answers.protocols)

    async def stocks(self) -> tuple[Stock, ...]:
        """The stock of each region. A create call may fail for lack of stock all the same."""
        return await self._ask(calls.stocks(), answers.stocks)

    async def pricebook(self) -> tuple[Price, ...]:
        return await self._ask(calls.pricebook(), answers.prices)

    async def _ask(
        self, call: ProviderRequest, parse: Callable[[Any], Value | None], *, within: float | None = None
    ) -> Value:
        key = self._api_key.get_secret_value()
        headers = {"accept": "application/json", "api_key": key}
        if call.body is not None:
            headers["content-type"] = "application/json"
        url = self._base_url + call.target
        try:
            answer = await self._transport.send(call.method, url, headers, call.body, within or self._timeout)
        except errors.Unconfirmed as error:
            raise wire.unsure(call)(str(error)) from error
        return wire.read(call, answer, parse, secret=key)
