"""`rollcall notify`: what was sent to whom, dead letters and their replay, and whether messages arrive."""

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from service.cli import views
from service.cli.api_client import api_client, submission_id
from service.cli.exits import CliError, Exit
from service.cli.options import All, Columns, Json, Limit, OfSubmission, OneJson, Wide, limit_of, print_list
from service.cli.output import Layout, answer, as_json, facts, say
from service.client.sync import Rollcall

app = typer.Typer(
    name="notify", help="Messages to targets of ROLLCALL_NOTIFY.", no_args_is_help=True, rich_markup_mode=None
)

_EVERY: Final = 0.5

MessageId = Annotated[str, typer.Argument(metavar="MESSAGE_ID", help="the message's id")]


@app.command("list", epilog="Example: rollcall notify list --state dead")
def list_(
    ctx: typer.Context,
    submission: OfSubmission = None,
    target: Annotated[str | None, typer.Option(help="only to this target")] = None,
    kind: Annotated[str | None, typer.Option(help="only of this kind of event, such as vm.lost")] = None,
    state: Annotated[str | None, typer.Option(help="due, delivered or dead")] = None,
    limit: Limit = None,
    all_: All = False,
    wide: Wide = False,
    columns: Columns = None,
    json_: Json = False,
) -> None:
    """List messages, newest first, and what became of them."""
    client = api_client(ctx)
    wanted = limit_of(limit, all_=all_, json_=json_)
    found = client.notifications(
        limit=wanted,
        submission_id=submission_id(client, submission),
        target=target,
        kind=kind,
        state=state,
    )
    layout = Layout(wide, columns)
    print_list(found, views.MESSAGES, limit=wanted, json_=json_, nothing="no such messages", layout=layout)


@app.command(epilog="Example: rollcall notify show 0198c0de-0000-7000-8000-000000000000")
def show(ctx: typer.Context, message: MessageId, json_: OneJson = False) -> None:
    """Show a message as it is signed and sent."""
    found = api_client(ctx).notification(message)
    if json_:
        as_json(found)
        return
    facts(f"message {found['message_id']}", views.message(found))
    as_json(found["body"])


@app.command(epilog="Example: rollcall notify replay 0198c0de-0000-7000-8000-000000000000")
def replay(ctx: typer.Context, message: MessageId, json_: OneJson = False) -> None:
    """Deliver a message again, such as a dead letter. Who did it goes on record."""
    found = api_client(ctx).replay_notification(message)
    if json_:
        as_json(found)
        return
    answer(f"message {found['message_id']} is delivered again; `rollcall notify show` shows the outcome")


@app.command(epilog="Example: rollcall notify targets")
def targets(ctx: typer.Context, json_: OneJson = False, wide: Wide = False, columns: Columns = None) -> None:
    """List the targets, which events they get, and how they are doing."""
    found = list(api_client(ctx).notification_targets())
    print_list(found, views.TARGETS, limit=None, json_=json_, nothing="no targets", layout=Layout(wide, columns))


@app.command("test", epilog="Example: rollcall notify test ops")
def send_test(
    ctx: typer.Context,
    target: Annotated[str | None, typer.Argument(help="its name in ROLLCALL_NOTIFY; all of them if left out")] = None,
    wait: Annotated[float, typer.Option(min=0, help="how many seconds to wait for the outcome")] = 30.0,
    json_: OneJson = False,
) -> None:
    """Send a test message to a target, or to each of them, and wait for the outcome. Exits 1 if one was not delivered."""
    client = api_client(ctx)
    names = [target] if target else [one["name"] for one in client.notification_targets()]
    sent = [client.test_notification({"target": name}) for name in names]
    ended = _outcomes(client, sent, wait)
    if json_:
        as_json(ended)
    else:
        for one in ended:
            say_or_answer(one)
    if any(one["state"] != "delivered" for one in ended):
        raise CliError(Exit.FAILED, "not every message was delivered; the others are tried again")


def say_or_answer(one: Mapping[str, Any]) -> None:
    if one["state"] == "delivered":
        answer(f"{one['target']}: delivered")
    else:
        say(f"{one['target']}: {one['error'] or 'not tried yet; does a daemon with the part worker run?'}")


def _outcomes(client: Rollcall, sent: Sequence[Mapping[str, Any]], seconds: float) -> Sequence[Mapping[str, Any]]:
    """The messages once each was tried, or time is up."""
    until = time.monotonic() + seconds
    found = sent
    while any(not one["attempts"] for one in found) and time.monotonic() < until:
        time.sleep(_EVERY)
        found = [client.notification(one["message_id"]) for one in found]
    return found
