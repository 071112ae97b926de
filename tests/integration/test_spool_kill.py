"""A process that is killed while it spools: what it had said was kept is recorded by the next one, once, in order."""

import asyncio
import sys
from pathlib import Path

import pytest
import spooling
from receiving import listening


async def killed_after(root, groups):
    """How many events the process had acknowledged when it was killed, after at least so many groups."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        spooling.__file__,
        str(root),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(Path(spooling.__file__).parent.parent)},
    )
    for _ in range(groups):
        await process.stdout.readline()
    process.kill()
    said, _ = await process.communicate()
    await process.wait()
    return max(map(int, said.split()), default=groups * spooling.GROUP)


@pytest.mark.parametrize("groups", [1, 2, 13, 40, 200])
async def test_everything_acknowledged_before_the_kill_is_recorded_once_and_in_order(runtime, groups):
    acknowledged = await killed_after(runtime.settings.data_dir / "spool", groups)
    async with listening(runtime) as heard:
        await heard.receiver._spool.empty.wait()
        numbers = [int(body.lstrip(b"x")) for body in await heard.bodies()]
    assert numbers == list(range(len(numbers)))
    assert acknowledged <= len(numbers) <= acknowledged + spooling.GROUP


async def test_the_work_of_several_killed_processes_is_recorded(runtime):
    root = runtime.settings.data_dir / "spool"
    await asyncio.gather(*(killed_after(root, 5) for _ in range(3)))
    async with listening(runtime) as heard:
        await heard.receiver._spool.empty.wait()
        assert len(await heard.bodies()) >= 5 * spooling.GROUP
    assert list(root.glob("process-*")) == []


async def test_what_a_process_leaves_that_is_killed_while_we_live_is_recorded(runtime):
    async with listening(runtime) as heard:
        acknowledged = await killed_after(runtime.settings.data_dir / "spool", 5)
        await heard.receiver._spool.look()
        await heard.receiver._spool.empty.wait()
        assert acknowledged <= len(await heard.bodies())
