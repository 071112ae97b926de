"""The daemon: builds the parts of a process, starts them in order, and stops them without losing work.

The order: database, migrations, clock, callbacks (before anything is sent), the API, the jobs. Stopping is the reverse, but
the callback listener stops last.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from urllib.parse import urlsplit

import uvloop
from pydantic import SecretStr

from service import __version__
from service.api.app import make_app
from service.api.routes import OF_THE_PROCESS, ROUTES
from service.app import tracing
from service.app.database import located
from service.app.operator_listener import OperatorListener
from service.app.process import background, follow_server, heal_times, keep_time, stop_on_signals, watch_database
from service.app.shared_settings import Membership
from service.config import PREFIX, Settings, host_and_port, unknown
from service.errors import ConfigError, FieldError, StorageError, StorageUnavailable
from service.notify import apprise_target, outbox
from service.receiver import Receiver, spool_check
from service.runtime import replica
from service.runtime.clock import DatabaseClock
from service.runtime.database_health import report_database
from service.runtime.logs import configure_logs, logger
from service.runtime.runtime import Runtime, open_runtime
from service.runtime.secrets import stored_secret
from service.storage import migrate, roles
from service.storage.embedded import EmbeddedPostgres
from service.storage.engine import begin, check_writable
from service.storage.pooler import refuse_mixed_statements
from service.web.dashboard import add_dashboard
from service.worker import runner, seal

_WATCH_SECONDS = 2.0
#: How long sealing may take at stop. What it leaves is sealed after the next start.
_SEAL_SECONDS = 5.0
#: Python's own, after a start that looks for garbage less often.
_THRESHOLDS = (700, 10, 10)
PARTS = ("receiver", "api", "worker")


def run(settings: Settings, *, only: str | None = None, accept: bool = False) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP. Raises `ConfigError` if a required setting is missing.

    `accept`: start even if settings that daemons must share differ from those on record.
    """
    check_needs(settings, only)
    configure_logs(settings.log_level, settings.log_format)
    for one in unknown():
        logger().warning("unknown setting", action="start", variable=one.field, why=one.message)
    uvloop.run(_serve(settings, (only,) if only else PARTS, accept=accept))


def check_needs(settings: Settings, only: str | None = None) -> None:
    """Raise `ConfigError` with every required setting that is missing."""
    field_errors = []
    if settings.infrahub_api_key is None and only in {None, "worker"}:
        field_errors.append(FieldError(f"{PREFIX}INFRAHUB_API_KEY", "is not set; make a key in the provider's console"))
    if settings.public_url is None and not _is_local(settings.infrahub_url):
        text = "is not set; it is the URL at which the provider reaches the callback listener from outside"
        field_errors.append(FieldError(f"{PREFIX}PUBLIC_URL", text))
    field_errors += [*apprise_target.errors(settings), *tracing.errors()]
    if only in {None, "receiver"}:
        field_errors += spool_check.errors(settings)
    if field_errors:
        raise ConfigError(field_errors)


def api_callers(settings: Settings) -> Mapping[str, SecretStr]:
    """The API tokens by name: from the settings, or one created and stored in the data directory."""
    return settings.callers or {"default": SecretStr(stored_secret(settings.data_dir / "api-token"))}


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}


