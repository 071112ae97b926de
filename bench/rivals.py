"""What others would take for ingest, each as its own pages show it: FastAPI on uvicorn, procrastinate, pgqueuer.

The two queues stand behind the same aiohttp handler as ours: a job for each callback, deferred and committed before
the answer. They are given less to keep: body, submission and creation, and neither headers nor digest.
"""

import asyncio

import asyncpg
import uvicorn
from aiohttp import web
from fastapi import FastAPI, HTTPException, Request, Response
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.queries import Queries
from procrastinate import App, PsycopgConnector
from servers import POOL, SECRETS, Sessions, a_row, application, asked_for

from service.core.token import verify


async def fastapi(kind: str, port: int, url: str) -> None:
    app = FastAPI(openapi_url=None)
    app.post("/callbacks/{token}")(_nothing() if kind == "fastapi_nothing" else _first(url))
    config = uvicorn.Config(app, host="127.0.0.1", port=port, http="httptools", access_log=False, log_level="warning")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())  # until SIGTERM, which it takes itself
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await serving


def _nothing():  # noqa: ANN202  a handler, whose type is FastAPI's business
    async def handle(request: Request) -> Response:
        await request.body()
        return Response(b"{}", media_type="application/json")

    return handle


def _first(url: str):  # noqa: ANN202  as above
    sessions = Sessions(url)

    async def handle(token: str, request: Request) -> dict[str, str]:
        ref = verify(token, SECRETS)
        if ref is None:
            raise HTTPException(404)
        peer = request.client.host if request.client else None
        await sessions.store(a_row(ref, await request.body(), request.headers.get("content-type", ""), peer))
        return {}

    return handle


async def procrastinate(url: str) -> web.Application:
    app = App(connector=PsycopgConnector(conninfo=url, min_size=POOL, max_size=POOL))

    @app.task(queue="callbacks")
    async def apply_callback(submission_id: str, creation_no: int, body: str) -> None: ...

    await app.open_async()
    await app.schema_manager.apply_schema_async()

    async def handle(request: web.Request) -> web.Response:
        ref = asked_for(request)
        body = (await request.read()).decode()
        await apply_callback.defer_async(submission_id=str(ref.submission_id), creation_no=ref.creation_no, body=body)
        return web.json_response({})

    return application(handle)


async def pgqueuer(url: str) -> web.Application:
    queries = Queries(AsyncpgPoolDriver(await asyncpg.create_pool(url, min_size=POOL, max_size=POOL)))
    await queries.install()

    async def handle(request: web.Request) -> web.Response:
        ref = asked_for(request)
        about = {"submission": str(ref.submission_id), "creation": str(ref.creation_no)}
        await queries.enqueue("hear", await request.read(), headers=about)
        return web.json_response({})

    return application(handle)
