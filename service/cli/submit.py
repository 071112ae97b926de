"""`rollcall submit`: ask for VMs, and if wished wait until they are ready."""

from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from service.cli import body, waiting
from service.cli.api_client import daemon
from service.cli.exits import Exit
from service.cli.output import answer, as_json, say

EXAMPLE = (
    "rollcall submit --name train --flavor n3-A100x1 --environment default-CANADA-1 "
    "--image 'Ubuntu Server 22.04 LTS R535 CUDA 12.2' --key example-key --count 40 --contract 41 --wait"
)


def submit(
    ctx: typer.Context,
    file: Annotated[
        str | None,
        typer.Option("-f", "--file", help="JSON: the very body for Infrahub, plus `policy`; - for standard input"),
    ] = None,
    count: Annotated[int | None, typer.Option(help="how many VMs; 1 if nothing is said")] = None,
    name: Annotated[str | None, typer.Option(help="what the VMs are called, with a number each")] = None,
    flavor: Annotated[str | None, typer.Option(help="the hardware, such as n3-A100x1")] = None,
    environment: Annotated[str | None, typer.Option(help="the environment, which decides the region")] = None,
    image: Annotated[str | None, typer.Option(help="the operating system image")] = None,
    volume: Annotated[str | None, typer.Option(help="an existing bootable volume, instead of an image")] = None,
    key: Annotated[str | None, typer.Option(help="the SSH keypair")] = None,
    contract: Annotated[int | None, typer.Option(help="the contract to put the VMs on")] = None,
    floating_ip: Annotated[bool | None, typer.Option(help="whether each VM gets a public address")] = None,
    port_randomization: Annotated[bool | None, typer.Option(help="whether ports are randomized")] = None,
    bootable_volume: Annotated[bool | None, typer.Option(help="whether to boot from a new volume")] = None,
    monitoring: Annotated[bool | None, typer.Option(help="whether to admit the monitoring agent")] = None,
    label: Annotated[list[str] | None, typer.Option(help="a label; may be given more than once")] = None,
    security_rule: Annotated[
        list[str] | None, typer.Option(help="PROTOCOL:PORTS:CIDR to let in; may be given more than once")
    ] = None,
    user_data: Annotated[Path | None, typer.Option(help="a file with a cloud-init script")] = None,
    on_contract_error: Annotated[str | None, typer.Option(help="retry, keep or fail")] = None,
    on_orphan: Annotated[str | None, typer.Option(help="report, adopt or delete")] = None,
    on_stuck: Annotated[str | None, typer.Option(help="report or replace")] = None,
    deadline: Annotated[float | None, typer.Option(help="how long to try, in seconds")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="makes it safe to repeat: the same key and body make one submission")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="wait until all VMs are ready, or cannot become so")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print the submission as JSON")] = False,
) -> None:
    """Ask for VMs.

    Prints the submission's id, alone on standard output; with --wait, ends when all are ready (0) or cannot be (1).
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
        },
        {
            "on_contract_error": on_contract_error,
            "on_orphan": on_orphan,
            "on_stuck": on_stuck,
            "deadline_seconds": deadline,
        },
    )
    there = daemon(ctx)
    sent_key = idempotency_key or str(uuid4())
    # Before it is sent: whoever loses the answer can repeat the request with it.
    say(f"idempotency key {sent_key}")
    made = there.ask("POST", "v1", "submissions", body=wanted, headers={"Idempotency-Key": sent_key})
    _announce(made, json_=json_, wait=wait)
    if wait:
        ended = waiting.until_ended(there, made)
        if json_:
            as_json(ended)
        raise typer.Exit(Exit.OK if ended["state"] == "ready" else Exit.FAILED)


def _announce(made: dict[str, Any], *, json_: bool, wait: bool) -> None:
    for warning in made["warnings"]:
        say(f"warning: {warning}")
    if not json_:
        # The id alone is the answer, so that ID=$(rollcall submit ...) is all that a script needs.
        answer(made["submission_id"])
        say(f"{made['count']} VMs asked for")
    elif wait:
        say(f"submission {made['submission_id']}: {made['count']} VMs asked for")
    else:
        as_json(made)
