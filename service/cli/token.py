"""`rollcall token`: create, list, change, rotate and revoke API tokens, by the daemon's API or in the database itself."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast

import typer

from service.cli.api_client import api_client, settings
from service.cli.exits import CliError, Exit, as_cli_errors
from service.cli.options import All, Columns, Json, Limit, Wide, limit_of, print_list
from service.cli.output import Column, Layout, age_of, answer, as_json, say, time_of
from service.client.requests import TokenChangeJson, TokenRequestJson, TokenRotationJson
from service.client.sync import Rollcall

if TYPE_CHECKING:
    from service.config import Settings

app = typer.Typer(
    name="token",
    help="Create, list, change, rotate and revoke API tokens.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Value = TypeVar("Value")
Name = Annotated[str, typer.Argument(help="who uses the token; goes on record with all it does")]
Database = Annotated[
    bool, typer.Option("--database", help="write to the database itself, without a daemon and without a token")
]
Lifetime = Annotated[str | None, typer.Option(metavar="DURATION", help="when it expires, such as 90d")]
MaxVms = Annotated[str | None, typer.Option(metavar="N", help="VMs it may have at a time, or none")]
MaxGpus = Annotated[str | None, typer.Option(metavar="N", help="GPUs its VMs may have together, or none")]
MaxPricePerHour = Annotated[
    str | None, typer.Option(metavar="AMOUNT", help="what its VMs may cost per hour together, or none")
]
RequestsPerMinute = Annotated[
    str | None, typer.Option(metavar="N", help="how many requests it may send to each daemon, or none")
]

#: Instead of a number: no limit.
_NO_LIMIT: Final = "none"
_COLUMNS: Final = (
    Column("name", lambda one: one["name"]),
    Column("role", lambda one: one["role"]),
    Column("state", lambda one: one["state"]),
    Column("source", lambda one: one["source"]),
    Column("last used", lambda one: time_of(one["last_used_at"]), lambda one: age_of(one["last_used_at"])),
    Column("expires", lambda one: time_of(one["expires_at"]), lambda one: time_of(one["expires_at"])[:10]),
    Column("VMs", lambda one: _of_limit(one, "vms")),
    Column("GPUs", lambda one: _of_limit(one, "gpus")),
    Column("per hour", lambda one: _of_limit(one, "price_per_hour")),
    Column("a minute", lambda one: one["requests_per_minute"]),
    Column("created", lambda one: time_of(one["created_at"]), wide=True),
    Column("by", lambda one: one["created_by"], wide=True),
    Column("revoked", lambda one: time_of(one["revoked_at"]), wide=True),
    Column("id", lambda one: one["token_id"], wide=True),
)


@app.command(epilog="Example: rollcall token create nightly --role submit --lifetime 90d")
def create(
    ctx: typer.Context,
    name: Name,
    role: Annotated[str, typer.Option(help="read, submit, admin or audit")],
    lifetime: Lifetime = None,
    max_vms: MaxVms = None,
    max_gpus: MaxGpus = None,
    max_price_per_hour: MaxPricePerHour = None,
    requests_per_minute: RequestsPerMinute = None,
    database: Database = False,
    json_: Json = False,
) -> None:
    """Create a token and print it, this once."""
    given = _limits(max_vms, max_gpus, max_price_per_hour, requests_per_minute)
    body = cast("TokenRequestJson", {"name": name, "role": role, "lifetime": lifetime, **given})
    made = _done(
        ctx,
        database,
        lambda client: client.create_token(body),
        lambda tokens, found: tokens.create(found, body),
    )
    _print_new(made, json_=json_)


@app.command("list", epilog="Example: rollcall token list --ended")
def list_(
    ctx: typer.Context,
    ended: Annotated[bool, typer.Option("--ended", help="also tokens that have expired or were revoked")] = False,
    database: Database = False,
    limit: Limit = None,
    all_: All = False,
    wide: Wide = False,
    columns: Columns = None,
    json_: Json = False,
) -> None:
    """List tokens: whose, with which role, and when each was used last. The tokens themselves are stored nowhere."""
    wanted = limit_of(limit, all_=all_, json_=json_)
    found = _done(
        ctx,
        database,
        lambda client: list(client.tokens(limit=wanted, ended=ended)),
        lambda tokens, found: tokens.listed(found, ended=ended),
    )
    print_list(found[:wanted], _COLUMNS, limit=wanted, json_=json_, nothing="no tokens", layout=Layout(wide, columns))


@app.command(epilog="Example: rollcall token rotate nightly --grace 24h")
def rotate(
    ctx: typer.Context,
    name: Name,
    grace: Annotated[
        str, typer.Option(metavar="DURATION", help="for how long the old token stays valid; 0 ends it at once")
    ] = "24h",
    lifetime: Lifetime = None,
    database: Database = False,
    json_: Json = False,
) -> None:
    """Create a token with the same name, role and limits, and print it, this once. The old one stays valid for the grace."""
    body: TokenRotationJson = {"grace": grace, "lifetime": lifetime}
    made = _done(
        ctx,
        database,
        lambda client: client.rotate_token(name, body),
        lambda tokens, found: tokens.rotate(found, name, body),
    )
    _print_new(made, json_=json_)
    say(f"the old one stays valid for {grace}")


@app.command(epilog="Example: rollcall token change nightly --max-vms 60 --max-price-per-hour none")
def change(
    ctx: typer.Context,
    name: Name,
    max_vms: MaxVms = None,
    max_gpus: MaxGpus = None,
    max_price_per_hour: MaxPricePerHour = None,
    requests_per_minute: RequestsPerMinute = None,
    database: Database = False,
    json_: Json = False,
) -> None:
    """Change the limits of the valid tokens of a name; `none` removes one. VMs that exist stay, whatever the new limit."""
    body = _limits(max_vms, max_gpus, max_price_per_hour, requests_per_minute)
    if not body:
        raise CliError(Exit.USAGE, "give at least one limit")
    changed = _done(
        ctx,
        database,
        lambda client: client.change_tokens(name, cast("TokenChangeJson", body))["items"],
        lambda tokens, found: tokens.change(found, name, body),
    )
    if json_:
        as_json(changed)
    say(f"{name}: {len(changed)} changed")


@app.command(epilog="Example: rollcall token revoke nightly")
def revoke(ctx: typer.Context, name: Name, database: Database = False, json_: Json = False) -> None:
    """Revoke the valid tokens of a name. Every daemon refuses them within 5 seconds, and their sessions end."""
    revoked = _done(
        ctx,
        database,
        lambda client: client.revoke_tokens(name)["items"],
        lambda tokens, found: tokens.revoke(found, name),
    )
    if json_:
        as_json(revoked)
    say(f"{name}: {len(revoked)} revoked")


def _done(
    ctx: typer.Context,
    database: bool,
    over_api: Callable[[Rollcall], Value],
    in_database: "Callable[[Any, Settings], Coroutine[Any, Any, Value]]",
) -> Value:
    if not database:
        return over_api(api_client(ctx))
    from service.app import tokens  # noqa: PLC0415  slow to import, and needed only here

    with as_cli_errors():
        return asyncio.run(in_database(tokens, settings()))


def _limits(
    max_vms: str | None, max_gpus: str | None, max_price_per_hour: str | None, requests_per_minute: str | None
) -> dict[str, Any]:
    """The limits that are given; null for `none`."""
    counts = {"max_vms": max_vms, "max_gpus": max_gpus, "requests_per_minute": requests_per_minute}
    found: dict[str, Any] = {field: _count(field, text) for field, text in counts.items() if text is not None}
    if max_price_per_hour is not None:
        found["max_price_per_hour"] = None if max_price_per_hour == _NO_LIMIT else max_price_per_hour
    return found


def _count(field: str, text: str) -> int | None:
    if text == _NO_LIMIT:
        return None
    if not text.isdecimal():
        raise CliError(Exit.USAGE, f"--{field.replace('_', '-')}: {text!r} is not a number")
    return int(text)


def _of_limit(one: Mapping[str, Any], kind: str) -> str | None:
    """What a token holds of a limit: `12 of 40`."""
    limit, held = one[f"max_{kind}"], one["holds"]
    if limit is None:
        return None
    return str(limit) if held is None else f"{held[kind]} of {limit}"


def _print_new(made: Mapping[str, Any], *, json_: bool) -> None:
    if json_:
        as_json(made)
    else:
        answer(made["token"])
    until = f"valid until {time_of(made['expires_at'])}" if made["expires_at"] else "valid until it is revoked"
    say(f"{made['name']} has the role {made['role']}, {until}. The token is shown only now.")
