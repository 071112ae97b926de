"""`rollcall submit`: ask for VMs, and with --wait wait until they are ready."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import uuid4

import typer

from service.cli import as_of, body, preview, waiting
from service.cli.api_client import api_client
from service.cli.exits import CliError, Exit
from service.cli.output import answer, as_json, say
from service.client.sync import Rollcall

_LONGEST_KEY: Final = 255

EXAMPLE = (
    "rollcall submit --name train --flavor n3-A100x1 --environment default-CANADA-1 "
    "--image 'Ubuntu Server 22.04 LTS R535 CUDA 12.2' --key example-key --count 40 --contract 41 --wait"
)


def submit(
    ctx: typer.Context,
    file: Annotated[
        str | None,
        typer.Option(
            "-f", "--file", help="JSON: the body of Infrahub's create call, plus `policy`; - for standard input"
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(help="how many VMs; 1 by default")] = None,
    name: Annotated[str | None, typer.Option(help="the VMs' name; each gets a number")] = None,
    flavor: Annotated[str | None, typer.Option(help="the hardware, such as n3-A100x1")] = None,
    environment: Annotated[str | None, typer.Option(help="the environment, which decides the region")] = None,
    image: Annotated[str | None, typer.Option(help="the operating system image")] = None,
    volume: Annotated[str | None, typer.Option(help="an existing bootable volume, instead of an image")] = None,
    key: Annotated[str | None, typer.Option(help="the SSH keypair")] = None,
    contract: Annotated[int | None, typer.Option(help="the contract to put the VMs on")] = None,
    floating_ip: Annotated[bool | None, typer.Option(help="whether each VM gets a public address")] = None,
    port_randomization: Annotated[bool | None, typer.Option(help="whether ports are randomized")] = None,
    bootable_volume: Annotated[bool | None, typer.Option(help="whether to boot from a new volume")] = None,
    monitoring: Annotated[bool | None, typer.Option(help="whether to enable the monitoring agent")] = None,
    label: Annotated[list[str] | None, typer.Option(help="a label; may be given more than once")] = None,
    security_rule: Annotated[
        list[str] | None, typer.Option(help="PROTOCOL:PORTS:CIDR to let in; may be given more than once")
    ] = None,
    user_data: Annotated[Path | None, typer.Option(help="a file with a cloud-init script")] = None,
    on_contract_error: Annotated[str | None, typer.Option(help="retry, keep or fail")] = None,
    require_contract: Annotated[
        bool, typer.Option("--require-contract", help="refuse if the contract has no room for all of the VMs now")
    ] = False,
    on_orphan: Annotated[str | None, typer.Option(help="report, adopt or delete")] = None,
    on_stuck: Annotated[str | None, typer.Option(help="report or replace")] = None,
    alternative: Annotated[
        list[str] | None,
        typer.Option(
            metavar="flavor=F,environment=E",
            help="what to create if there is no stock; also image=, key=, contract=, max-price=; may be given more than once",
        ),
    ] = None,
    max_price_per_hour: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="refuse if the VMs would cost more per hour together")
    ] = None,
    max_cost: Annotated[str | None, typer.Option(metavar="AMOUNT", help="what the VMs may cost in all")] = None,
    on_limit: Annotated[
        str | None, typer.Option(help="when a limit is passed later: report, stop_replacing or delete")
    ] = None,
    maintain: Annotated[
        bool,
        typer.Option(
            "--maintain", help="replace VMs that are LOST, in ERROR or deleted by others after they were ready"
        ),
    ] = False,
    lifetime: Annotated[
        str | None, typer.Option(help="delete the VMs this long after they are all ready: seconds, or 30m, 2h, 7d")
    ] = None,
    expires_at: Annotated[str | None, typer.Option(metavar="TIME", help="delete the VMs at this time")] = None,
    deadline: Annotated[str | None, typer.Option(help="how long to try: seconds, or 30m, 2h, 7d")] = None,
    notify_url: Annotated[
        str | None, typer.Option(metavar="URL", help="where to send signed messages about this submission and its VMs")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            help="makes it safe to repeat: the same key and body make one submission; 1 to 255 ASCII characters"
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only show what would be done: nothing is kept or created")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="wait until all VMs are ready, or cannot become ready")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print the submission as JSON")] = False,
) -> None:
    """Ask for VMs.

    Prints the submission's id alone on standard output. With --wait, exits with 0 once all are ready, or with 1 if
    they cannot become ready.
    """
    wanted = body.of(
        file,
        {
            "count": count,
            "name": name,
            "flavor_name": flavor,
            "environment_name": environment,
            "image_name": image,
            "volume_name": volume,
            "key_name": key,
            "contract_id": contract,
            "assign_floating_ip": floating_ip,
            "enable_port_randomization": port_randomization,
            "create_bootable_volume": bootable_volume,
            "enhanced_monitoring_enabled": monitoring,
            "labels": label or None,
            "security_rules": body.security_rules(security_rule),
            "user_data": body.text_of(user_data) if user_data else None,
            "notify_url": notify_url,
        },
        {
            "on_contract_error": on_contract_error,
            "require_contract": require_contract or None,
            "on_orphan": on_orphan,
            "on_stuck": on_stuck,
            "alternatives": body.alternatives(alternative),
            "max_price_per_hour": max_price_per_hour,
            "max_cost": max_cost,
            "on_limit": on_limit,
            "maintain": {"enabled": True} if maintain else None,
            "lifetime": body.duration(lifetime),
            "expires_at": as_of.moment("--expires-at", expires_at),
            "deadline_seconds": body.duration(deadline),
        },
    )
    client = api_client(ctx)
    if dry_run:
        preview.show(client, wanted, json_=json_)
        return
    key = idempotency_key if idempotency_key is not None else str(uuid4())
    check_key(key)
    # Before the request: if the answer is lost, the user can repeat it with the key.
    say(f"idempotency key {key}")
    response = client.response(Rollcall.create_submission.prepare(wanted, idempotency_key=key))
    _announce(response.value, is_new=response.status == 201, json_=json_, wait=wait)
    if wait:
        ended = waiting.until_ended(client, response.value)
        if json_:
            as_json(ended)
        raise typer.Exit(Exit.OK if ended["state"] == "ready" else Exit.FAILED)


def check_key(key: str) -> None:
    """Raise `CliError` for an idempotency key that cannot be sent."""
    if not (0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise CliError(
            Exit.USAGE, f"--idempotency-key must have 1 to {_LONGEST_KEY} printable ASCII characters and no line break"
        )


def _announce(made: Mapping[str, Any], *, is_new: bool, json_: bool, wait: bool) -> None:
    for warning in made["warnings"]:
        say(f"warning: {warning}")
    submission_id = made["submission_id"]
    # The id alone is on standard output, so that a script can say ID=$(rollcall submit ...).
    if not json_:
        answer(submission_id)
    elif not wait:
        as_json(made)
    if "notify_secret" in made and not json_:
        say(f"messages are signed with {made['notify_secret']}")
    if is_new:
        say(f"submission {submission_id}: {made['count']} VMs submitted")
    else:
        say(f"already submitted: {submission_id}; nothing new was created")
