"""The contenders of the ingest bench: one process each, all on POST /callbacks/{token}.

    python bench/servers.py KIND PORT [DATABASE_URL]

`nothing` is the ceiling: aiohttp, reads the body, answers. `first` is what one would write first: aiohttp, a
SQLAlchemy session and a commit for each request. `row` is the same by hand: asyncpg, one statement that commits.
`ours` is the receiver as the daemon runs it; `daemon`, the whole `rollcall serve`, which also applies them, is started by
ingest.py. What others would take instead stands in rivals.py. Those of this file
that keep anything write the same two rows; every one runs on uvloop, and those with a pool have 20 connections.
"""

import asyncio
import gc
import hashlib
import random
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from uuid import UUID

import asyncpg
import orjson
import uvloop
from aiohttp import web
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from service.config import Settings
from service.core.ids import uuid7
from service.core.token import CreationRef, mint, verify
from service.receiver import Receiver
from service.runtime.runtime import open_runtime
from service.storage.engine import create_engine
from service.storage.tables import events, inbox

POOL = 20
SECRET = "a secret for measuring and of no other use"
SECRETS = (SECRET.encode(),)
CHANCE = random.SystemRandom()

#: Each contender, and the table in which its acknowledged callbacks have to be; None for those that keep nothing.
KEPT_IN = {
    "nothing": None,
    "ours": "events",
    "daemon": "events",
    "row": "events",
    "first": "events",
    "fastapi_nothing": None,
    "fastapi_first": "events",
    "pgqueuer": "pgqueuer",
    "procrastinate": "procrastinate_jobs",
}


def submission(number: int) -> UUID:
    """One of the submissions whose callbacks come: a version 7 UUID, as the daemon makes them, and always the same."""
    uuid7_time = datetime(2026, 1, 1, tzinfo=UTC).timestamp() + 60 * number
    return uuid7(datetime.fromtimestamp(uuid7_time, UTC), hashlib.sha256(b"submission %d" % number).digest()[:8])


def tokens(number: int) -> list[str]:
    """Tokens of so many submissions; callbacks of a fleet come for many of them at once."""
    return [mint(CreationRef(submission(one), 1), SECRETS[0]) for one in range(number)]


def a_row(ref: CreationRef, body: bytes, content_type: str, peer: str | None) -> dict[str, object]:
    now = datetime.now(UTC)
    return {
        "submission_id": ref.submission_id,
        "received_at": now,
        "event_id": uuid7(now, CHANCE.randbytes(8)),
        "creation_no": ref.creation_no,
        "source": "callback",
        "body": body,
        "headers": {"content-type": content_type},
        "peer": peer,
        "digest": hashlib.sha256(body).digest(),
    }


class Sessions:
    """Keeps a callback as one would write it first: a session, two rows, a commit."""

    def __init__(self, url: str) -> None:
        self._sessions = async_sessionmaker(create_engine(url, pool_size=POOL, pre_ping=False), class_=AsyncSession)

    async def store(self, row: dict[str, object]) -> None:
        key = {name: row[name] for name in ("submission_id", "received_at", "event_id", "creation_no")}
        async with self._sessions() as session:
            await session.execute(insert(events).values(**row))
            await session.execute(insert(inbox).values(**key, due_at=row["received_at"]))
            await session.commit()


async def nothing(_url: str) -> web.Application:
    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b"{}", content_type="application/json")

    return application(handle)


async def first(url: str) -> web.Application:
    sessions = Sessions(url)

    async def handle(request: web.Request) -> web.Response:
        ref = asked_for(request)
        await sessions.store(a_row(ref, await request.read(), request.content_type, request.remote))
        return web.json_response({})

    return application(handle)


KEEP_ROW = """
WITH kept AS (
    INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT DO NOTHING
    RETURNING submission_id, received_at, event_id, creation_no
)
INSERT INTO inbox (submission_id, received_at, event_id, creation_no, due_at)
SELECT submission_id, received_at, event_id, creation_no, received_at FROM kept
"""


async def row(url: str) -> web.Application:
    pool = await asyncpg.create_pool(url, min_size=POOL, max_size=POOL)

    async def handle(request: web.Request) -> web.Response:
        ref = asked_for(request)
        made = a_row(ref, await request.read(), request.content_type, request.remote)
        made["headers"] = orjson.dumps(made["headers"]).decode()
        await pool.execute(KEEP_ROW, *made.values())
        return web.json_response({})

    return application(handle)


def asked_for(request: web.Request) -> CreationRef:
    ref = verify(request.match_info["token"], SECRETS)
    if ref is None:
        raise web.HTTPNotFound
    return ref


def application(handle: Callable[[web.Request], Awaitable[web.Response]]) -> web.Application:
    app = web.Application()
    app.router.add_post("/callbacks/{token}", handle)
    return app


async def serve(kind: str, port: int, url: str) -> None:
    if kind.startswith("fastapi"):
        await the_rivals().fastapi(kind, port, url)
        return
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await (ours(port, url, stop) if kind == "ours" else plain(kind, port, url, stop))


def the_rivals() -> ModuleType:
    import rivals  # noqa: PLC0415  its libraries are there only where `make bench` has installed them

    return rivals


async def plain(kind: str, port: int, url: str, stop: asyncio.Event) -> None:
    own = {"nothing": nothing, "first": first, "row": row}
    app = await (own[kind] if kind in own else getattr(the_rivals(), kind))(url)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    await stop.wait()
    await runner.cleanup()


async def ours(port: int, url: str, stop: asyncio.Event) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(_env_file=None, data_dir=Path(folder), callback_secrets=SECRET, database_url=url)
        runtime = open_runtime(settings, url)
        receiver = Receiver(runtime)
        await receiver.start("127.0.0.1", port)
        gc.collect()  # as service/app/daemon.py does
        gc.freeze()
        print("ready", flush=True)
        await stop.wait()
        await receiver.close()
        await runtime.close()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""))
