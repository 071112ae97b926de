"""The spool's files: several processes, some of them dead, on one disk that may be full."""

import errno
import os
import resource
import shutil
import stat

import pytest
from stored_events import event

from service.errors import Overloaded, StorageUnavailable
from service.receiver import segments as segments_module
from service.receiver.segments import Segments

PLENTY = 2**20


@pytest.fixture
def root(tmp_path):
    return tmp_path / "spool"


def opened(root, **options):
    made = Segments(root, **{"most_bytes": PLENTY, **options})
    made.open()
    return made


def abandoned(segments):
    """The process dies: the kernel lets go of its locks, and nobody tidies up."""
    segments._finish()

    for lock in segments._folders.values():
        os.close(lock)


def everything(segments):
    """All events, drained as the spool does it."""
    events = []
    while complete := segments.complete():
        for path in complete:
            contents = segments.read(path)
            assert contents.unreadable == 0
            events += contents.events
            segments.remove(path, keep_file=False)
    return events


def test_what_is_appended_is_read_in_its_order(root):
    mine = opened(root)
    mine.append([event(1), event(2)])
    mine.append([event(3)])
    assert everything(mine) == [event(1), event(2), event(3)]


def test_segments_are_read_in_the_order_in_which_they_were_begun(root):
    mine = opened(root, segment_bytes=1)
    for number in range(12):
        mine.append([event(number)])
    assert len(mine.complete()) == 12
    assert everything(mine) == [event(number) for number in range(12)]


def test_a_complete_segment_is_not_appended_to(root):
    mine = opened(root)
    mine.append([event(1)])
    (complete,) = mine.complete()
    mine.append([event(2)])
    assert mine.read(complete).events == [event(1)]


def test_what_is_still_appended_to_is_complete_when_nothing_else_is(root):
    mine = opened(root)
    mine.append([event(1)])
    (first,) = mine.complete()
    mine.append([event(2)])
    mine.append([event(3)])
    assert mine.complete() == [first]
    mine.remove(first, keep_file=False)
    (second,) = mine.complete()
    assert mine.read(second).events == [event(2), event(3)]


def test_a_removed_segment_is_gone_and_no_longer_counts(root):
    mine = opened(root)
    mine.append([event(1)])
    assert mine.bytes > 0
    (segment,) = mine.complete()
    mine.remove(segment, keep_file=False)
    assert mine.complete() == []
    assert mine.bytes == 0


def test_a_segment_that_is_put_aside_is_kept_for_people(root):
    mine = opened(root)
    mine.append([event(1)])
    (segment,) = mine.complete()
    mine.remove(segment, keep_file=True)
    assert mine.complete() == []
    assert len(list(root.glob("*.damaged"))) == 1


def test_what_a_dead_process_left_is_adopted_and_comes_first(root):
    dead = opened(root)
    dead.append([event(1)])
    abandoned(dead)
    mine = opened(root)
    mine.append([event(2)])
    assert everything(mine) == [event(1), event(2)]


def test_what_a_living_process_has_is_left_alone(root):
    living = opened(root)
    living.append([event(1)])
    mine = opened(root)
    mine.append([event(2)])
    assert everything(mine) == [event(2)]
    assert everything(living) == [event(1)]


def test_an_adopted_folder_is_removed_with_its_last_segment(root):
    dead = opened(root, segment_bytes=1)
    dead.append([event(1)])
    dead.append([event(2)])
    abandoned(dead)
    mine = opened(root)
    for segment in mine.complete():
        mine.remove(segment, keep_file=False)
    assert len(list(root.glob("process-*"))) == 1  # ours


def test_a_process_that_leaves_nothing_leaves_no_folder(root):
    mine = opened(root)
    mine.append([event(1)])
    mine.remove(*mine.complete(), keep_file=False)
    mine.close()
    assert list(root.glob("process-*")) == []


def test_a_process_that_leaves_something_leaves_it_to_the_next(root):
    mine = opened(root)
    mine.append([event(1)])
    mine.close()
    assert everything(opened(root)) == [event(1)]


def test_a_full_spool_takes_no_more_and_loses_nothing(root):
    mine = opened(root, most_bytes=2000)
    mine.append([event(1)])
    with pytest.raises(Overloaded):
        mine.append([event(2, body=b"x" * 3000)])
    assert everything(mine) == [event(1)]


def test_a_spool_that_was_drained_has_room_again(root):
    mine = opened(root, most_bytes=2000)
    mine.append([event(1, body=b"x" * 1500)])
    with pytest.raises(Overloaded):
        mine.append([event(2, body=b"x" * 1500)])
    for segment in mine.complete():
        mine.remove(segment, keep_file=False)
    mine.append([event(3, body=b"x" * 1500)])
    assert everything(mine) == [event(3, body=b"x" * 1500)]


