"""The contenders of the ingest bench: one process each, all on POST /callbacks/{token}.

    python bench/servers.py KIND PORT [DATABASE_URL]

`nothing` is the ceiling: aiohttp, reads the body, answers. `first` is what one would write first: aiohttp, a
SQLAlchemy session and a commit for each request. `row` is the same by hand: asyncpg, one statement that commits.
`ours` is the receiver as the daemon runs it. The three that keep anything write the same two rows.
"""

import asyncio
import hashlib
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
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
from service.runtime import open_runtime
from service.storage.engine import create_engine
from service.storage.tables import event_queue, events

SECRET = "a secret for measuring and of no other use"
SECRETS = (SECRET.encode(),)


def tokens(number: int) -> list[str]:
    """Tokens of so many submissions; callbacks of a fleet come for many of them at once."""
    return [mint(CreationRef(UUID(int=(7 << 76) | (2 << 62) | one), 1), SECRETS[0]) for one in range(number)]


def a_row(request: web.Request, ref: CreationRef, body: bytes) -> dict[str, object]:
    now = datetime.now(UTC)
    return {
        "submission_id": ref.submission_id,
        "received_at": now,
        "event_id": uuid7(now, hashlib.sha256(body + str(id(request)).encode()).digest()[:8]),
        "creation_no": ref.creation_no,
        "source": "callback",
        "body": body,
        "headers": {"content-type": request.content_type},
        "peer": request.remote,
        "digest": hashlib.sha256(body).digest(),
    }


async def nothing(_url: str) -> web.Application:
    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b"{}", content_type="application/json")

    return application(handle)


async def first(url: str) -> web.Application:
    sessions = async_sessionmaker(create_engine(url, pool_size=20), class_=AsyncSession)

    async def handle(request: web.Request) -> web.Response:
        ref = verify(request.match_info["token"], SECRETS)
        if ref is None:
            raise web.HTTPNotFound
        row = a_row(request, ref, await request.read())
        key = {name: row[name] for name in ("submission_id", "received_at", "event_id", "creation_no")}
        async with sessions() as session:
            await session.execute(insert(events).values(**row))
            await session.execute(insert(event_queue).values(**key, due_at=row["received_at"]))
            await session.commit()
        return web.json_response({})

    return application(handle)


KEEP_ROW = """
WITH kept AS (
    INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT DO NOTHING
    RETURNING submission_id, received_at, event_id, creation_no
)
INSERT INTO event_queue (submission_id, received_at, event_id, creation_no, due_at)
SELECT submission_id, received_at, event_id, creation_no, received_at FROM kept
"""


async def row(url: str) -> web.Application:
    pool = await asyncpg.create_pool(url, min_size=20, max_size=20)

    async def handle(request: web.Request) -> web.Response:
        ref = verify(request.match_info["token"], SECRETS)
        if ref is None:
            raise web.HTTPNotFound
        made = a_row(request, ref, await request.read())
        made["headers"] = orjson.dumps(made["headers"]).decode()
        await pool.execute(KEEP_ROW, *made.values())
        return web.json_response({})

    return application(handle)


def application(handle: Callable[[web.Request], Awaitable[web.Response]]) -> web.Application:
    app = web.Application()
    app.router.add_post("/callbacks/{token}", handle)
    return app


async def serve(kind: str, port: int, url: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if kind == "ours":
        await ours(port, url, stop)
        return
    runner = web.AppRunner(await {"nothing": nothing, "first": first, "row": row}[kind](url), access_log=None)
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
        print("ready", flush=True)
        await stop.wait()
        await receiver.close()
        await runtime.close()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""))
