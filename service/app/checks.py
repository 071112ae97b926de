"""The checks of `rollcall check`. Each examines one thing, makes nothing, and says how to fix what is wrong."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal

from aiohttp import web
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from service.app.daemon import check_needs
from service.app.database import opened
from service.app.shared_settings import conflicts, shared_settings
from service.client.errors import ApiError, InvalidClientOption
from service.client.http import ApiClient
from service.config import PREFIX, Settings, host_and_port, load, unknown
from service.errors import ConfigError, CredentialsRejected, FieldError, ProviderError, StorageError
from service.operations.provider_calls import call_provider
from service.provider.aiohttp_transport import AiohttpTransport
from service.provider.client import Client
from service.queries.database import OLDEST, Server, look
from service.receiver import spool_check
from service.runtime.replica import measure
from service.runtime.runtime import open_runtime
from service.runtime.secrets import callback_secrets, stored_secret
from service.storage import daemons, migrate, roles
from service.storage.embedded import is_made
from service.storage.engine import begin, create_replica_engine, server_time

State = Literal["ok", "note", "failed", "skipped"]

_TIMEOUT: Final = 10.0
_TOLERABLE_SECONDS: Final = 2.0
#: A check signs no callback URL. Without a secret in the settings, opening a runtime would make one.
_UNUSED_SECRET: Final = SecretStr("not used by any callback URL at all")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do about it."""

    state: State
    what: str
    found: str
    advice: str = ""


async def every() -> list[Finding]:
    """All checks, in the order in which to fix what they find. Nothing wrong with the environment raises."""
    try:
        settings = load()
    except ConfigError as error:
        rest = ("data directory", "database", "clock", "provider key", "callback URL")
        return [
            *(Finding("failed", "settings", f"{one.field} {one.message}", "fix it") for one in error.field_errors),
            *_unknown(),
            *(Finding("skipped", what, "the settings are wrong") for what in rest),
        ]
    return [
        *_settings(settings),
        *_unknown(),
        _data_dir(settings),
        *await _spool(settings),
        *await _database_and_key(settings),
        await _callback_url(settings),
        *await _daemon(settings),
    ]


def _settings(settings: Settings) -> list[Finding]:
    return [
        Finding("failed", "settings", f"{one.field} {one.message}", "set it, in the environment or in .env")
        for one in _missing(settings)
    ] or [Finding("ok", "settings", f"complete; the provider is {settings.infrahub_url}")]


def _unknown() -> list[Finding]:
    return [
        Finding("note", "settings", f"{one.field} {one.message}", "fix its name, or remove it") for one in unknown()
    ]


def _missing(settings: Settings) -> Sequence[FieldError]:
    try:
        check_needs(settings)
    except ConfigError as error:
        return error.field_errors
    return ()


def _data_dir(settings: Settings) -> Finding:
    """Whether the data directory can be written to, or made. Makes nothing."""
    folder = settings.data_dir
    existing = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    advice = f"make it writable, or name another with {PREFIX}DATA_DIR"
    if not existing.is_dir():
        return Finding("failed", "data directory", f"{existing} is not a directory", advice)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding("failed", "data directory", f"{existing} is not writable", advice)
    if existing != folder.absolute():
        return Finding("note", "data directory", f"{folder} does not exist", "nothing: `rollcall serve` makes it")
    return Finding("ok", "data directory", f"{folder} is writable")


async def _spool(settings: Settings) -> list[Finding]:
    """Whether a spool in NATS can be reached, and what its stream is worth. Makes nothing."""
    url = settings.spool
    if url is None or spool_check.errors(settings):
        return []
    found = await spool_check.survey(settings, url)
    advice = "see docs/howto/spool.md"
    state: State = "note" if found.replies else "failed"
    findings = [
        *(Finding(state, "spool", text, f"see that it runs, and {PREFIX}SPOOL_URL") for text in found.unreachable),
        *(Finding("failed", "spool", f"the stream {url.stream}: {text}", advice) for text in found.refusals),
        *(Finding("note", "spool", f"the stream {url.stream}: {text}", advice) for text in found.weaknesses),
    ]
    if found.stream:
        findings.append(Finding("ok", "spool", f"{url.shown}: {found.stream}"))
    elif found.replies:
        absent = f"there is no stream {url.stream}"
        findings.append(
            Finding("note", "spool", absent, f"nothing: `rollcall serve` makes it, {url.replicas} replicas")
        )
    return findings


