"""Commands, run in this process."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from service.cli.main import main


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Ended]]


def running(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs commands in a thread, so that a server of the test's own can answer them."""

    def ended(arguments: tuple[str, ...]) -> Ended:
        with pytest.raises(SystemExit) as raised:
            main(arguments)
        printed = capsys.readouterr()
        return Ended(int(raised.value.code or 0), printed.out, printed.err)

    async def run(*arguments: str) -> Ended:
        return await asyncio.to_thread(ended, arguments)

    return run
