"""Our spool format against SQLite: durable appends, draining, and what damage costs.

    .venv/bin/python bench/alternatives/spool_format.py [FOLDER]

FOLDER is on the disk to be measured (default: the temporary folder). Prints Markdown.
"""

import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Protocol
from uuid import UUID

from service.receiver.segments import Segments
from service.storage.events import Event

GROUPS = {1: 400, 50: 100, 500: 30, 1000: 15}
DAMAGES = 500
PAGE = 4096
BODY = b'{"resource": {"id": 1234, "name": "fleet-1"}, "operation": {"name": "createVM", "status": "SUCCESS"}}' * 6


def event(number: int) -> Event:
    body = BODY + b"%08d" % number
    return Event(
        submission_id=UUID(int=7), creation_no=3, event_id=UUID(int=number + 1), source="callback",
        received_at=datetime(2026, 11, 1, tzinfo=UTC) + timedelta(milliseconds=number), peer="203.0.113.7",
        headers={"content-type": "application/json"}, body=body, digest=sha256(body).digest(),
    )  # fmt: skip


class Store(Protocol):
    def append(self, group: Sequence[Event]) -> None: ...
    def drain(self) -> int: ...
    def close(self) -> None: ...


class Ours:
    def __init__(self, folder: Path) -> None:
        self._segments = Segments(folder / "spool", most_bytes=2**33)
        self._segments.open()

    def append(self, group: Sequence[Event]) -> None:
        self._segments.append(group)

    def drain(self) -> int:
        count = 0
        while complete := self._segments.complete():
            for one in complete:
                count += len(self._segments.read(one).events)
                self._segments.remove(one, aside=False)
        return count

    def close(self) -> None:
        self._segments.close()


class Sqlite:
    """One table; each row has a checksum, as SQLite has none for its pages."""

    def __init__(self, folder: Path, journal: str) -> None:
        self._db = sqlite3.connect(folder / "spool.sqlite", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute(f"PRAGMA journal_mode = {journal}")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("CREATE TABLE IF NOT EXISTS e (n INTEGER PRIMARY KEY, about BLOB, body BLOB, sum BLOB)")

    def append(self, group: Sequence[Event]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO e (about, body, sum) VALUES (?, ?, ?)", map(row, group))
        self._db.execute("COMMIT")

    def drain(self) -> int:
        count = 0
        while rows := self._db.execute("SELECT n, about, body, sum FROM e ORDER BY n LIMIT 1000").fetchall():
            count += sum(sha256(about + body).digest() == given for _, about, body, given in rows)
            self._db.execute("DELETE FROM e WHERE n <= ?", (rows[-1][0],))
        return count

    def close(self) -> None:
        self._db.close()


def row(one: Event) -> tuple[bytes, bytes, bytes]:
    about = repr((one.submission_id.hex, one.creation_no, one.received_at, one.event_id.hex, one.source, one.headers,
                  one.peer)).encode()  # fmt: skip
    return about, one.body, sha256(about + one.body).digest()


def stores(folder: Path) -> Iterable[tuple[str, Store]]:
    yield "ours", Ours(folder)
    for journal in ("WAL", "PERSIST", "DELETE"):
        (folder / journal).mkdir()
        yield f"SQLite {journal}", Sqlite(folder / journal, journal)


def speed(folder: Path) -> None:
    print(
        "| store | "
        + " | ".join(f"groups of {size}: events/s (ms a group)" for size in GROUPS)
        + " | drain: events/s |"
    )
    print("|---" * (2 + len(GROUPS)) + "|")
    for name, store in stores(folder):
        cells = []
        total = 0
        for size, times in GROUPS.items():
            groups = [[event(total + n * size + one) for one in range(size)] for n in range(times)]
            began = time.perf_counter()
            for group in groups:
                store.append(group)
            took = time.perf_counter() - began
            total += size * times
            cells.append(f"{size * times / took:,.0f} ({1000 * took / times:.2f})")
        began = time.perf_counter()
        assert store.drain() == total
        cells.append(f"{total / (time.perf_counter() - began):,.0f}")
        store.close()
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def damage(folder: Path) -> None:
    """What is lost of 600 acknowledged events (60 groups of 10) that a killed process left: by one flipped byte
    somewhere, and by one page of zeros."""
    groups = [[event(10 * n + one) for one in range(10)] for n in range(60)]
    print("\n| store | file | damage | lost on average | worst | unnoticed |\n|---|---|---|---|---|---|")
    rng = random.Random(1)

    def flip(data: bytearray) -> None:
        data[rng.randrange(len(data))] ^= rng.randrange(1, 256)

    def zero(data: bytearray) -> None:
        at = rng.randrange(0, len(data), PAGE)
        data[at : at + PAGE] = bytes(len(data[at : at + PAGE]))

    for journal in (None, "WAL", "PERSIST"):
        made = folder / f"damage-{journal}"
        made.mkdir()
        store: Store = Ours(made) if journal is None else Sqlite(made, journal)
        for group in groups:
            store.append(group)
        name = f"SQLite {journal}" if journal else "ours"
        files = [one for one in made.rglob("*") if one.is_file() and one.stat().st_size > 1000]
        for file, how in product(files, (flip, zero)):
            lost, silent = [], 0
            for _ in range(DAMAGES):
                found, said = once(made, file, how)
                lost.append(600 - found)
                silent += found < 600 and not said
            average = sum(lost) / len(lost)
            print(f"| {name} | {file.suffix} | {how.__name__} | {average:.1f} | {max(lost)} | {silent} of {DAMAGES} |")
        store.close()


def once(made: Path, file: Path, how: Callable[[bytearray], None]) -> tuple[int, bool]:
    """How many of the events are read from a damaged copy, and whether the reader noticed."""
    with tempfile.TemporaryDirectory(dir=made.parent) as name:
        copy = Path(name) / "copy"
        shutil.copytree(made, copy, ignore=shutil.ignore_patterns("lock"))
        target = copy / file.relative_to(made)
        data = bytearray(target.read_bytes())
        how(data)
        target.write_bytes(data)
        if (copy / "spool").exists():
            return read_ours(copy)
        return read_sqlite(copy)


def read_ours(copy: Path) -> tuple[int, bool]:
    segments = Segments(copy / "spool", most_bytes=2**33)
    segments.open()
    contents = [segments.read(one) for one in segments.complete()]
    segments.close()
    return sum(len(one.events) for one in contents), any(one.unreadable for one in contents)


def read_sqlite(copy: Path) -> tuple[int, bool]:
    """Read row by row, past what cannot be read, as far as SQLite lets us."""
    good, said, at = 0, False, 0
    with closing(sqlite3.connect(copy / "spool.sqlite", isolation_level=None)) as db:
        while at < 1000:
            try:
                for number, about, body, given in db.execute(
                    "SELECT n, about, body, sum FROM e WHERE n > ? ORDER BY n", (at,)
                ):
                    whole = (
                        isinstance(body, bytes) and isinstance(about, bytes) and sha256(about + body).digest() == given
                    )
                    good, said, at = good + whole, said or not whole, number
                break
            except (sqlite3.DatabaseError, OverflowError):
                said, at = True, at + 1
    return good, said


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        print(f"SQLite {sqlite3.sqlite_version}, Python {sys.version.split()[0]}\n")
        speed(Path(name))
        damage(Path(name))


if __name__ == "__main__":
    main()
