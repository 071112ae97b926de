"""What the pages show: the answers of the API, read in this process. So a page never knows more than its caller may."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from yarl import URL

from service.api.context import COUNTED_AT, LAG

#: What a page's address may hold besides the API's own parameters.
_OWN = frozenset({"format"})


async def api(request: web.Request, handler: Handler, query: Mapping[str, str] | None = None) -> Any:
    """What a handler of the API answers to this request's path, with `query` in place of its own."""
    asked = asking(request, query)
    value = await value_of(asked, handler)
    if LAG in asked:  # the page says how old the oldest part of it is
        request[LAG] = max(asked[LAG], request.get(LAG, 0.0))
    if COUNTED_AT in asked:
        request[COUNTED_AT] = min(asked[COUNTED_AT], request.get(COUNTED_AT, asked[COUNTED_AT]))
    return value


def asking(request: web.Request, query: Mapping[str, str] | None) -> web.Request:
    """A request of the API by whoever sent this one, to be answered in JSON, whatever they accept."""
    headers = request.headers.copy()
    headers.popall(hdrs.ACCEPT, None)
    return request.clone(method="GET", headers=headers, rel_url=URL.build(path=request.path, query=dict(query or {})))


async def value_of(request: web.Request, handler: Handler) -> Any:
    """The JSON that a handler of the API answers to a request as it is."""
    response = await handler(request)
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        raise TypeError(f"{request.path} is not answered in JSON")
    return orjson.loads(response.body)


def parameters(request: web.Request, **defaults: str) -> dict[str, str]:
    """The parameters of a page's address that are the API's, without those that a form left empty."""
    given = {name: value for name, value in request.query.items() if value and name not in _OWN}
    return {**defaults, **given}


def as_options(given: Mapping[str, str]) -> str:
    """The same parameters as options of a command."""
    return "".join(f" --{name.partition('_')[0]} {value}" for name, value in given.items())


async def pages(request: web.Request, handler: Handler, query: Mapping[str, str]) -> AsyncIterator[list[Any]]:
    """Every page of a list of the API, from the one that `query` names on."""
    wanted = dict(query)
    while True:
        found = await api(request, handler, wanted)
        yield found["items"]
        if found["next"] is None:
            return
        wanted["cursor"] = found["next"]