async def _database_and_key(settings: Settings) -> list[Finding]:
    if settings.database_url is None and not is_made(settings.data_dir / "postgres"):
        absent = f"{PREFIX}DATABASE_URL is not set, and there is no embedded Postgres in {settings.data_dir}"
        return [
            Finding("note", "database", absent, "nothing: `rollcall serve` makes an embedded Postgres there"),
            Finding("skipped", "clock", "there is no database to compare with"),
            await _key(settings, None),
        ]
    kind = "embedded" if settings.database_url is None else "given"
    try:
        async with opened(settings) as engine:
            async with begin(engine) as conn:
                server = await look(conn)
            current = await migrate.current(engine)
            found = [_version(server, kind), _migrations(current), _clock(server)]
            if current != migrate.head():
                return [*found, await _key(settings, None)]
            found += [*await _rights(settings, engine), *await _replica(settings, engine)]
            return [*found, await _shared(settings, engine), await _key(settings, engine)]
    except ConfigError as error:
        failed = [Finding("failed", "database", one.message, one.field) for one in error.field_errors]
    except StorageError as error:
        advice = f"see that it runs, and that {PREFIX}DATABASE_URL is right"
        failed = [Finding("failed", "database", str(error), advice)]
    return [*failed, Finding("skipped", "clock", "there is no database to compare with"), await _key(settings, None)]


def _version(server: Server, kind: str) -> Finding:
    if server.major < OLDEST:
        return Finding("failed", "database", f"Postgres {server.version}", f"use Postgres {OLDEST} or later")
    return Finding("ok", "database", f"Postgres {server.version}, {kind}")


def _migrations(current: str | None) -> Finding:
    needed = migrate.head()
    if current == needed:
        return Finding("ok", "migrations", f"at {current}")
    if current is not None and current > needed:
        newer = f"at {current}, newer than this Rollcall, which knows {needed}"
        return Finding("failed", "migrations", newer, "run the release that made it, or a later one")
    advice = "nothing: the daemon migrates when it starts, and so does `rollcall migrate`"
    return Finding("note", "migrations", f"at {current or 'nothing'}, and {needed} is needed", advice)


async def _rights(settings: Settings, engine: AsyncEngine) -> list[Finding]:
    async with begin(engine) as conn:
        lacking = await roles.lacking(conn, retires=settings.events_keep_months is not None)
    return [Finding("failed", "database role", roles.explain(lacking), "see docs/howto/postgres.md")] if lacking else []


async def _replica(settings: Settings, primary: AsyncEngine) -> list[Finding]:
    if settings.read_database_url is None:
        return []
    engine = create_replica_engine(settings.read_database_url.get_secret_value())
    try:
        lag, wrong = await measure(primary, engine)
    except StorageError as error:
        wrong = f"it does not answer: {error}"
    finally:
        await engine.dispose()
    if wrong is not None:
        return [
            Finding("failed", "read replica", wrong, f"set {PREFIX}READ_DATABASE_URL; until then the primary is read")
        ]
    return [Finding("ok", "read replica", f"{lag:.1f} s behind")]


def _clock(server: Server) -> Finding:
    seconds = server.ahead.total_seconds()
    offset = f"the database's is {abs(seconds):.3f} s {'ahead' if seconds > 0 else 'behind'}"
    if abs(seconds) > _TOLERABLE_SECONDS:
        return Finding("note", "clock", offset, "set both by NTP; until then the database's counts")
    return Finding("ok", "clock", offset)


async def _shared(settings: Settings, engine: AsyncEngine) -> Finding:
    """Whether this daemon could join those that use the database, or take over from the last."""
    if not settings.callback_secrets and not (settings.data_dir / "callback-secret").exists():
        return Finding("skipped", "shared settings", "there is no callback secret yet")
    ours = shared_settings(settings, callback_secrets(settings))
    async with begin(engine) as conn:
        now, known = await server_time(conn), await daemons.latest(conn)
    found = conflicts(ours, known, now, starting=True)
    if not found:
        return Finding("ok", "shared settings", "as the daemons on this database have them")
    text = "; ".join(f"{one.field} {one.message}" for one in found)
    return Finding("failed", "shared settings", text, "set them alike, or see docs/howto/rotating-secrets.md")


