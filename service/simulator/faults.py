"""The faults that can be configured. They are implemented next to the code that they affect.

All are off by default. A `Trigger` is a probability, a list of nth occasions, or both, within a period: see rng.py.
"""

# ruff: noqa: RUF009 - the defaults are frozen, so sharing them is safe

from dataclasses import dataclass
from typing import Literal

from service.simulator.rng import NEVER, Range, Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFaults:
    """Faults of a call. Each call of the kind that passes the rate limit and the API key check is an occasion.

    limited       429, although the limit is not reached; the handler does not run
    cut           the connection is closed; the handler does not run
    error_before  a 5xx; the handler does not run
    hang_before   no answer; the handler does not run
    lost          the connection is closed after the handler ran
    error_after   a 5xx after the handler ran
    hang_after    no answer after the handler ran
    unreadable    the body is truncated or not JSON
    slow          the answer takes `Faults.slow` seconds longer
    """

    limited: Trigger = NEVER
    cut: Trigger = NEVER
    error_before: Trigger = NEVER
    hang_before: Trigger = NEVER
    lost: Trigger = NEVER
    error_after: Trigger = NEVER
    hang_after: Trigger = NEVER
    unreadable: Trigger = NEVER
    slow: Trigger = NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackFaults:
    """Faults of a callback. Each callback of a VM is an occasion.

    `reordered` delays it until the VM's next callback was sent, or by `reorder_wait` seconds if there is none.
    `garbage` replaces the body with bytes that are not JSON, `nulled` nulls a status, `unmatched` adds a callback about a
    VM of another account.
    """

    lost: Trigger = NEVER
    repeated: Trigger = NEVER
    repeats: tuple[int, int] = (1, 3)
    delayed: Trigger = NEVER
    delay: Range = Range(30, 300)
    reordered: Trigger = NEVER
    reorder_wait: float = 60.0
    nulled: Trigger = NEVER
    garbage: Trigger = NEVER
    unmatched: Trigger = NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class VmFaults:
    """Faults of a VM. Each new VM is an occasion; for `delete_failed`, each delete.

    `stuck` stays in BUILD forever, `slow_build` for `slow_build_seconds`. `error` occurs `error_after` seconds after ACTIVE; `vanish` removes the VM without a
    callback, `vanish_after` seconds after the create. No document names a callback for a spontaneous ERROR:
    `error_silent` sends none.
    """

    boot_error: Trigger = NEVER
    stuck: Trigger = NEVER
    slow_build: Trigger = NEVER
    slow_build_seconds: Range = Range(300, 1800)
    error: Trigger = NEVER
    error_after: Range = Range(30, 600)
    error_silent: bool = False
    vanish: Trigger = NEVER
    vanish_after: Range = Range(30, 600)
    address_failed: Trigger = NEVER
    delete_failed: Trigger = NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """All faults. `create` applies to the create of VMs, `read` to calls that only read, `change` to all others.

    partial         a create answers 200 but creates fewer VMs than requested
    late            a create is answered with `late_answer`, and its VMs appear `late_after` seconds later
    early           the first callbacks of a create are sent before its answer
    slow            the additional seconds of a slow answer
    list_lag        a new VM appears in lists after this many seconds
    get_lags        until then GET answers 404, too
    shifted_page    a page starts one VM too early or too late
    labels_emptied  the labels are empty in an answer (each VM in each answer is an occasion)
    url_omitted     a list omits the callback URLs (each list is an occasion)
    no_reason       an error body has no `error_reason`
    retry_after     a 429 has a Retry-After header of `retry_after_seconds` real seconds
    no_balance      creates and new addresses are refused for insufficient balance
    no_stock        creates are refused for missing stock, whatever the stock
    phantom_stock   the stock endpoint reports 10+ whatever the stock
    unauthorized    the API key is refused
    outage          every connection is cut, and callbacks that become due are lost
    """

    create: CallFaults = CallFaults()
    read: CallFaults = CallFaults()
    change: CallFaults = CallFaults()
    callbacks: CallbackFaults = CallbackFaults()
    vms: VmFaults = VmFaults()
    partial: Trigger = NEVER
    late: Trigger = NEVER
    late_after: Range = Range(5, 60)
    late_answer: Literal["error", "hang", "cut"] = "error"
    early: Trigger = NEVER
    slow: Range = Range(2, 20)
    list_lag: Range = Range(0, 0)
    get_lags: bool = False
    shifted_page: Trigger = NEVER
    labels_emptied: Trigger = NEVER
    url_omitted: Trigger = NEVER
    no_reason: Trigger = NEVER
    retry_after: Trigger = NEVER
    retry_after_seconds: int = 60
    no_balance: Trigger = NEVER
    no_stock: Trigger = NEVER
    phantom_stock: bool = False
    unauthorized: Trigger = NEVER
    outage: Trigger = NEVER
