"""Commands that show what the provider offers, as the daemon reads it now."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from service.cli.api_client import api_client
from service.cli.options import Columns, OneJson, Wide
from service.cli.output import Column, Layout, as_json, price_of, table, time_of

Name = Annotated[str | None, typer.Argument(help="only those with these words in their names, such as 'ubuntu 22.04'")]
Region = Annotated[str | None, typer.Option(help="only of this region")]
Gpu = Annotated[str | None, typer.Option(help="only of GPU models with these words, such as A100")]


def _covers(one: Mapping[str, Any]) -> str:
    return ", ".join(f"{line['gpu_model']}: {_left(line)}" for line in one["covers"])


def _left(line: Mapping[str, Any]) -> str:
    known = (str(number) if number is not None else "?" for number in (line["left"], line["gpus"]))
    return " of ".join(known) + " left"


_FLAVORS: Final = (
    Column("flavor", lambda one: one["name"]),
    Column("region", lambda one: one["region"]),
    Column("GPUs", lambda one: f"{one['gpu_count']} x {one['gpu_model']}" if one["gpu_count"] else "none"),
    Column("in stock", lambda one: "not known" if one["in_stock"] is None else one["in_stock"]),
    Column("per hour", price_of),
)
_IMAGES: Final = (Column("image", lambda one: one["name"]), Column("region", lambda one: one["region"]))
_ENVIRONMENTS: Final = (Column("environment", lambda one: one["name"]), Column("region", lambda one: one["region"]))
_KEYS: Final = (Column("key", lambda one: one["name"]), Column("environment", lambda one: one["environment"] or "any"))
_CONTRACTS: Final = (
    Column("contract", lambda one: one["contract_id"]),
    Column("description", lambda one: one["description"], clips=True),
    Column("status", lambda one: one["status"]),
    Column("ends", lambda one: time_of(one["end_date"])),
    Column("GPUs", _covers, wraps=True),
)
_STOCK: Final = (
    Column("GPU model", lambda one: one["gpu_model"]),
    Column("region", lambda one: one["region"]),
    Column("GPUs", lambda one: f"{one['gpus']}{'+' if one['more'] else ''}"),
)


def flavors(
    ctx: typer.Context,
    name: Name = None,
    region: Region = None,
    gpu: Gpu = None,
    in_stock: Annotated[
        bool | None, typer.Option("--in-stock/--out-of-stock", help="only what the provider says it has, or has not")
    ] = None,
    wide: Wide = False,
    columns: Columns = None,
    json_: OneJson = False,
) -> None:
    """List the provider's flavors."""
    query = {"name": name, "region": region, "gpu": gpu, "in_stock": in_stock}
    _show(ctx, "flavors", query, _FLAVORS, json_=json_, layout=Layout(wide, columns))


def images(
    ctx: typer.Context,
    name: Name = None,
    region: Region = None,
    wide: Wide = False,
    columns: Columns = None,
    json_: OneJson = False,
) -> None:
    """List the provider's images."""
    _show(ctx, "images", {"name": name, "region": region}, _IMAGES, json_=json_, layout=Layout(wide, columns))


def environments(
    ctx: typer.Context,
    name: Name = None,
    region: Region = None,
    wide: Wide = False,
    columns: Columns = None,
    json_: OneJson = False,
) -> None:
    """List the account's environments. An environment decides the region of a VM."""
    query = {"name": name, "region": region}
    _show(ctx, "environments", query, _ENVIRONMENTS, json_=json_, layout=Layout(wide, columns))


def keys(
    ctx: typer.Context,
    name: Name = None,
    environment: Annotated[str | None, typer.Option(help="only of this environment")] = None,
    wide: Wide = False,
    columns: Columns = None,
    json_: OneJson = False,
) -> None:
    """List the account's SSH keypairs."""
    _show(ctx, "keys", {"name": name, "environment": environment}, _KEYS, json_=json_, layout=Layout(wide, columns))


def contracts(
    ctx: typer.Context, gpu: Gpu = None, wide: Wide = False, columns: Columns = None, json_: OneJson = False
) -> None:
    """List the account's contracts, what they cover, and what is left of it."""
    _show(ctx, "contracts", {"gpu": gpu}, _CONTRACTS, json_=json_, layout=Layout(wide, columns))


def stock(
    ctx: typer.Context,
    region: Region = None,
    gpu: Gpu = None,
    wide: Wide = False,
    columns: Columns = None,
    json_: OneJson = False,
) -> None:
    """List the GPUs that each region says it has. A create call may fail all the same."""
    _show(ctx, "stock", {"region": region, "gpu": gpu}, _STOCK, json_=json_, layout=Layout(wide, columns))


def _show(
    ctx: typer.Context,
    what: str,
    query: Mapping[str, object],
    columns: Sequence[Column],
    *,
    json_: bool,
    layout: Layout,
) -> None:
    found = list(getattr(api_client(ctx), what)(**query))
    if json_:
        as_json(found)
    else:
        table(found, columns, nothing=f"no {what} like that; without filters all are listed", layout=layout)
