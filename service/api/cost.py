"""Handler of the cost report, its query and its schemas, and the gauges of cost."""

import math
import re
from decimal import Decimal
from typing import Any, Final, Literal, Self
from uuid import UUID

from aiohttp import web
from msgspec import Struct, structs
from pydantic import Field, model_validator

from service.api import past, query, refs, serializers
from service.api.context import answer, first, reading, runtime
from service.api.schema_parts import TIME, object_of
from service.core.cost_csv import COLUMNS, to_csv
from service.core.create_body import wrong
from service.core.duration import Moment
from service.queries import cost as cost_queries
from service.queries import vm_cost
from service.queries.cost import By, CostPerHour, CostRow, Period
from service.runtime.metrics import Metrics

_UUID: Final = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#: What the keys of a report look like if they are not any text.
_CURSORS: Final = {
    "vm": _UUID + r"\.[0-9]{1,9}",
    "submission": _UUID,
    "contract": r"[0-9]{1,10}|none",
    "day": r"[0-9]{4}-[0-9]{2}-[0-9]{2}",
}


class CostQuery(query.PageQuery):
    by: By = Field(default="submission", description="what to add up by; a VM with several labels counts under each")
    since: Moment | None = Field(default=None, description="when the period begins; 30 days before its end if left out")
    until: Moment | None = Field(default=None, description="when it ends, not in the future; now if left out")
    submission_id: UUID | None = Field(default=None, description="only VMs of this submission")
    format: Literal["json", "csv"] | None = Field(
        default=None, description="json or csv; if left out, CSV if the header Accept names text/csv"
    )
    cursor: str | None = Field(
        default=None,
        pattern=r"^[^\x00]*$",
        max_length=1000,
        description="`next` of the page before; give its `since` and `until` too",
    )

    @model_validator(mode="after")
    def _cursor_is_a_key(self) -> Self:
        if self.cursor is not None and not re.fullmatch(_CURSORS.get(self.by, ".*"), self.cursor, re.DOTALL):
            raise wrong(f"cursor is not the next of a page by {self.by}")
        return self


async def show(request: web.Request) -> web.Response:
    """A page of the cost in a period by a key, and what the whole period comes to. CSV names the next page in Link."""
    rt = runtime(request)
    wanted = query.read(CostQuery, request)
    since, until = past.period_of(rt.clock.now(), since=wanted.since, until=wanted.until)
    async with reading(request) as conn:
        await past.require_submission(conn, wanted.submission_id)
        currency = await cost_queries.currency(conn, at=until)
        period = Period(since=since, until=until, submission_id=wanted.submission_id, currency=currency)
        found = await cost_queries.page(conn, period, by=wanted.by, after=wanted.cursor, limit=wanted.limit + 1)
        csv = query.wants_csv(request, wanted.format)
        total = None if csv else await cost_queries.total(conn, period)
    some, following = first(found, wanted.limit, lambda row: row.key)
    rows = [_shown(row) for row in some]
    if csv or total is None:
        return _csv_answer(request, to_csv(wanted.by, currency, rows), period, following)
    return answer({
        "by": wanted.by,
        "since": since,
        "until": until,
        "currency": currency,
        "total": _shown(total),
        "items": rows,
        "next": following,
    })  # fmt: skip


async def show_vm(request: web.Request) -> web.Response:
    """What a VM costs per hour now, with the price behind it, and what it has cost in its life."""
    rt = runtime(request)
    async with reading(request) as conn:
        vm = await refs.find(conn, request.match_info["ref"])
        found = await vm_cost.of_vm(conn, vm, now=rt.clock.now())
    return answer({
        "ref": serializers.ref(vm),
        **{name: _plain(value) for name, value in structs.asdict(found).items() if name != "total"},
        "total": _shown(found.total),
    })  # fmt: skip


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return {name: _plain(one) for name, one in structs.asdict(value).items()} if isinstance(value, Struct) else value


def set_gauges(metrics: Metrics, found: CostPerHour | None) -> None:
    """Set the gauges of cost; None if the database is away."""
    metrics.cost_per_hour.clear()  # a currency that is not in use any more must not keep its last amount
    metrics.price_unknown.set(math.nan if found is None else found.unknown_vms)
    if found is not None:
        metrics.cost_per_hour.labels("contract", found.currency).set(float(found.on_contract))
        metrics.cost_per_hour.labels("on_demand", found.currency).set(float(found.on_demand))


def _csv_answer(request: web.Request, text: str, period: Period, following: str | None) -> web.Response:
    headers = {}
    if following is not None:
        pinned = {"since": period.since.isoformat(), "until": period.until.isoformat(), "cursor": following}
        headers["Link"] = f'<{request.rel_url.update_query(pinned)}>; rel="next"'
    return web.Response(text=text, content_type="text/csv", charset="utf-8", headers=headers)


def _shown(row: CostRow) -> dict[str, Any]:
    # Money and seconds as strings: a JSON number would be read as a float.
    values = {name: getattr(row, name) for name in COLUMNS}
    return {name: value if isinstance(value, int | str) else f"{value:f}" for name, value in values.items()}


_DECIMAL: Final = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}
_PROPERTIES: Final = {
    "key": {"type": "string"},
    "vms": {"type": "integer", "minimum": 0},
    "billed_seconds": {**_DECIMAL, "description": "VM seconds charged at a known price"},
    "unknown_seconds": {**_DECIMAL, "description": "VM seconds charged at a price that is not known: in no estimate"},
    "estimate": {**_DECIMAL, "description": "money, in `currency`"},
    "off_contract_seconds": {**_DECIMAL, "description": "on demand though a contract was requested"},
    "off_contract_unknown_seconds": _DECIMAL,
    "off_contract_estimate": {**_DECIMAL, "description": "part of `estimate`"},
}
_REPORT: Final = {
    "by": {"type": "string"},
    "since": TIME,
    "until": TIME,
    "currency": {"type": "string"},
    "total": {"$ref": "#/components/schemas/CostRow"},
    "items": {"type": "array", "items": {"$ref": "#/components/schemas/CostRow"}},
    "next": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "the cursor of the next page"},
}
_MAYBE_DECIMAL: Final = {"anyOf": [_DECIMAL, {"type": "null"}]}
_READ: Final = {"resource": {"type": "string"}, "read_at": TIME, "source": {"type": "string"}}
_PRICE: Final = {**_READ, "value": _DECIMAL, "currency": {"type": "string"}}
_DISCOUNT: Final = {
    **_READ,
    "contract_id": {"type": "integer"},
    "kind": {"enum": ["percent", "flat", None]},
    "value": _MAYBE_DECIMAL,
}
_VM_COST: Final = {
    "ref": {"type": "string", "description": "SUBMISSION.N"},
    "currency": {"type": "string"},
    "billed": {"enum": ["full", "partial", "free"], "description": "in its state now"},
    "per_hour": {**_MAYBE_DECIMAL, "description": "while billed in full, as it is assigned now; null is not known"},
    "per_hour_on_contract": {**_MAYBE_DECIMAL, "description": "the same on the contract that it requested"},
    "price": {"anyOf": [object_of(_PRICE), {"type": "null"}]},
    "discount": {"anyOf": [object_of(_DISCOUNT), {"type": "null"}], "description": "of the contract that it requested"},
    "since": TIME,
    "until": TIME,
    "total": {"$ref": "#/components/schemas/CostRow"},
}
#: The schemas of the OpenAPI document.
SCHEMAS: Final[dict[str, Any]] = {
    "VmCost": object_of(_VM_COST),
    "CostRow": object_of(_PROPERTIES),
    "CostReport": object_of(_REPORT),
}
