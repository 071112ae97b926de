"""The migrations are one numbered line."""

import re
from pathlib import Path

from alembic.script import ScriptDirectory

from service.storage import migrate

SCRIPTS = ScriptDirectory.from_config(migrate.config())
FILES = sorted(Path(SCRIPTS.versions).glob("*.py"))


def test_there_is_one_head_and_one_beginning() -> None:
    assert SCRIPTS.get_heads() == [migrate.head()]
    assert len(SCRIPTS.get_bases()) == 1


def test_files_are_numbered_without_gaps_and_named_after_what_they_do() -> None:
    assert FILES
    for number, file in enumerate(FILES, 1):
        assert re.fullmatch(rf"r{number:04d}_[a-z0-9]+(_[a-z0-9]+)*\.py", file.name), file.name


def test_each_follows_the_one_before_it_and_has_its_files_number() -> None:
    for number, file in enumerate(FILES, 1):
        script = SCRIPTS.get_revision(f"r{number:04d}")
        assert script is not None
        assert Path(script.path) == file
        assert script.down_revision == (f"r{number - 1:04d}" if number > 1 else None)


def test_each_says_what_it_does() -> None:
    for file in FILES:
        script = SCRIPTS.get_revision(file.name[:5])
        assert script is not None
        assert script.doc
