"""TLS to a real Postgres: the server proves who it is, we prove who we are, and a password may rotate in a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import executed
from servers import Server, a_server, wants_a_server
from sqlalchemy import text
from tls import Authority

from service.errors import StorageError
from service.storage.engine import begin, create_engine

pytestmark = wants_a_server

HBA = """
local all all trust
hostssl all of_certificates 127.0.0.1/32 cert
hostssl all of_passwords 127.0.0.1/32 scram-sha-256
"""


class Secured:
    """A server that only takes TLS, and what a client needs for it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.authority = Authority(folder)
        self.other = Authority(folder, "others")
        certificate, key = self.authority.issue("server", "localhost")
        server.give(certificate, key)
        server.initialise()
        (server.data / "pg_hba.conf").write_text(HBA)
        files = {"ssl_cert_file": certificate, "ssl_key_file": key, "ssl_ca_file": self.authority.root}
        server.start({"ssl": "on", **{name: str(path) for name, path in files.items()}})

    def url(self, user: str, host: str = "localhost", **parameters: object) -> str:
        given = {"sslmode": "verify-full", "sslrootcert": self.authority.root, **parameters}
        query = "&".join(f"{name}={value}" for name, value in given.items())
        return f"postgresql://{user}@{host}:{self.server.port}/postgres?{query}"


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    with a_server() as server:
        folder = server.folder / "tls"
        folder.mkdir(mode=0o755)
        yield Secured(server, folder)


async def user_of(url: str) -> str:
    # The receiver's connections take the URL as SQLAlchemy writes it.
    written = create_engine(url, pool_size=1).url.render_as_string(hide_password=False)
    engine = create_engine(written, pool_size=1)
    try:
        async with begin(engine) as conn:
            shown = text("SELECT current_user || ' ' || (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid())")
            return (await conn.execute(shown)).scalar_one()
    finally:
        await engine.dispose()


async def test_a_client_certificate_logs_in_to_a_server_that_proves_its_name(secured: Secured):
    await executed(secured.server.socket_url, "CREATE ROLE of_certificates LOGIN")
    certificate, key = secured.authority.issue("of_certificates")
    assert await user_of(secured.url("of_certificates", sslcert=certificate, sslkey=key)) == "of_certificates TLSv1.3"
    others, of_others = secured.other.issue("of_certificates")
    for wrong in (
        {},
        {"sslcert": others, "sslkey": of_others},  # signed by somebody else
        {"sslcert": certificate, "sslkey": key, "sslrootcert": secured.other.root},  # the server is somebody else
        {"sslcert": certificate, "sslkey": key, "host": "127.0.0.1"},  # the certificate has another name
    ):
        with pytest.raises(StorageError):
            await user_of(secured.url("of_certificates", **wrong))


async def test_a_password_that_rotates_in_a_file_is_read_for_each_connection(secured: Secured):
    await executed(secured.server.socket_url, "CREATE ROLE of_passwords LOGIN PASSWORD 'first'")
    file = secured.folder / "pgpass"
    file.write_text("*:*:*:of_passwords:first\n")
    file.chmod(0o600)
    engine = create_engine(secured.url("of_passwords", passfile=file), pool_size=1)
    try:
        async with begin(engine) as conn:
            await conn.execute(text("SELECT 1"))
        await executed(secured.server.socket_url, "ALTER ROLE of_passwords PASSWORD 'second'")
        await executed(
            secured.server.socket_url,
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'of_passwords'",
        )
        with pytest.raises(StorageError):
            async with begin(engine) as conn:
                await conn.execute(text("SELECT 1"))
        file.write_text("*:*:*:of_passwords:second\n")
        async with begin(engine) as conn:
            assert (await conn.execute(text("SELECT current_user"))).scalar_one() == "of_passwords"
    finally:
        await engine.dispose()