async def _key(settings: Settings, recorded_in: AsyncEngine | None) -> Finding:
    if settings.infrahub_api_key is None:
        return Finding("skipped", "provider key", "there is none")
    try:
        await (_read_on_record(settings, recorded_in) if recorded_in else _read(settings, settings.infrahub_api_key))
    except CredentialsRejected:
        advice = f"make a new one in the provider's console, and set {PREFIX}INFRAHUB_API_KEY"
        return Finding("failed", "provider key", "the provider rejects it", advice)
    except ProviderError as error:
        advice = f"see that {settings.infrahub_url} can be reached from here"
        return Finding("failed", "provider key", f"the provider did not answer: {error}", advice)
    except ConfigError as error:
        return Finding("failed", "provider key", str(error), f"set {PREFIX}INFRAHUB_API_KEY as it was issued")
    return Finding("ok", "provider key", "the provider accepts it")


async def _read(settings: Settings, key: SecretStr) -> None:
    transport = AiohttpTransport(proxy=settings.proxy)
    try:
        client = Client(transport, base_url=settings.infrahub_url, api_key=key, timeout=_TIMEOUT)
        await client.environments(page_size=1)
    finally:
        await transport.close()


async def _read_on_record(settings: Settings, engine: AsyncEngine) -> None:
    """As `_read`, within the rate limit that the daemons share. If that is used up, the daemons can reach the provider."""
    rt = open_runtime(
        settings.model_copy(update={"call_timeout": _TIMEOUT, "callback_secrets": (_UNUSED_SECRET,)}),
        engine.url.render_as_string(hide_password=False),
    )
    try:
        result = await call_provider(rt, "read", "environments", lambda: rt.client.environments(page_size=1))
        if result is not None:
            result.value_or_raise()
    finally:
        await rt.close()


async def _daemon(settings: Settings) -> list[Finding]:
    """What the daemon that runs here says of its health; its issues if we have a token of its."""
    try:
        ready = await asyncio.to_thread(_readyz, settings)
    except (ApiError, InvalidClientOption):
        return [Finding("skipped", "daemon", f"none runs at {settings.api_listen}")]
    if not isinstance(ready, dict) or "ready" not in ready:
        advice = f"give the daemon another address with {PREFIX}API_LISTEN"
        return [Finding("failed", "daemon", f"what answers at {settings.api_listen} is not Rollcall", advice)]
    state: State = "note" if ready["ready"] else "failed"
    if "issues" not in ready and not ready["ready"]:
        ready["issues"] = {"not ready": "which issues it has, it tells only with a token"}
    issues = ready.get("issues") or {}
    found = [Finding(state, "daemon", f"{name}: {text}", "see docs/howto/alerts.md") for name, text in issues.items()]
    return found or [Finding("ok", "daemon", f"the one at {settings.api_listen} is ready")]


def _readyz(settings: Settings) -> object:
    """The answer of `/readyz`. Raises `ApiError` if there is none."""
    host, port = host_and_port(settings.api_listen)
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"
    made = settings.data_dir / "api-token"
    tokens = [one.get_secret_value() for one in settings.callers.values()]
    with suppress(ConfigError):
        tokens += [stored_secret(made)] if made.exists() else []
    return ApiClient(url, tokens[0] if tokens else None).send("GET", "/readyz").value


async def _callback_url(settings: Settings) -> Finding:
    if settings.public_url is None and any(one.field.endswith("PUBLIC_URL") for one in _missing(settings)):
        return Finding("skipped", "callback URL", "there is none")
    public = settings.public_url or f"http://{settings.callback_listen}"
    async with _answering(settings.callback_listen) as ours:
        status, why = await asyncio.to_thread(_livez, public)
    listener = "this check" if ours else "the process that listens there"
    if status == 200:
        return Finding("ok", "callback URL", f"{public} reaches {settings.callback_listen}: {listener} answered")
    advice = f"let {public} lead to {settings.callback_listen}, or name another with {PREFIX}PUBLIC_URL"
    return Finding("failed", "callback URL", why or f"{public}/livez is answered with {status}", advice)


def _livez(url: str) -> tuple[int | None, str]:
    try:
        return ApiClient(url).send("GET", "/livez").status, ""
    except ApiError as error:
        return None, error.detail.replace("no daemon answers", "nothing answers")


@asynccontextmanager
async def _answering(listen: str) -> AsyncIterator[bool]:
    """Answer /livez where the daemon will listen, so that its URL can be tried first. Yields False if the address is taken."""
    runner = web.AppRunner(_only_livez(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, *host_and_port(listen)).start()
        ours = True
    except OSError:  # something listens there, most likely the daemon
        ours = False
    try:
        yield ours
    finally:
        await runner.cleanup()


def _only_livez() -> web.Application:
    async def livez(_request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    handler: Callable[[web.Request], Awaitable[web.Response]] = livez
    app = web.Application()
    app.router.add_get("/livez", handler)
    return app
