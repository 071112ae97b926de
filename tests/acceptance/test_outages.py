"""Postgres away, the provider away: the work waits, what was acknowledged is kept, and all goes on by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Literal

import pytest
from processes import Stage, post, staged, until

from service.storage.embedded import EmbeddedPostgres

_LONG = {"timing": {"answer": [1, 3], "creating": [5, 20], "build": [20, 80], "address": [2, 15]}}


class Sender:
    """Somebody who posts callbacks to a URL of ours without pause, and knows which were acknowledged."""

    def __init__(self, url: str) -> None:
        self.acknowledged: list[str] = []
        self.others: list[int] = []
        self._url = url
        self._over = Event()

    def work(self) -> None:
        number = 0
        while not self._over.wait(0.02):
            number += 1
            body = f'{{"resource": {{"id": 99}}, "operation": {{"name": "sent-{number}", "status": "ACTIVE"}}}}'
            try:
                status = post(self._url, body.encode())
            except OSError:  # nobody listens just now
                continue
            if status == 200:
                self.acknowledged.append(body)
            else:
                self.others.append(status)

    def stop(self) -> None:
        self._over.set()


@contextmanager
def sending(stage: Stage) -> Iterator[Sender]:
    url = until(stage.simulator.vms, "a VM")[0]["callback_url"]
    sender = Sender(url)
    thread = Thread(target=sender.work)
    thread.start()
    try:
        yield sender
    finally:
        sender.stop()
        thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgres_stops_and_starts_in_the_middle_and_no_acknowledged_callback_is_lost(
    tmp_path: Path, own_postgres: EmbeddedPostgres, mode: Literal["fast", "immediate"]
) -> None:
    # svix #1844 (field-notes.md section 1): consumers stayed in limbo after the broker came back.
    with staged(tmp_path, own_postgres.url, cloud=_LONG) as stage:
        submission = stage.daemon.submit(60)
        with sending(stage) as sender:
            until(lambda: len(sender.acknowledged) > 10, "callbacks are taken")
            own_postgres.stop(mode)
            before = len(sender.acknowledged)
            readiness = until(
                lambda: (seen := stage.daemon.readiness()) and not seen["ready"] and seen, "the daemon says so"
            )
            until(lambda: len(sender.acknowledged) > before + 20, "callbacks are taken without Postgres")
            own_postgres.start()
            until(lambda: stage.daemon.readiness()["ready"], "the daemon says that all is well again")
            stage.daemon.until_state(submission, "ready")
        assert "database" in readiness["issues"]
        assert sender.others == []
        stage.until_true()
        stage.made_once(60)
        assert set(sender.acknowledged) <= set(stage.kept())


def test_callbacks_in_the_spool_survive_a_kill_and_come_into_the_record(
    tmp_path: Path, own_postgres: EmbeddedPostgres
) -> None:
    with staged(tmp_path, own_postgres.url, cloud=_LONG) as stage:
        submission = stage.daemon.submit(20)
        with sending(stage) as sender:
            until(lambda: len(sender.acknowledged) > 10, "callbacks are taken")
            own_postgres.stop("immediate")
            before = len(sender.acknowledged)
            until(lambda: len(sender.acknowledged) > before + 20, "callbacks are taken without Postgres")
            stage.daemon.kill()
        own_postgres.start()
        stage.daemon.start()
        stage.daemon.until_state(submission, "ready")
        stage.until_true()
        stage.made_once(20)
        assert set(sender.acknowledged) <= set(stage.kept())


def test_a_daemon_that_starts_before_its_database_waits_for_it(tmp_path: Path, own_postgres: EmbeddedPostgres) -> None:
    with staged(tmp_path, own_postgres.url) as stage:
        assert stage.daemon.stop() == 0
        own_postgres.stop("fast")
        stage.daemon.launch()
        until(lambda: stage.daemon.log.count("waiting for the database") > 1, "it waits")
        own_postgres.start()
        until(lambda: (seen := stage.daemon.readiness()) and seen["ready"], "it works")
        stage.daemon.until_state(stage.daemon.submit(2), "ready")
        stage.until_true()


def test_a_provider_that_is_away_for_a_while_costs_time_and_nothing_else(
    tmp_path: Path, bare_database_url: str
) -> None:
    with staged(tmp_path, bare_database_url, cloud=_LONG, CREATE_CONCURRENCY="1") as stage:
        submission = stage.daemon.submit(60)
        until(lambda: len(stage.simulator.creates()) >= 2, "some creates")
        # Sixty of its seconds: every call is cut, and every callback of that time is lost.
        until_at = stage.simulator.query("outage", {"seconds": 60})["until"]
        until(lambda: stage.simulator.query("stats")["now"] > until_at, "it is back")
        stats = stage.simulator.query("stats")
        stage.daemon.until_state(submission, "ready")
        stage.until_true()
        stage.made_once(60)
        assert stats["calls_by_fate"]["cut"] > 0
        assert stats["callbacks_by_fault"]["outage"] > 0