async def _serve(settings: Settings, parts: tuple[str, ...], *, accept: bool) -> None:
    stop = stop_on_signals()
    async with AsyncExitStack() as stack:
        url, embedded = await stack.enter_async_context(located(settings))
        if embedded is not None:
            await stack.enter_async_context(background(_watch(embedded, stop), "embedded Postgres", stop))
        rt = open_runtime(settings, url)
        stack.push_async_callback(rt.close)
        if not await _prepare(rt, stop):
            return
        await stack.enter_async_context(_member(rt, stop, accept=accept, tells="worker" in parts))
        if "worker" in parts:
            await outbox.prepare(rt)
        # What is there by now stays. Looking through all of it for garbage would hold callbacks up for a tenth of a
        # second at a time.
        gc.freeze()
        gc.set_threshold(*_THRESHOLDS)
        await stack.enter_async_context(background(keep_time(rt), "clock", stop))
        await stack.enter_async_context(background(watch_database(rt), "database", stop))
        await stack.enter_async_context(background(follow_server(rt), "database server", stop))
        if "api" in parts and rt.replica is not None:
            await stack.enter_async_context(background(replica.watch(rt), "read replica", stop))
        if "worker" in parts:
            stack.push_async_callback(_seal_at_stop, rt)  # when the last callback is stored
        if "receiver" in parts:
            await stack.enter_async_context(_receiver(rt))
        await stack.enter_async_context(_api(rt, stop, whole="api" in parts))
        await stack.enter_async_context(tracing.exported(rt))
        logger().info("serving", action="start", version=__version__, parts=list(parts),
                      callbacks=settings.callback_listen, api=settings.api_listen, provider=settings.infrahub_url)  # fmt: skip
        if "worker" in parts:
            await runner.run(rt, stop, grace=settings.stop_seconds)
        else:
            await stop.wait()
        logger().info("stopping", action="stop")


async def _seal_at_stop(rt: Runtime) -> None:
    try:
        async with asyncio.timeout(_SEAL_SECONDS):
            await seal.run_at_stop(rt)
    except (StorageError, ConfigError, TimeoutError) as error:
        logger().warning("not everything was sealed at stop", action="seal", error=str(error))


async def _watch(server: EmbeddedPostgres, stop: asyncio.Event) -> None:
    """Restart the embedded Postgres if it stops."""
    while not stop.is_set():
        await asyncio.sleep(_WATCH_SECONDS)
        try:
            if await asyncio.to_thread(server.is_running):
                continue
            logger().warning("the embedded Postgres is not running; starting it", action="database")
            await asyncio.to_thread(server.start)
        except (StorageUnavailable, OSError) as error:  # such as: no descriptor was free
            logger().warning("the embedded Postgres could not be started", action="database", error=str(error))


async def _prepare(rt: Runtime, stop: asyncio.Event) -> bool:
    """Migrate, and measure the database's clock, waiting for a database that can be written to. False if `stop` was set first.

    Raises `ConfigError` for a database that will never do.
    """
    attempt = 0
    while not stop.is_set():
        try:
            await refuse_mixed_statements(rt.engine.url.render_as_string(hide_password=False))
            await migrate.upgrade(rt.engine)
            async with begin(rt.engine) as conn:
                await check_writable(conn)  # migrate writes nothing if there is nothing to do
                await roles.require(conn, retires=rt.settings.events_keep_months is not None)
            if isinstance(rt.clock, DatabaseClock):
                await rt.clock.measure(rt.engine)  # before it is used for leases
                await heal_times(rt, rt.clock.now())
        except StorageUnavailable as error:
            attempt += 1
            report_database(rt.health, str(error))
            logger().warning("waiting for the database", action="database", error=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), min(10.0, 0.2 * 2**attempt))
        else:
            return True
    return False


@asynccontextmanager
async def _member(rt: Runtime, stop: asyncio.Event, *, accept: bool, tells: bool) -> AsyncIterator[None]:
    """One of the daemons on the database, for as long as the block lasts. Raises `ConfigError` if it must not be one."""
    membership = Membership(rt, tells=tells)
    await membership.join(accept=accept)
    try:
        async with background(membership.watch(), "shared settings", stop):
            yield
    finally:
        await membership.leave()


@asynccontextmanager
async def _receiver(rt: Runtime) -> AsyncIterator[None]:
    receiver = Receiver(rt)
    await receiver.start(*host_and_port(rt.settings.callback_listen))
    try:
        yield
    finally:
        await receiver.close()


@asynccontextmanager
async def _api(rt: Runtime, stop: asyncio.Event, *, whole: bool) -> AsyncIterator[None]:
    """The operator listener: API and dashboard; without the part `api`, only the paths about the process."""
    app = make_app(rt, api_callers(rt.settings), ROUTES if whole else OF_THE_PROCESS)
    if whole:
        add_dashboard(app)
    listener = OperatorListener(app)
    await listener.start(*host_and_port(rt.settings.api_listen))
    try:
        async with background(listener.watch(), "operator listener", stop):
            yield
    finally:
        await listener.close()
