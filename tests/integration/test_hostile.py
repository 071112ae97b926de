"""A flood of nonsense beside good callbacks: nothing falls over, nothing is held for good, the good ones are heard."""

import asyncio
from contextlib import suppress

import hostile
import pytest
from receiving import listening
from structlog.testing import capture_logs

SENDERS = 8
EACH = 120


async def send_all(heard, seed):
    for parts in hostile.requests(seed, heard.path(), EACH):
        async with heard.connected() as (reader, writer):
            with suppress(ConnectionError):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                writer.write_eof()
                await reader.read()


@pytest.mark.parametrize("seed", [1, 2])
async def test_good_callbacks_are_heard_in_a_flood_of_hostile_ones(runtime, seed):
    runtime.settings = runtime.settings.model_copy(update={"callback_max_connections": 4 * SENDERS})
    with capture_logs() as lines:
        async with listening(runtime) as heard:
            flood = [asyncio.create_task(send_all(heard, f"{seed} {number}")) for number in range(SENDERS)]
            good = [f"good {number}".encode() for number in range(50)]
            assert {await heard.post(body) for body in good} == {200}
            await asyncio.gather(*flood)
            recorded = await heard.bodies()
            assert [body for body in recorded if body.startswith(b"good")] == good
            front = heard.receiver._callbacks
        assert front._bounds.held == 0
        assert front._bounds.connections == 0
        assert front._connection_states == {}
    assert [line for line in lines if line["log_level"] == "error"] == []
