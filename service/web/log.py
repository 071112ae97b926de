"""The page of the log: its last checkpoint and what a look at it found, and who exported what."""

from aiohttp import web

from service.api import log, search
from service.errors import NotFound
from service.web.columns import EXPORTS
from service.web.reading import api
from service.web.rendering import html


async def show(request: web.Request) -> web.Response:
    """The state of the log, and the exports on record, newest first."""
    try:
        found = await api(request, log.show)
    except NotFound:
        found = None
    exports = await api(request, search.index, {"kind": "action", "operation": "export", "limit": "50"})
    return html(
        request,
        "log.html",
        log=found,
        exports=exports["items"],
        exports_columns=EXPORTS,
        same_by="/v1/log",
        cli="rollcall audit verify --key FILE",
    )
