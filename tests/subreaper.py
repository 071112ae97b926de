"""A process that is what Rollcall is in a container: whoever loses its parent becomes its child. It crashes a Postgres.

    subreaper.py FOLDER

It starts an embedded Postgres, kills it, waits until it counts as gone, starts it again, and stops it.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

from processes import until

from service.storage.embedded import EmbeddedPostgres

_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    assert ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    folder = Path(sys.argv[1])
    server = EmbeddedPostgres(folder)
    server.start()
    try:
        crashed = int((folder / "postmaster.pid").read_text().split()[0])
        os.kill(crashed, signal.SIGKILL)
        until(lambda: not server.is_running(), "the crashed server is gone", within=20)
        server.start()
        assert server.is_running()
        assert int((folder / "postmaster.pid").read_text().split()[0]) != crashed
    finally:
        server.stop("immediate")


if __name__ == "__main__":
    main()
