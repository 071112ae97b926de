"""Shell completion of ids and values: `rollcall --install-completion`.

What is on record is asked for with a short time limit. Completion prints no error: a daemon that is away completes nothing.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from itertools import islice
from typing import Annotated, Any, Final, get_args

import typer

from service.cli.api_client import api_client
from service.cli.exits import CliError
from service.client.errors import ApiError, InvalidClientOption
from service.client.sync import Rollcall
from service.core.api_token import Role
from service.core.lifecycle import VmState

#: A value, and what it is.
Found = tuple[str, str]
Complete = Callable[..., list[Found]]

#: As in core/, whose modules of these take long to import.
SUBMISSION_STATES: Final = ("open", "ready", "failed", "cancelled")
ASSIGNMENTS: Final = ("none", "wanted", "assigned", "on_demand", "retrying", "given_up")

#: Seconds that the daemon has to answer, and how many values are offered.
_TIMEOUT: Final = 1.0
_MOST: Final = 50


def _submissions(client: Rollcall, typed: str) -> Iterator[Found]:
    """Names and ids, newest first."""
    for one in client.submissions(limit=200):
        name = one["name"]
        about = f"{one['state']}, {one['ready']} of {one['count']} ready"
        yield (name, about) if name.startswith(typed) and typed else (one["submission_id"], f"{name}: {about}")


def _vms(client: Rollcall, typed: str) -> Iterator[Found]:
    """References, the provider's ids and names, whichever was begun. After a submission's id and a dot, all of its VMs."""
    submission, dot, _ = typed.rpartition(".")
    of = client.submission(submission)["submission_id"] if dot else None
    for one in client.vms(submission_id=of, alive=None if dot else True, limit=1000 if dot else 200):
        about = f"{one['state']} {one['flavor']}"
        known = (
            f"{submission}.{one['vm_no']}" if dot else one["ref"],
            str(one["provider_id"] or ""),
            one["name"] or "",
        )
        yield next((value, about) for value in (*known, known[0]) if value.startswith(typed) or value is known[0])


def _events(client: Rollcall, _typed: str) -> Iterator[Found]:
    """Dead letters, newest first: those that are looked at and replayed."""
    for one in client.events(dead_letter="any", limit=_MOST):
        yield one["event_id"], (one["dead_letter"] or {"reason": ""})["reason"]


def _messages(client: Rollcall, _typed: str) -> Iterator[Found]:
    return ((one["message_id"], f"{one['state']}: {one['text']}") for one in client.notifications(limit=_MOST))


def _targets(client: Rollcall, _typed: str) -> Iterator[Found]:
    return ((one["name"], one["to"]) for one in client.notification_targets())


def _tokens(client: Rollcall, _typed: str) -> Iterator[Found]:
    return ((one["name"], one["role"]) for one in client.tokens(limit=200))


def _flavors(client: Rollcall, _typed: str) -> Iterator[Found]:
    return ((one["name"], one["region"] or "") for one in client.flavors())


def _images(client: Rollcall, _typed: str) -> Iterator[Found]:
    return ((one["name"], one["region"] or "") for one in client.images())


def _environments(client: Rollcall, _typed: str) -> Iterator[Found]:
    return ((one["name"], one["region"] or "") for one in client.environments())


def _keys(client: Rollcall, _typed: str) -> Iterator[Found]:
    return ((one["name"], one["environment"] or "") for one in client.keys())  # noqa: SIM118  the API's keys


def recorded(look: Callable[[Rollcall, str], Iterable[Found]]) -> Complete:
    """Complete what the daemon knows. Silent if it cannot be asked."""

    def complete(ctx: typer.Context, incomplete: str) -> list[Found]:
        try:
            client = api_client(ctx, timeout=_TIMEOUT)
            found = (one for one in look(client, incomplete) if one[0].startswith(incomplete))
            return list(islice(dict(found).items(), _MOST))
        except (ApiError, CliError, InvalidClientOption):
            return []

    return complete


def values(*known: str) -> Complete:
    """Complete one of some values."""

    def complete(incomplete: str) -> list[Found]:
        return [(one, "") for one in known if one.startswith(incomplete)]

    return complete


#: By the name of a parameter; or of its command and it, where they differ.
COMPLETIONS: Final[Mapping[str, Complete]] = {
    "submission": recorded(_submissions),
    "ref": recorded(_vms),
    "refs": recorded(_vms),
    "vm": recorded(_vms),
    "event": recorded(_events),
    "message": recorded(_messages),
    "target": recorded(_targets),
    "token change name": recorded(_tokens),
    "token rotate name": recorded(_tokens),
    "token revoke name": recorded(_tokens),
    "submit flavor": recorded(_flavors),
    "submit image": recorded(_images),
    "submit environment": recorded(_environments),
    "submit key": recorded(_keys),
    "vms flavor": recorded(_flavors),
    "state": values(*VmState),
    "submissions state": values(*SUBMISSION_STATES),
    "notify list state": values("due", "delivered", "dead"),
    "assignment": values(*ASSIGNMENTS),
    "dead_letter": values("unreadable", "unknown_vm", "failed", "any"),
    "source": values("callback", "history"),
    "role": values(*Role),
    "on_contract_error": values("retry", "keep", "fail"),
    "on_orphan": values("report", "adopt", "delete"),
    "on_stuck": values("report", "replace"),
    "on_limit": values("report", "stop_replacing", "delete"),
}


def attach(command: str, function: Callable[..., Any]) -> None:
    """Give the parameters of a command their completions. Commands share declarations, so each gets a copy of its own."""
    for name, parameter in inspect.signature(function).parameters.items():
        complete = COMPLETIONS.get(f"{command} {name}") or COMPLETIONS.get(name)
        if complete is not None:
            kind, declared = get_args(parameter.annotation)
            info = copy(declared)
            info.autocompletion = complete
            function.__annotations__[name] = Annotated[kind, info]
