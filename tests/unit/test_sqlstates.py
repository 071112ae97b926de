"""Every SQLSTATE has an answer, those of no known Postgres too."""

import string

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import AppendOnly, StorageError, StorageUnavailable, Unstorable
from service.storage.engine import translated
from service.storage.sqlstates import SqlOutcome, breaks_connection, outcome_of

sqlstates = st.text(string.digits + string.ascii_uppercase, min_size=5, max_size=5)


@given(sqlstates)
async def test_any_sqlstate_becomes_an_error_of_ours(sqlstate: str):
    raised = asyncpg.PostgresError("of a test")
    raised.sqlstate = sqlstate
    with pytest.raises(StorageError) as caught:
        async with translated():
            raise raised
    expected = {
        SqlOutcome.RETRY: StorageUnavailable,
        SqlOutcome.UNSTORABLE: Unstorable,
        SqlOutcome.APPEND_ONLY: AppendOnly,
        SqlOutcome.FAILED: StorageError,
    }
    assert type(caught.value) is expected[outcome_of(sqlstate)]
    assert str(caught.value).startswith(sqlstate)


@pytest.mark.parametrize(
    ("outcome", "states"),
    {
        SqlOutcome.RETRY: "08006 08P01 25006 25P01 25P02 25P03 26000 40001 40P01 53100 53300 55P03 57014 57P01 57P03 58030 0A000",
        SqlOutcome.UNSTORABLE: "22021 22P05 23505 54000",
        SqlOutcome.FAILED: "42501 42P01 28P01 3D000 XX001 F0000 55000 P0001 ZZZZZ",
        SqlOutcome.APPEND_ONLY: "RC001",
    }.items(),
)
def test_known_sqlstates_mean_what_postgres_documents(outcome: SqlOutcome, states: str):
    assert {state: outcome_of(state) for state in states.split()} == dict.fromkeys(states.split(), outcome)


@given(sqlstates)
def test_a_value_that_cannot_be_stored_costs_no_connection(sqlstate: str):
    assert not (breaks_connection(sqlstate) and outcome_of(sqlstate) is SqlOutcome.UNSTORABLE)


@pytest.mark.parametrize("sqlstate", ["25006", "25P01", "25P02", "26000", "57P01", "57P02", "57P03", "08006", "08P01"])
def test_a_connection_that_leads_to_the_wrong_server_or_state_is_not_used_again(sqlstate: str):
    assert breaks_connection(sqlstate)
