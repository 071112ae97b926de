"""`rollcall simulate`: a simulated provider to try things on."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import body
from service.cli.exits import CliError, Exit
from service.cli.output import say


def simulate(
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one")] = "127.0.0.1:9090",
    speed: Annotated[
        float, typer.Option(min=0, help="simulated seconds per real second; 0: time moves only by request")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="the same seed draws the same faults")] = None,
    config: Annotated[str | None, typer.Option(help="JSON, or the path of a file that holds it")] = None,
    port_file: Annotated[Path | None, typer.Option(help="where to write the port once it listens")] = None,
) -> None:
    """Run a simulated Infrahub, until Ctrl-C or SIGTERM.

    It injects the faults of its configuration, shows its ground truth under /_sim/, and costs nothing.
    """
    from service.config import host_and_port  # noqa: PLC0415  slow to import
    from service.simulator.loading import parse_config  # noqa: PLC0415  as above
    from service.simulator.server import run  # noqa: PLC0415  as above

    def ready(bound: int) -> None:
        if port_file is not None:
            partial = port_file.with_suffix(".new")
            partial.write_text(str(bound), encoding="utf-8")
            partial.replace(port_file)  # a reader waits for it to appear, and must not read half of it
        say(f"a simulated Infrahub listens: ROLLCALL_INFRAHUB_URL=http://{host}:{bound}/v1")
        say(f"its ground truth: http://{host}:{bound}/_sim/vms")

    try:
        host, port = host_and_port(listen)
        cloud = parse_config(_settings(config, seed))
    except ValueError as error:
        raise CliError(Exit.USAGE, str(error)) from error
    try:
        run(cloud, host=host, port=port, speed=speed, on_ready=ready)
    except OSError as error:
        raise CliError(Exit.FAILED, f"{listen}: {error.strerror or error}") from error


def _settings(config: str | None, seed: int | None) -> dict[str, Any]:
    given = {} if config is None else json.loads(config) if config.lstrip().startswith("{") else body.read(config)
    return given if seed is None else {**given, "seed": seed}
