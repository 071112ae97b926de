"""The schema can be distributed by submission: docs/explanation/scale.md says what that means."""

import re
from pathlib import Path

from postgres import fetched
from sqlalchemy import ForeignKeyConstraint, PrimaryKeyConstraint, Table, UniqueConstraint

from service.storage.tables import metadata

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/explanation/scale.md").read_text()
#: What docs/explanation/scale.md lists with a reason, row by row.
EXCEPTIONS = {
    name
    for row in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE, flags=re.MULTILINE)
    for name in re.findall(r"`(\w+)`", row)
}
_ACROSS = re.compile(
    r"\bpg_(?:try_)?advisory_(?:lock|unlock)\b|\bpg_notify\b|^\s*(?:LISTEN|NOTIFY|UNLISTEN) \w|add_listener|nextval",
    re.MULTILINE,
)


def across_submissions(table: Table) -> list[str]:
    """The constraints of a table that do not hold within a submission alone."""
    kinds = (PrimaryKeyConstraint, UniqueConstraint, ForeignKeyConstraint)
    found = [
        str(one.name) for one in table.constraints if isinstance(one, kinds) and "submission_id" not in one.columns
    ]
    for one in table.foreign_key_constraints:
        pairs = {element.parent.name: element.column.name for element in one.elements}
        if pairs.get("submission_id") != "submission_id":
            found.append(str(one.name))
    return found + [str(one.name) for one in table.indexes if one.unique and "submission_id" not in one.columns]


def test_every_constraint_holds_within_a_submission_but_in_the_tables_that_are_listed():
    assert {table.name for table in metadata.tables.values() if across_submissions(table)} == EXCEPTIONS


def test_every_other_table_belongs_to_a_submission():
    others = [table for table in metadata.tables.values() if table.name not in EXCEPTIONS]
    assert len(others) > 10
    assert [table.name for table in others if table.c.submission_id.nullable] == []


def test_the_page_distributes_every_table_once():
    made = re.findall(r"create_(?:distributed|reference)_table\('(\w+)'", PAGE)
    assert len(made) == len(set(made))
    local = {
        name for row in PAGE.splitlines() if "local to the coordinator" in row for name in re.findall(r"`(\w+)`", row)
    }
    assert set(made) | local == metadata.tables.keys()
    assert not set(made) & local


async def test_no_table_takes_numbers_from_a_sequence_but_the_one_that_is_named(database_url: str):
    sequences = "SELECT array_agg(relname::text) FROM pg_class WHERE relkind = 'S'"
    assert await fetched(database_url, sequences) == ["notices_notice_no_seq"]
    assert "no table but `notices` takes numbers from a sequence" in PAGE


def test_nothing_relies_on_what_holds_for_one_session_or_server():
    sources = [*(ROOT / "service").rglob("*.py"), *(ROOT / "migrations").rglob("*.py")]
    assert [path.name for path in sources if _ACROSS.search(path.read_text())] == []
