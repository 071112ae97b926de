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

    With a probability of 1, `since` and `until`, `error_before` is an outage of one operation.

    limited        429, although the limit is not reached; the handler does not run
    cut            the connection is closed; the handler does not run
    error_before   a 5xx; the handler does not run
    hang_before    no answer; the handler does not run
    gateway        a gateway answers with HTML and one of `gateway_statuses`; the handler does not run
    lost           the connection is closed after the handler ran
    error_after    a 5xx after the handler ran
    gateway_after  as gateway, after the handler ran
    bad_fields     `bad_field_count` fields of a successful answer get a value from `bad_field_values`, which are JSON
                   texts or "" for a removed field; by default nulls, numbers of any size, lone surrogates, control
                   characters, long strings, deep nesting and more. `bad_field_names` restricts the fields: "id" for
                   any id, "flavor.name" for names of flavors. By default any field at any depth.
    hang_after     no answer after the handler ran
    unreadable     the body is truncated or not JSON
    slow           the answer takes `Faults.slow` seconds longer
    hang           the handler runs at once, but the answer takes `hang_seconds`
    """

    limited: Trigger = NEVER
    cut: Trigger = NEVER
    error_before: Trigger = NEVER
    hang_before: Trigger = NEVER
    gateway: Trigger = NEVER
    gateway_statuses: tuple[int, ...] = (302, 404, 502)
    lost: Trigger = NEVER
    error_after: Trigger = NEVER
    gateway_after: Trigger = NEVER
    bad_fields: Trigger = NEVER
    bad_field_count: int = 1
    bad_field_names: tuple[str, ...] = ()
    bad_field_values: tuple[str, ...] = ()
    hang_after: Trigger = NEVER
    unreadable: Trigger = NEVER
    slow: Trigger = NEVER
    hang: Trigger = NEVER
    hang_seconds: Range = Range(70, 180)


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

    boot_error      the create ends in ERROR
    stuck           the VM stays in BUILD forever
    slow_build      it stays in BUILD for `slow_build_seconds`
    error           it falls into ERROR, `error_after` seconds after ACTIVE. No document names a callback for that:
                    `error_silent` sends none
    vanish          it disappears without a callback, `vanish_after` seconds after its create
    vanish_crowd    at that time the oldest `crowd_size` living VMs disappear at once
    unknown_status  it reports one of `unknown_statuses`, from `unknown_after` seconds after its create, for
                    `unknown_seconds`
    address_failed  it gets no public address
    delete_failed   a delete fails, and the VM returns to its previous status
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
    vanish_crowd: Trigger = NEVER
    crowd_size: int = 200
    unknown_status: Trigger = NEVER
    unknown_statuses: tuple[str, ...] = ("VERIFY_RESIZE", "SHELVED", "UNKNOWN", "QUARANTINED")
    unknown_after: Range = Range(0, 300)
    unknown_seconds: Range = Range(60, 600)
    address_failed: Trigger = NEVER
    delete_failed: Trigger = NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """All faults.

    `create` applies to the create of VMs, `read` to calls that only read, `change` to all others; `list`, `get` and
    `delete` additionally to the list of VMs, the GET of one VM and the DELETE of one.

    delete_conflict a delete is answered with 409 because of an earlier one, which then fails
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
    list: CallFaults = CallFaults()
    get: CallFaults = CallFaults()
    delete: CallFaults = CallFaults()
    callbacks: CallbackFaults = CallbackFaults()
    vms: VmFaults = VmFaults()
    delete_conflict: Trigger = NEVER
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
