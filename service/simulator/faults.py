"""What the cloud may be told to do wrong. Only the list of it: the deeds are beside the thing that they spoil.

Everything is off by default. Where a `Chance` is asked for, see `Chance`: a probability, the n-th occasions, a period.
"""

# ruff: noqa: RUF009 - the values called for as defaults are frozen, so that sharing them is safe

from dataclasses import dataclass
from typing import Literal

from service.simulator.dice import NEVER, Chance, Range


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFaults:
    """What may become of a call. One occasion is one call of its kind that passed the limit and the API key.

    The first four happen before the call was understood, so nothing was done; of the others the work was done.
    `limited` says 429 without any limit having been reached.
    """

    limited: Chance = NEVER
    cut: Chance = NEVER
    error_before: Chance = NEVER
    hang_before: Chance = NEVER
    lost: Chance = NEVER
    error_after: Chance = NEVER
    hang_after: Chance = NEVER
    unreadable: Chance = NEVER
    slow: Chance = NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackFaults:
    """What may become of a callback. One occasion is one callback that a VM has to send.

    `reordered` holds it back until the VM's next one has been sent, or `reorder_wait` seconds if there is none.
    `garbage` sends bytes that are not JSON in its place, `nulled` takes a status out, `stranger` adds another
    one about a VM that is not this customer's.
    """

    lost: Chance = NEVER
    repeated: Chance = NEVER
    repeats: tuple[int, int] = (1, 3)
    delayed: Chance = NEVER
    delay: Range = Range(30, 300)
    reordered: Chance = NEVER
    reorder_wait: float = 60.0
    nulled: Chance = NEVER
    garbage: Chance = NEVER
    stranger: Chance = NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class VmFaults:
    """What may become of a VM. One occasion is one VM made; of `delete_failed`, one deletion.

    `stuck` stays in BUILD for ever. `error` comes when it has been ACTIVE for a while, `vanish` some time after the
    create, without a word. No document names a callback for an ERROR out of the blue: `error_silent` sends none.
    """

    boot_error: Chance = NEVER
    stuck: Chance = NEVER
    error: Chance = NEVER
    error_after: Range = Range(30, 600)
    error_silent: bool = False
    vanish: Chance = NEVER
    vanish_after: Range = Range(30, 600)
    address_failed: Chance = NEVER
    delete_failed: Chance = NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """All misbehaviour. `create` is for POST of VMs, `read` for what only reads, `change` for the rest.

    partial         a create makes fewer VMs than were asked for, and says 200
    late            a create is answered by `late_answer`, and its VMs appear `late_after` seconds afterwards
    early           the first callbacks of a create are sent before its answer
    slow            the seconds that a slow answer takes
    list_lag        for so many seconds after its create a VM is in no list
    get_lags        and a GET of it says 404 meanwhile
    shifted_page    a page begins one VM too early or too late
    labels_emptied  the labels are missing from an answer (one occasion is one VM in one answer)
    url_omitted     a list does not say the callback URL (one occasion is one list)
    no_reason       an error body without its `error_reason`
    retry_after     how often a 429 has a Retry-After header; `retry_after_seconds` is in real seconds
    no_balance      creates, and addresses, are refused for want of money
    no_stock        creates are refused for want of stock, whatever the stock
    phantom_stock   the stock endpoint says 10+ whatever the stock
    unauthorized    the API key is not accepted
    outage          nobody is at home: every connection is cut, and callbacks due meanwhile are lost
    """

    create: CallFaults = CallFaults()
    read: CallFaults = CallFaults()
    change: CallFaults = CallFaults()
    callbacks: CallbackFaults = CallbackFaults()
    vms: VmFaults = VmFaults()
    partial: Chance = NEVER
    late: Chance = NEVER
    late_after: Range = Range(5, 60)
    late_answer: Literal["error", "hang", "cut"] = "error"
    early: Chance = NEVER
    slow: Range = Range(2, 20)
    list_lag: Range = Range(0, 0)
    get_lags: bool = False
    shifted_page: Chance = NEVER
    labels_emptied: Chance = NEVER
    url_omitted: Chance = NEVER
    no_reason: Chance = NEVER
    retry_after: Chance = NEVER
    retry_after_seconds: int = 60
    no_balance: Chance = NEVER
    no_stock: Chance = NEVER
    phantom_stock: bool = False
    unauthorized: Chance = NEVER
    outage: Chance = NEVER
