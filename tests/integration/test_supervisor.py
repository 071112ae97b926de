"""What becomes of a receiver process that hangs, or says what none says: it is told apart from one that ended."""

import asyncio
from types import SimpleNamespace

import pytest

from service.app import supervisor
from service.app.receiver_process import ReceiverConfig
from service.app.supervisor import ReceiverSupervisor

ORDERS = ReceiverConfig(number=1, database_url="", host="", port=0)


class Gone:
    """The end of a pipe that nobody reads any more."""

    def write(self, data):
        raise ConnectionResetError


async def listened(runtime, said, *, ends=True):
    out = asyncio.StreamReader(limit=1000)
    out.feed_data(said)
    if ends:
        out.feed_eof()
    watching = ReceiverSupervisor(runtime, "", 1)
    return await watching._listen_to(SimpleNamespace(stdin=Gone(), stdout=out), ORDERS)


@pytest.mark.parametrize("line", [b"5", b"null", b'{"samples": []}', b'{"samples": 1, "issues": {}}', b"x" * 5000])
async def test_one_that_says_what_none_says_is_to_be_killed(runtime, line):
    assert await listened(runtime, line + b"\n") == "said what no receiver says"


async def test_what_a_library_prints_and_an_end_are_no_reason(runtime):
    assert await listened(runtime, b"a library\n" + b'{"listening": true}\n') == ""


async def test_one_that_hangs_is_to_be_killed(runtime, monkeypatch):
    monkeypatch.setattr(supervisor, "_SILENT", 0.01)
    assert (await listened(runtime, b"", ends=False)).startswith("said nothing for")
    assert "receiver 1" in runtime.health.issues
