"""A database that a test is given is like any other, whatever an earlier test did to it."""

import pytest
from postgres import Databases, executed, fetched, in_a_thread


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE left_behind ()",
        "CREATE INDEX left_behind ON vms (state)",
        "ALTER TABLE vms DISABLE TRIGGER ALL",
        "ALTER TABLE vms ALTER COLUMN state DROP NOT NULL",
        "CREATE FUNCTION left_behind() RETURNS int LANGUAGE sql RETURN 1",
        "UPDATE pg_index SET indisvalid = false WHERE indrelid = 'vms'::regclass",
        "DELETE FROM alembic_version",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$",
    ],
)
def test_a_database_of_another_shape_is_not_used_again(databases: Databases, change: str) -> None:
    with databases.fresh() as changed:
        in_a_thread(executed(changed, change))
    with databases.fresh() as other:
        assert other != changed


def test_a_database_in_which_rows_were_written_is_used_again_without_them(databases: Databases) -> None:
    with databases.fresh() as first:
        in_a_thread(executed(first, "INSERT INTO rate_limits (scope) VALUES ('left behind')"))
    with databases.fresh() as second:
        assert second == first
        assert in_a_thread(fetched(second, "SELECT count(*) FROM rate_limits")) == 0
