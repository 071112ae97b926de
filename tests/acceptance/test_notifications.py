"""Messages outlive the process that delivers them and the database that holds them. bench/notifications.py does 10,000."""

from pathlib import Path

from notify_outage import outage
from postgres import migrated

from service.storage.embedded import EmbeddedPostgres


async def test_every_message_arrives_and_is_numbered_though_process_and_database_die(
    own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    await migrated(own_postgres.url)
    found = await outage(own_postgres, str(tmp_path), due=500, crashes=2)
    assert found.good, found
    assert (found.killed, found.stopped) == (1, 1)
