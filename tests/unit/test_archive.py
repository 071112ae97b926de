import gzip
import json

import pytest
from stored_events import event

from service.audit.archive import Archive


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    archive = Archive(tmp_path / "there" / "yet", "events")
    archive.write([event(1), event(2)])
    assert [path.name[0] for path in (tmp_path / "there" / "yet").iterdir()] == ["."]
    manifest = archive.finish()
    archive.abandon()
    lines = gzip.decompress((tmp_path / "there" / "yet" / manifest.file).read_bytes()).splitlines()
    assert [json.loads(line)["event_id"] for line in lines] == [str(event(1).event_id), str(event(2).event_id)]
    assert (manifest.events, manifest.first, manifest.last) == (2, event(1).received_at, event(2).received_at)
    assert {path.suffix for path in (tmp_path / "there" / "yet").iterdir()} == {".gz", ".json"}


def test_what_is_abandoned_leaves_nothing_behind(tmp_path):
    archive = Archive(tmp_path, "events")
    archive.write([event(1)])
    archive.abandon()
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_ever_written_over(tmp_path):
    names = set()
    for _ in range(3):
        archive = Archive(tmp_path, "events")
        names.add(archive.finish().file)
    assert len(names) == 3


def test_a_file_that_is_not_what_was_written_does_not_get_its_name(tmp_path):
    archive = Archive(tmp_path, "events")
    archive.write([event(1)])
    archive._count += 1
    with pytest.raises(OSError, match="read back"):
        archive.finish()
    archive.abandon()
    assert list(tmp_path.iterdir()) == []
