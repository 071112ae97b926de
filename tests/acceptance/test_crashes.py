"""Crashes of the daemon and of Postgres under a load of callbacks: a few of the rounds of bench/crash.py."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from crashing import CRASHES, Scene, scene
from ledger import complaints
from numbered import record
from postgres import embedded_postgres
from processes import rows


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with embedded_postgres() as server, scene(tmp_path_factory.mktemp("crashes"), server, seed=6) as made:
        yield made


def test_what_was_acknowledged_survives_every_kind_of_crash_and_moves_each_vm_once(crashed: Scene) -> None:
    kinds = [*CRASHES, "daemon"]
    random.Random(6).shuffle(kinds)
    for kind in kinds:
        assert crashed.round(kind) == []
    assert crashed.finish() == []
    assert len(crashed.tally.ledger.acknowledged) > 500
    assert crashed.tally.killed_with_a_spool["daemon spooling"] == 1


def test_a_record_that_lost_an_acknowledged_callback_is_found_out(crashed: Scene, tmp_path: Path) -> None:
    ledger, url = crashed.tally.ledger, crashed.server.url
    assert complaints(ledger, record(url)) == []
    # Only who switches the triggers off can do it.
    rows(
        url,
        "WITH off AS MATERIALIZED (SELECT set_config('session_replication_role', 'replica', false))"
        " DELETE FROM events USING off WHERE event_id = (SELECT event_id FROM events ORDER BY received_at LIMIT 1)"
        " RETURNING event_id",
    )
    assert any(one.startswith("lost") for one in complaints(ledger, record(url)))


def test_while_postgres_is_away_each_callback_is_answered_at_once_and_recorded_in_its_order(tmp_path: Path) -> None:
    with embedded_postgres() as server, scene(tmp_path, server, seed=7) as made:
        outage = made.outage(2.0, every=0.05)
        assert outage.acknowledged_meanwhile > 100
        # Nobody had to send anything twice, and nobody was told to come again.
        assert outage.load.refused == []
        assert set(outage.load.ledger.tries.values()) == {1}
        assert outage.complaints == []
        assert made.finish() == []
