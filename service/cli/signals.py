"""SIGTERM and SIGHUP end a command as Ctrl-C does, so that everything it started is taken down."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from service.cli.exits import Exit

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def clean_exit() -> Iterator[None]:
    """Turn SIGTERM, SIGHUP and Ctrl-C into an orderly exit with code 130. A second SIGTERM does not stop the clean-up."""

    def stop(_number: int, _frame: object) -> NoReturn:
        # `timeout` sends its signal twice: to the command, and to its process group.
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {one: signal.getsignal(one) for one in _SIGNALS}
    for one in _SIGNALS:
        if before[one] is not signal.SIG_IGN:  # as nohup asks
            signal.signal(one, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(Exit.STOPPED) from None
    finally:
        for one in _SIGNALS:
            signal.signal(one, before[one])
