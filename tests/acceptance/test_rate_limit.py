"""The provider's rate limit, with more work than it lets through in a minute, and two daemons that share it."""

from pathlib import Path

from processes import staged, until

_LIMIT = 40
_CREATIONS = 44


def test_two_daemons_never_exceed_the_limit_and_use_what_there_is_of_it(tmp_path: Path, bare_database_url: str) -> None:
    # The window is a real minute for both sides; only the number of calls in it is smaller than the provider's.
    # Callbacks tell everything and no address is wanted: nothing has to be read, and creates have the limit to themselves.
    cloud = {
        "rate_limit": _LIMIT,
        "callback_variety": 0,
        "timing": {"creating": [2, 5], "build": [20, 100], "address": [2, 8]},
    }
    share = {"CALLS_PER_MINUTE": str(_LIMIT - 1), "OVERDUE_SECONDS": "600", "RESYNC_SECONDS": "600"}
    with staged(tmp_path, bare_database_url, cloud=cloud, daemons=2, **share) as stage:
        submission = stage.daemon.submit(20 * _CREATIONS, assign_floating_ip=False)
        until(lambda: len(stage.simulator.creates()) == _CREATIONS, "every creation was sent", within=150)
        stage.daemon.until_state(submission, "ready", within=150)
        stage.until_true()
        stage.made_once(20 * _CREATIONS)
        stats = stage.simulator.query("stats")
        assert stats["calls_limited"] == 0
        assert 0.9 * _LIMIT <= stats["busiest_window"] <= _LIMIT
