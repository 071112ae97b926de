"""The command line: the table of commands, and how errors become exit codes. Each command has a file of its own.

Nothing slow is imported here, nor at the top of a command's file, so that `rollcall --help` answers at once.
"""

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, NoReturn

import typer

from service.cli import (
    as_of,
    audit,
    catalogue,
    check,
    completion,
    cost,
    delete,
    demo,
    evidence,
    explore,
    export,
    extend,
    following,
    importing,
    migrate,
    notify,
    search,
    serve,
    show,
    simulate,
    stats,
    submit,
    token,
)
from service.cli.api_client import target
from service.cli.exits import CODES, CliError, Exit, from_api
from service.cli.output import say, without_color
from service.client.errors import ApiError, InvalidClientOption

app = typer.Typer(
    name="rollcall",
    help="Creates fleets of GPU VMs on NexGen Cloud's Infrahub, records every lifecycle callback, and never loses a VM.",
    epilog=CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS: Mapping[str, tuple[Callable[..., None], str]] = {
    "demo": (demo.demo, "rollcall demo --seed 3"),
    "serve": (serve.serve, "ROLLCALL_INFRAHUB_API_KEY=... ROLLCALL_PUBLIC_URL=https://rollcall.example.com rollcall serve"),
    "simulate": (simulate.simulate, "rollcall simulate --listen 127.0.0.1:9090 --speed 10"),
    "submit": (submit.submit, submit.EXAMPLE),
    "wait": (following.wait, "rollcall wait train"),
    "watch": (following.watch, "rollcall watch"),
    "submissions": (show.submissions, "rollcall submissions --state open"),
    "vms": (show.vms, "rollcall vms --state ERROR --json"),
    "vm": (show.vm, "rollcall vm 507279"),
    "delete": (delete.delete, "rollcall delete 507279 507280"),
    "cancel": (delete.cancel, "rollcall cancel 0198c0de-0000-7000-8000-000000000000"),
    "extend": (extend.extend, "rollcall extend train --by 2h"),
    "maintain": (extend.maintain, "rollcall maintain train"),
    "import": (importing.import_, "rollcall import --name-pattern 'train-*' --dry-run"),
    "release": (importing.release, "rollcall release 507279"),
    "orphans": (show.orphans, "rollcall orphans"),
    "fleet": (show.fleet, "rollcall fleet --at 2026-03-01"),
    "off-contract": (as_of.off_contract, "rollcall off-contract --since 2026-03-01 --until 2026-04-01"),
    "diff": (as_of.diff, "rollcall diff --from 2026-03-01 --to 2026-04-01"),
    "cost": (cost.cost, "rollcall cost --by submission --since 2026-03-01 --until 2026-04-01"),
    "stats": (stats.stats, "rollcall stats --since 2026-03-01 --until 2026-04-01 --svg march.svg"),
    "events": (evidence.events, "rollcall events --dead-letter any --since 2026-03-01"),
    "event": (evidence.event, "rollcall event 0198c0de-0000-7000-8000-000000000000"),
    "replay": (evidence.replay, "rollcall replay 0198c0de-0000-7000-8000-000000000000"),
    "transitions": (evidence.transitions, "rollcall transitions --follow"),
    "calls": (evidence.calls, "rollcall calls --outcome none"),
    "search": (search.search, "rollcall search --address 203.0.113.7"),
    "export": (export.export, "rollcall export march --since 2026-03-01 --until 2026-04-01"),
    "flavors": (catalogue.flavors, "rollcall flavors --gpu H100 --in-stock"),
    "images": (catalogue.images, "rollcall images 'ubuntu 22.04' --region CANADA-1"),
    "environments": (catalogue.environments, "rollcall environments --region NORWAY-1"),
    "keys": (catalogue.keys, "rollcall keys"),
    "contracts": (catalogue.contracts, "rollcall contracts --gpu A100"),
    "stock": (catalogue.stock, "rollcall stock --gpu A100"),
    "explore": (explore.explore, "rollcall explore --seeds 1..200 --jobs 2"),
    "check": (check.check, "rollcall check"),
    "migrate": (migrate.migrate, "rollcall migrate --check"),
}  # fmt: skip

for _name, (_command, _example) in _COMMANDS.items():
    completion.attach(_name, _command)
    app.command(_name, epilog=f"Example: {_example}")(_command)

app.add_typer(audit.app)
app.add_typer(notify.app)
app.add_typer(token.app)
for _group in (audit.app, notify.app, token.app):
    for _registered in _group.registered_commands:
        if _registered.callback is not None:
            _of_group = f"{_group.info.name} {_registered.name or _registered.callback.__name__}"
            completion.attach(_of_group, _registered.callback)


@app.callback(invoke_without_command=True)
def options(
    ctx: typer.Context,
    api_url: Annotated[
        str | None,
        typer.Option(
            envvar="ROLLCALL_API_URL", help="URL of the daemon's API; by default the address in ROLLCALL_API_LISTEN"
        ),
    ] = None,
    api_token: Annotated[
        str | None,
        typer.Option(
            envvar="ROLLCALL_API_TOKEN",
            help="by default the first of ROLLCALL_API_TOKENS, or the token that the daemon made",
        ),
    ] = None,
    no_color: Annotated[
        str | None, typer.Option(envvar="NO_COLOR", hidden=True, help="if set, print no colours")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
) -> None:
    if version:
        from service import __version__  # noqa: PLC0415  needed only here

        typer.echo(__version__)
        raise typer.Exit
    if no_color:
        without_color()
    ctx.obj = target(ctx, api_url, api_token)


def run() -> NoReturn:
    """Be the process of a command."""
    # Nearly all that a start makes stays: to look through it for garbage hundreds of times takes a tenth of the start.
    gc.set_threshold(100_000, 50, 50)
    main()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code."""
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="rollcall")
    except CliError as error:
        _fail(error)
    except ApiError as error:
        _fail(from_api(error))
    except InvalidClientOption as error:
        _fail(CliError(Exit.USAGE, str(error)))
    except BrokenPipeError:
        # The reader of our output is gone; closing standard error keeps Python from complaining at exit.
        sys.stderr.close()
        sys.exit(Exit.FAILED)
    sys.exit(Exit.OK)


def _fail(error: CliError) -> NoReturn:
    for line in error.lines:
        say(line)
    sys.exit(error.code)


if __name__ == "__main__":
    run()
