"""Attaches our callback URLs to VMs that others made, and takes them off again. What is replaced goes on record first."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

from service.core.ownership import ref_of_url
from service.core.token import CreationRef
from service.core.vm import Vm
from service.operations.provider_calls import CallResult, call_provider, is_outage
from service.runtime.runtime import Runtime
from service.storage import actions, imports
from service.storage.actions import Action
from service.storage.engine import begin, transact

Value = TypeVar("Value")

_AT_ONCE: Final = 8
#: How long all calls together wait for the rate limit, and how often they look.
_PATIENCE: Final = timedelta(minutes=2)
_WAIT_SECONDS: Final = 2.0


class Callbacks:
    """Changes the callback URLs of many VMs, a few at once. If the provider is away, the rest is left as it is."""

    def __init__(self, rt: Runtime, caller: str) -> None:
        self._rt, self._caller = rt, caller
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._until = rt.clock.now() + _PATIENCE
        self._stopped: str | None = None

    async def attach(self, vm: Vm, url: str, *, old: str | None) -> str | None:
        """Give a VM our URL, in place of `old`. Returns why not, if it could not be done."""
        provider_id = vm.provider_id or 0
        if old is not None:
            note = Action(
                vm.submission_id, self._rt.uuid(), "attach", self._caller, self._rt.clock.now(), vm.vm_no, detail=old
            )
            await transact(self._rt.engine, partial(actions.insert, asked=note))
        change = self._rt.client.attach_callback if old is None else self._rt.client.update_callback
        result = await self._call(vm, "attach callback", partial(change, provider_id, url))
        return self._why_not(result)

    async def detach(self, vm: Vm) -> str:
        """Take our URL off a VM, or put back the one that it had. Returns what was done, or why nothing was."""
        provider_id = vm.provider_id or 0
        seen = await self._call(vm, "get", partial(self._rt.client.get_vm, provider_id))
        if seen is None or seen.error is not None or seen.value is None:
            return self._why_not(seen) or "left"
        own = ref_of_url(seen.value.callback_url, self._rt.callback_secrets)
        if own != CreationRef(vm.submission_id, vm.creation_no):
            return "of others"
        async with begin(self._rt.engine) as conn:
            old = await imports.replaced_url(conn, vm.submission_id, vm.vm_no)
        client = self._rt.client
        back = (
            partial(client.delete_callback, provider_id)
            if old is None
            else partial(client.update_callback, provider_id, old)
        )
        result = await self._call(vm, "detach callback", back)
        return self._why_not(result) or ("removed" if old is None else "restored")

    async def _call(self, vm: Vm, label: str, make: Callable[[], Awaitable[Value]]) -> CallResult[Value] | None:
        async with self._slots:
            while self._stopped is None:
                result = await call_provider(
                    self._rt, "read", label, make, submission_id=vm.submission_id, provider_id=vm.provider_id
                )
                if result is not None:
                    if is_outage(result.error):
                        self._stopped = "the provider does not answer"
                    return result
                if self._rt.clock.now() >= self._until:
                    self._stopped = "the rate limit has no room"
                else:
                    await self._rt.clock.sleep(_WAIT_SECONDS)
            return None

    def _why_not(self, result: CallResult[Value] | None) -> str | None:
        if result is None:
            return f"not changed: {self._stopped}"
        return None if result.error is None else f"not changed: {result.error}"
