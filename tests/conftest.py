"""Fixtures of every test: a scrubbed environment, no sockets in unit tests, Postgres, and a runtime with a set clock."""

import gc
import os
import random
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from clock import ManualClock
from hypothesis import HealthCheck, settings
from postgres import Databases, embedded_postgres
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from xdist.scheduler import LoadScopeScheduling

from service.config import Settings
from service.errors import TryLater
from service.provider.client import Client
from service.provider.wire import HttpResponse
from service.runtime.runtime import Runtime
from service.storage.embedded import EmbeddedPostgres
from service.storage.engine import create_engine

for _name in [name for name in os.environ if name.startswith("ROLLCALL_")]:
    del os.environ[_name]
# Processes that tests start keep what Python compiles: each would otherwise spend a second and a half on it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes is the machine's affair: no test asserts a time.
settings.register_profile("rollcall", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rollcall")

#: Each has one stage for all of its tests, which takes seconds to start.
ONE_STAGE = {f"tests/acceptance/test_{name}.py" for name in ("callbacks", "crashes", "parts", "wheel")}

SECRET = "a secret of thirty-two characters"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mutations", type=int, default=100, help="changes that test_mutations.py makes to a sealed record"
    )
    parser.addoption("--mutation-seed", type=int, default=1)
    parser.addoption(
        "--api-examples", type=int, default=6, help="requests that test_api_fuzzed.py sends to each operation"
    )
    parser.addoption("--api-seed", type=int, default=1)


class NoProvider:
    """A transport that refuses every call, as an unreachable provider does. Tests that want answers bring their own."""

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, within: float
    ) -> HttpResponse:
        raise TryLater(f"no provider in this test: {method} {url}")


class ByStage(LoadScopeScheduling):
    """Gives a process of tests the next one when it is nearly done, and the tests of one stage together.

    pytest-xdist 3.8's own `loadgroup` does not see groups under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file in ONE_STAGE else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    return ByStage(config, log) if config.getoption("dist") == "load" else None


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_sockets_in_unit_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "unit" not in request.path.parent.parts:
        return

    def refuse(*_args: object) -> None:
        raise AssertionError("a unit test opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    with embedded_postgres() as server:
        yield Databases.on(server)


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    with databases.fresh() as url:
        yield url


@pytest.fixture
def bare_database_url(databases: Databases) -> Iterator[str]:
    with databases.bare() as url:
        yield url


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A server that the test may stop and start. Its database is empty."""
    with embedded_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def compiled() -> dict[str, Any]:
    """What compiles statements and keeps them, of an engine that has connected: otherwise each test compiles them again."""
    return {}


@pytest.fixture
async def engine(database_url: str, compiled: dict[str, Any]) -> AsyncIterator[AsyncEngine]:
    def make(*given: Any, **how: Any) -> AsyncEngine:
        made = create_async_engine(*given, **how)
        vars(made.sync_engine).update(compiled)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.storage.engine.create_async_engine", make)
        made = create_engine(database_url)
    yield made
    if hasattr(made.dialect, "default_isolation_level"):  # it has connected
        compiled.update({name: vars(made.sync_engine)[name] for name in ("dialect", "_compiled_cache")})
    await made.dispose()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        data_dir=tmp_path / "data",
        infrahub_api_key=SecretStr("an-api-key-of-tests"),
        public_url="https://rollcall.example.com",
        callback_secrets=(SecretStr(SECRET),),
        api_tokens=(SecretStr("tests=a-token-of-tests"),),
    )


@pytest.fixture
def runtime(settings: Settings, engine: AsyncEngine, clock: ManualClock) -> Runtime:
    """A runtime on a database of its own. Replace `client` and `transport` for a provider that answers."""
    transport = NoProvider()
    return Runtime(
        settings=settings.model_copy(
            update={"database_url": SecretStr(engine.url.render_as_string(hide_password=False))}
        ),
        engine=engine,
        client=Client(transport, base_url=settings.infrahub_url, api_key=SecretStr("an-api-key-of-tests")),
        transport=transport,
        callback_secrets=(SECRET.encode(),),
        clock=clock,
        rng=random.Random(7),
    )
