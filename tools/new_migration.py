"""Begin a numbered migration: the difference between the tables and a database made by the migrations so far."""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command
from sqlalchemy import Connection

from service.storage import migrate
from service.storage.embedded import EmbeddedPostgres
from service.storage.engine import begin, create_engine

ROOT = Path(__file__).resolve().parent.parent


async def generate(url: str, number: str, title: str) -> None:
    engine = create_engine(url)
    if any((ROOT / "migrations" / "versions").glob("*.py")):
        await migrate.upgrade(engine)

    def run(conn: Connection) -> None:
        config = migrate.config()
        config.attributes["connection"] = conn
        command.revision(config, title, autogenerate=True, rev_id=number)

    async with begin(engine) as conn:
        await conn.run_sync(run)
    await engine.dispose()


def main() -> None:
    title = sys.argv[1].strip() if len(sys.argv) > 1 else ""
    if not title:
        sys.exit("name it: make migration NAME=what_changes")
    versions = ROOT / "migrations" / "versions"
    number = f"r{len(list(versions.glob('*.py'))) + 1:04d}"
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder) / "pg")
        server.start()
        try:
            asyncio.run(generate(server.url, number, title))
        finally:
            server.stop("immediate")
    made = next(versions.glob(f"{number}_*.py"))
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", str(made)], check=True)
    print(made.relative_to(ROOT))


if __name__ == "__main__":
    main()
