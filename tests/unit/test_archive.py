import gzip
import json
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_events import event

from service.audit.archive import Archive, finished

FIRST = event(1).event_id


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    archive = Archive.begin(tmp_path / "there" / "yet", "events")
    archive.write([event(1), event(2)])
    assert [path.name[0] for path in (tmp_path / "there" / "yet").iterdir()] == ["."]
    manifest = archive.finish()
    archive.leave()
    lines = gzip.decompress((tmp_path / "there" / "yet" / manifest.file).read_bytes()).splitlines()
    assert [json.loads(line)["event_id"] for line in lines] == [str(event(1).event_id), str(event(2).event_id)]
    assert (manifest.events, manifest.first, manifest.last) == (2, event(1).received_at, event(2).received_at)
    assert {path.suffix for path in (tmp_path / "there" / "yet").iterdir()} == {".gz", ".json"}


def test_a_file_without_events_leaves_nothing_behind(tmp_path):
    archive = Archive.begin(tmp_path, "events")
    archive.leave()
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_ever_written_over(tmp_path):
    names = set()
    for _ in range(3):
        archive = Archive.begin(tmp_path, "events")
        names.add(archive.finish().file)
    assert len(names) == 3


def test_a_file_that_is_not_what_was_written_does_not_get_its_name(tmp_path):
    archive = Archive.begin(tmp_path, "events")
    archive.write([event(1)])
    archive._count += 1
    with pytest.raises(OSError, match="read back"):
        archive.finish()
    archive.leave()
    assert list(tmp_path.iterdir()) == []


def ids(path):
    return [json.loads(line)["event_id"] for line in gzip.decompress(path.read_bytes()).splitlines()]


@given(data=st.data())
def test_a_file_that_was_cut_off_or_damaged_anywhere_is_continued_after_its_last_sound_group(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    archive = Archive.begin(folder, "events")
    ends = []
    for number in range(1, 6, 2):
        archive.write([event(number), event(number + 1)])
        ends.append(archive._part.stat().st_size)
    archive.leave()
    content = archive._part.read_bytes()
    cut = data.draw(st.integers(ends[0], ends[-1]))
    damaged = content[:cut] + data.draw(st.binary(max_size=8))
    archive._part.write_bytes(damaged)
    resumed = Archive.resume(folder, "events", first=FIRST)
    # What was drawn may be what stood there.
    sound = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(content, damaged, strict=False)))
    groups = sum(end <= sound for end in ends)
    assert resumed.after == event(2 * groups).key
    resumed.write([event(number) for number in range(2 * groups + 1, 8)])
    manifest = resumed.finish()
    assert ids(folder / manifest.file) == [str(event(number).event_id) for number in range(1, 8)]
    assert (manifest.events, manifest.first, manifest.last) == (7, event(1).received_at, event(7).received_at)
    assert finished(folder, "events", first=event(1), events=7) == manifest
    assert len(list(folder.iterdir())) == 2


def test_a_file_of_others_is_not_continued(tmp_path):
    archive = Archive.begin(tmp_path, "events")
    archive.write([event(1)])
    assert Archive.resume(tmp_path, "events", first=FIRST) is None  # somebody writes it
    archive.leave()
    assert Archive.resume(tmp_path, "events", first=event(2).event_id) is None  # of another database
    assert Archive.resume(tmp_path, "others", first=FIRST) is None
    Archive.resume(tmp_path, "events", first=FIRST).leave()


def test_a_whole_file_whose_manifest_is_missing_is_completed(tmp_path):
    archive = Archive.begin(tmp_path, "events")
    archive.write([event(1)])
    manifest = archive.finish()
    (tmp_path / f"{manifest.file}.json").unlink()
    assert Archive.resume(tmp_path, "events", first=FIRST).finish() == manifest
