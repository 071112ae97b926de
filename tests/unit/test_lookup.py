"""When a creation may be believed not to have been made: never too soon, and not later than the evidence allows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import assume, given
from hypothesis import strategies as st

from service.core.lookup import SHORTEST_WINDOW, Conclusion, LookupEvidence, conclude

SINCE = datetime(2026, 8, 17, 9, tzinfo=UTC)
WINDOW = timedelta(minutes=5)


def evidence_of(seconds: float) -> st.SearchStrategy[LookupEvidence]:
    """Evidence from a list that was read so many seconds after the creation at most."""
    return st.builds(
        LookupEvidence,
        listed_at=st.floats(0, seconds).map(lambda waited: SINCE + timedelta(seconds=waited)),
        since=st.just(SINCE),
        lookup_until=st.just(SINCE + WINDOW),
        whole=st.booleans(),
        complete=st.booleans(),
        later_seen=st.booleans(),
        name_taken=st.booleans(),
        name_available=st.sampled_from([True, False, None]),
        wanted=st.booleans(),
    )


EVIDENCE = evidence_of(4000)
FAIR_WEATHER = LookupEvidence(
    listed_at=SINCE + SHORTEST_WINDOW,
    since=SINCE,
    lookup_until=SINCE + WINDOW,
    whole=True,
    complete=True,
    later_seen=True,
    name_available=True,
)


@given(evidence_of(SHORTEST_WINDOW.total_seconds()))
def test_nothing_is_concluded_within_a_minute(evidence):
    assume(evidence.listed_at < SINCE + SHORTEST_WINDOW)
    assert conclude(evidence, window=WINDOW) is Conclusion.WAIT


@given(evidence_of(WINDOW.total_seconds()))
def test_before_the_window_is_over_only_positive_evidence_of_every_kind_ends_a_lookup(evidence):
    assume(evidence.listed_at < evidence.lookup_until)
    positive = evidence.whole and evidence.complete and evidence.later_seen and evidence.name_available is True
    if not positive or evidence.name_taken:
        assert conclude(evidence, window=WINDOW) is Conclusion.WAIT


def test_in_fair_weather_a_lookup_ends_after_a_minute_and_in_foul_weather_after_the_window():
    assert conclude(FAIR_WEATHER, window=WINDOW) is Conclusion.ABSENT
    for foul in ({"later_seen": False}, {"name_available": None}, {"name_available": False}, {"complete": False}):
        early = replace(FAIR_WEATHER, **foul)
        assert conclude(early, window=WINDOW) is Conclusion.WAIT
        late = replace(early, listed_at=SINCE + 3 * WINDOW)
        assert conclude(late, window=WINDOW) is Conclusion.ABSENT


@given(EVIDENCE)
def test_what_was_taken_is_never_sent_again_under_its_name(evidence):
    evidence = replace(evidence, name_taken=True, wanted=True)
    found = conclude(evidence, window=WINDOW)
    assert found is not Conclusion.ABSENT
    if found is Conclusion.RENAME:
        assert evidence.name_available is True
        assert evidence.complete
        assert evidence.whole


@given(EVIDENCE)
def test_a_list_that_was_narrowed_by_a_search_proves_no_absence(evidence):
    assert conclude(replace(evidence, whole=False), window=WINDOW) is Conclusion.WAIT


@given(EVIDENCE)
def test_every_lookup_of_a_name_that_was_not_taken_ends(evidence):
    late = replace(evidence, whole=True, name_taken=False, listed_at=SINCE + 4 * WINDOW)
    assert conclude(late, window=WINDOW) is Conclusion.ABSENT
