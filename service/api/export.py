"""Handlers of the export: what one that begins now is of, and the rows of a table as a stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, Self
from uuid import UUID

from aiohttp import hdrs, web
from pydantic import Field, model_validator

from service.api import past, query
from service.api.context import EXPORTS, answer, runtime
from service.audit import export
from service.audit.export_formats import CONTENT_TYPES, Format, formatter
from service.audit.export_tables import LOG, TABLES, Selection, read_cursor
from service.core.create_body import wrong
from service.core.duration import Moment
from service.errors import Overloaded
from service.runtime.cpu import GivingWay
from service.runtime.logs import logger
from service.storage.engine import begin
from service.storage.seals import XactSnapshot

_LOG: Final = logger(room="api")
#: Exports that stream at once; each has a connection to the database.
_AT_ONCE: Final = 2
#: Seconds that a reader may take for a piece. Its transaction holds back VACUUM.
_SLOWEST: Final = 60.0
_SNAPSHOT: Final = r"^[0-9]{1,18}:[0-9]{1,18}:([0-9]{1,18}(,[0-9]{1,18})*)?$"


class ExportQuery(query.Query):
    """A table, and which of its rows."""

    table: Literal[TABLES] = Field(description="which rows")  # type: ignore[valid-type]  # a tuple of literals
    format: Format = Field(default="ndjson", description="how to write them; parquet needs an extra")
    submission_id: UUID | None = Field(default=None, description="only rows of this submission")
    since: Moment | None = Field(default=None, description="only rows from this time on")
    until: Moment | None = Field(default=None, description="only rows before this time")
    snapshot: str | None = Field(
        default=None, pattern=_SNAPSHOT, description="only what this snapshot shows, as `/v1/export/begin` gave it"
    )
    log_id: UUID | None = Field(default=None, description="of which log, for its tables")
    log_size: int | None = Field(default=None, ge=0, le=2**62, description="how many leaves of it")
    after: str | None = Field(
        default=None, max_length=2000, description="the place of the last row that you have: `TABLE:[values]`"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise wrong("since must be before until")
        if self.table in LOG and (self.log_id is None or self.log_size is None):
            raise wrong(f"{self.table} needs log_id and log_size, as `/v1/export/begin` gave them")
        if self.after is not None and self.format == "parquet":
            raise wrong("a Parquet file cannot be continued; leave out after")
        return self

    @property
    def selection(self) -> Selection:
        shown = XactSnapshot.parse(self.snapshot) if self.snapshot else None
        return Selection(
            submission_id=self.submission_id,
            since=self.since,
            until=self.until,
            xmax=shown and shown.xmax,
            in_progress=shown.in_progress if shown else (),
            log_id=self.log_id,
            log_size=self.log_size,
        )


@dataclass(slots=True)
class Exports:
    """How many exports stream now."""

    count: int = field(default=0)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Raises `Overloaded` if too many stream."""
        if self.count >= _AT_ONCE:
            raise Overloaded(f"{_AT_ONCE} exports are running; try again when one has ended")
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


async def begin_export(request: web.Request) -> web.Response:
    """What an export that begins now is of: its snapshot, its log and its tables."""
    rt = runtime(request)
    async with begin(rt.engine) as conn:
        return answer({"started_at": rt.clock.now(), **await export.begin_export(conn)})


async def rows(request: web.Request) -> web.StreamResponse:
    """The rows of a table. If the stream breaks off, its last chunk is missing, which HTTP clients report."""
    rt = runtime(request)
    wanted = query.read(ExportQuery, request)
    past.check_times(rt.clock.now(), since=wanted.since)
    after = None if wanted.after is None else read_cursor(wanted.table, wanted.after)
    made = formatter(wanted.format, wanted.table, str(request.url.origin()))
    async with begin(rt.engine) as conn:
        await past.require_submission(conn, wanted.submission_id)
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: CONTENT_TYPES[wanted.format]})
    async with request.app[EXPORTS].slot():
        await response.prepare(request)
        if request.method == hdrs.METH_HEAD:
            return response
        async with _whole_or_cut(request, wanted.table):
            await _write(response, made.begin() if after is None else b"")
            others = GivingWay()
            async for page in export.pages(rt.engine, wanted.table, wanted.selection, after=after, others=others):
                with others.work():
                    data = made.encode(page)
                await _write(response, data)
            await _write(response, made.end())
    await response.write_eof()
    return response


@asynccontextmanager
async def _whole_or_cut(request: web.Request, table: str) -> AsyncIterator[None]:
    """Cut the connection on any error: no status can be sent any more, and without a last chunk the client sees it."""
    whole = False
    try:
        yield
        whole = True
    finally:
        if not whole:
            _LOG.warning("export broke off", action="export", table=table)
            if request.transport is not None:
                request.transport.abort()


async def _write(response: web.StreamResponse, data: bytes) -> None:
    if data:
        async with asyncio.timeout(_SLOWEST):
            await response.write(data)
