"""The audit page: the fleet at a past moment beside the fleet of another, and what ran off contract in between."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aiohttp import web

from service.api import as_of, past
from service.api.context import reading, runtime
from service.core.lifecycle import ENDED
from service.errors import FieldError, Invalid
from service.queries import fleet_samples
from service.web.columns import OFF_CONTRACT, VMS_AS_OF
from service.web.reading import api
from service.web.rendering import html

#: What the slider spans: its name, and the minutes of one of its steps. It has 100 steps.
SPANS: Final = {"hours": 15, "days": 144, "weeks": 1008, "months": 4320}
_MOST: Final = "200"
_NOTHING: Final[dict[str, Any]] = {"items": [], "total": None}


async def show(request: web.Request) -> web.Response:
    """The fleet as it was on record at a moment, and how that differs from an earlier or later one."""
    now = runtime(request).clock.now()
    span = request.query.get("span") if request.query.get("span") in SPANS else "hours"
    at = _moment(request, "time", now) or now - timedelta(minutes=SPANS[str(span)] * _steps(request))
    other = _moment(request, "compare", now) or now
    asked = _text(at)
    exact = await _is_exact(request)
    then = await _numbers(request, at, exact=exact)
    beside = then if other == at else await _numbers(request, other, exact=exact)
    # Of a large record the whole past is not gone through unless somebody asks.
    off = (
        _NOTHING if other == at and not exact else await api(request, as_of.off_contract, _period(*sorted((at, other))))
    )
    return html(
        request,
        "audit.html",
        at=at,
        other=other,
        now=now,
        then=then,
        exactly=None if exact else request.rel_url.update_query(exact="yes", time=asked, compare=_text(other)),
        beside=beside,
        states=sorted({*then["by_state"], *beside["by_state"]}),
        span=span,
        spans=list(SPANS),
        steps=min(100, round((now - at).total_seconds() / 60 / SPANS[str(span)])),
        items=(await api(request, as_of.vms, {"time": asked, "limit": _MOST}))["items"],
        columns=VMS_AS_OF,
        off_contract=off["items"],
        off_contract_total=off["total"],
        off_contract_columns=OFF_CONTRACT,
        same_by=f"/v1/fleet/at?time={asked}",
        cli=f"rollcall fleet --at {asked}",
    )


async def _is_exact(request: web.Request) -> bool:
    """Whether every VM is looked at; else, in a large record, the numbers are those that were counted last by then."""
    if request.query.get("exact") == "yes":
        return True
    async with reading(request) as conn:
        return await fleet_samples.instead_of_counting(conn, now=runtime(request).clock.now()) is None


async def _numbers(request: web.Request, at: datetime, *, exact: bool) -> dict[str, Any]:
    """As `GET /v1/fleet/at` answers, or what was counted last by then, with `counted_at`."""
    if not exact:
        async with reading(request) as conn:
            sample = await fleet_samples.at(conn, at, now=runtime(request).clock.now())
        if sample is not None:
            alive = sum(number for state, number in sample.by_state.items() if state not in ENDED)
            off_contract = sample.numbers["off_contract"]
            return {
                "by_state": sample.by_state,
                "alive": alive,
                "off_contract": off_contract,
                "counted_at": sample.counted_at,
            }
    counted = (await api(request, as_of.fleet, {"time": _text(at)}))["fleet"]
    return {**counted, "counted_at": None}


def _steps(request: web.Request) -> int:
    given = request.query.get("ago", "0")
    return min(100, int(given)) if given.isascii() and given.isdigit() else 0


def _moment(request: web.Request, name: str, now: datetime) -> datetime | None:
    """A time that a form's field holds: UTC unless it says otherwise."""
    given = request.query.get(name, "").strip()
    if not given:
        return None
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise Invalid([FieldError(name, "must be a time, such as 2026-11-01T12:00:00Z")]) from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    past.check_times(now, **{name: found})
    return found.astimezone(UTC)


def _period(first: datetime, second: datetime) -> dict[str, Any]:
    # A period of no length is refused: the whole past up to then is shown instead.
    since = {"since": _text(first)} if first < second else {}
    return {**since, "until": _text(second), "limit": _MOST}


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