def test_a_disk_that_breaks_off_a_write_loses_nothing_that_was_acknowledged(root):
    mine = opened(root)
    mine.append([event(1)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # a write is cut off there, as on a full disk
    try:
        with pytest.raises(StorageUnavailable, match="cannot be written"):
            mine.append([event(2, body=b"x" * 10_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    mine.append([event(3)])
    assert everything(mine) == [event(1), event(3)]


def test_a_disk_that_refuses_every_write_leaves_no_files_behind(root):
    mine = opened(root)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        for number in range(3):
            with pytest.raises(StorageUnavailable):
                mine.append([event(number)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(root.rglob("*.segment")) == []


def test_a_folder_that_somebody_removed_is_made_again(root):
    mine = opened(root)
    for folder in root.glob("process-*"):
        (folder / "lock").unlink()
        folder.rmdir()
    mine.append([event(1)])
    assert everything(mine) == [event(1)]


def test_a_root_that_somebody_removed_is_no_reason_to_fail_at_the_end(root):
    mine = opened(root)
    shutil.rmtree(root)
    mine.close()


def test_a_root_that_cannot_be_a_folder_is_an_error_of_ours_and_not_of_the_system(root):
    root.write_text("something else")
    mine = Segments(root, most_bytes=PLENTY)
    with pytest.raises(StorageUnavailable):
        mine.append([event(1)])


def test_only_the_owner_may_read_what_was_heard(root):
    mine = opened(root)
    mine.append([event(1)])
    (segment,) = mine.complete()
    assert stat.S_IMODE(segment.stat().st_mode) == 0o600
    assert stat.S_IMODE(segment.parent.stat().st_mode) == 0o700


def test_what_a_process_leaves_that_dies_while_we_live_is_adopted(root):
    mine, other = opened(root), opened(root)
    other.append([event(1), event(2)])
    assert not mine.adopt()
    abandoned(other)
    assert mine.adopt()
    assert mine.bytes > 0
    assert everything(mine) == [event(1), event(2)]
    assert list(root.glob("process-*")) == [mine._own]


def test_a_folder_in_which_nothing_was_left_goes_when_it_is_adopted(root):
    mine, other = opened(root), opened(root)
    abandoned(other)
    assert not mine.adopt()
    assert list(root.glob("process-*")) == [mine._own]
    mine.append([event(1)])
    assert everything(mine) == [event(1)]


def test_a_process_that_could_not_lock_its_folder_writes_into_none_that_others_may_take(root, monkeypatch):
    sound = segments_module._lock

    def refused(folder, *, wait=True):
        if folder == root:
            return sound(folder, wait=wait)
        monkeypatch.setattr(segments_module, "_lock", sound)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(segments_module, "_lock", refused)
    mine = Segments(root, most_bytes=PLENTY)
    with pytest.raises(OSError, match="Too many"):
        mine.open()
    mine.append([event(1)])
    other = opened(root)
    assert not other.adopt()
    mine.append([event(2)])
    assert everything(mine) == [event(1), event(2)]


def test_a_folder_that_cannot_be_had_now_does_not_hold_up_the_others(root, monkeypatch):
    dead = [opened(root), opened(root)]
    for number, one in enumerate(dead):
        one.append([event(number)])
    mine = opened(root)
    for one in dead:
        abandoned(one)
    sound, failing = segments_module._lock, [True]

    def once_refused(folder, *, wait=True):
        if folder != root and failing:
            failing.pop()
            raise OSError(errno.EMFILE, "Too many open files")
        return sound(folder, wait=wait)

    monkeypatch.setattr(segments_module, "_lock", once_refused)
    assert mine.adopt()
    assert len(mine.complete()) == 1
    assert mine.adopt()
    assert sorted(everything(mine), key=lambda one: one.received_at) == [event(0), event(1)]


def test_a_probe_says_whether_the_disk_takes_anything_and_leaves_nothing(root):
    mine = opened(root)
    mine.probe()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            mine.probe()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    mine.probe()
    assert [path.name for path in root.rglob("*") if path.is_file() and path.name != "lock"] == []


def test_a_probe_of_a_full_spool_says_that_it_is_full(root):
    mine = opened(root, most_bytes=600)
    mine.append([event(1, body=b"x" * 300)])
    mine._most_bytes = mine.bytes
    with pytest.raises(Overloaded):
        mine.probe()


def test_a_segment_that_was_passed_over_is_named_again_when_it_is_retried(root):
    mine = opened(root)
    mine.append([event(1)])
    (segment,) = mine.complete()
    mine.pass_over(segment)
    assert mine.complete() == []
    mine.retry()
    assert mine.complete() == [segment]
