"""How many connections the callback listener takes on, by what the system allows."""

import resource

import pytest
from structlog.testing import capture_logs

from service.receiver.app import _affordable


class Allowed:
    """A limit of open files, soft and hard, that is not this process's own."""

    def __init__(self, soft, hard):
        self.now = (soft, hard)

    def getrlimit(self, _):
        return self.now

    def setrlimit(self, _, limits):
        self.now = limits


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "most"),
    [(1024, 4096, 1000, 1000), (1024, 1024, 1000, 384), (1024, resource.RLIM_INFINITY, 1000, 1000), (64, 64, 9, 1)],
)
def test_the_soft_limit_is_raised_and_what_is_cut_is_said(monkeypatch, soft, hard, wanted, most):
    allowed = Allowed(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", allowed.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", allowed.setrlimit)
    with capture_logs() as lines:
        assert _affordable(wanted) == most
    assert allowed.now == (hard, hard)
    assert [line["allowed"] for line in lines] == ([most] if most < wanted else [])
