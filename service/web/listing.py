"""A page with one list of the API on it: filtered, page by page, or all of it as CSV."""

from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from service.web.reading import api, pages, parameters
from service.web.rendering import PageColumn, as_csv, html

_PAGE: Final = "50"
_PAGE_OF_CSV: Final = "1000"


async def answer(
    request: web.Request, handler: Handler, columns: Sequence[PageColumn], *, template: str, **values: Any
) -> web.StreamResponse:
    """The list as a page; as CSV with `?format=csv`."""
    if request.query.get("format") == "csv":
        return await _as_csv(request, handler, columns)
    given = parameters(request, limit=_PAGE)
    found = await api(request, handler, given)
    following = None if found["next"] is None else request.rel_url.update_query(cursor=found["next"])
    return html(
        request,
        template,
        items=found["items"],
        columns=columns,
        following=following,
        as_csv=request.rel_url.without_query_params("cursor").update_query(format="csv"),
        given=given,
        same_by=_same_by(request, given),
        **values,
    )


async def _as_csv(request: web.Request, handler: Handler, columns: Sequence[PageColumn]) -> web.StreamResponse:
    name = request.path.strip("/").replace("/", "-") or "fleet"
    response = web.StreamResponse(
        headers={"Content-Type": "text/csv; charset=utf-8", "Content-Disposition": f'attachment; filename="{name}.csv"'}
    )
    heading = True
    async for items in pages(request, handler, {**parameters(request), "limit": _PAGE_OF_CSV}):
        if heading:  # an error of the first page is a page of its own
            await response.prepare(request)
        await response.write(as_csv(columns, items, heading=heading).encode())
        heading = False
    await response.write_eof()
    return response


def _same_by(request: web.Request, given: dict[str, str]) -> str:
    shown = {name: value for name, value in given.items() if (name, value) != ("limit", _PAGE)}
    return str(request.rel_url.with_path(f"/v1{request.path}").with_query(shown))
