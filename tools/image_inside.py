"""Run inside the image, as its user: the checks, the database that it brings, and the daemon from start to stop.

With the standard library and the `rollcall` command alone. tools/prove_image.sh copies it in; see there.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DATA = Path(os.environ["ROLLCALL_DATA_DIR"])
PATIENCE = 60.0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, simulator(Path(folder) / "port") as port:
        os.environ |= {
            "ROLLCALL_INFRAHUB_URL": f"http://127.0.0.1:{port}/v1",
            "ROLLCALL_INFRAHUB_API_KEY": "an-api-key-for-the-simulator",
            "ROLLCALL_CALLBACK_LISTEN": f"127.0.0.1:{free_port()}",
            "ROLLCALL_API_LISTEN": f"127.0.0.1:{free_port()}",
        }
        expect("the migrations are inside: the new database is behind", ["rollcall", "migrate", "--check"], code=1)
        expect("rollcall migrate", ["rollcall", "migrate"])
        expect("rollcall migrate --check", ["rollcall", "migrate", "--check"])
        print(expect("rollcall check", ["rollcall", "check"]))
        daemon_lives_and_stops()
    wait("nothing is left running", lambda: not ours())


def daemon_lives_and_stops() -> None:
    healthy = [sys.executable, "/opt/rollcall/livez.py"]
    require("the health check fails while nothing runs", not succeeds(healthy))
    daemon = subprocess.Popen(["rollcall", "serve"])  # noqa: S607  the image's PATH is part of what is proved
    try:
        wait("the health check passes", lambda: succeeds(healthy))
        owners = {path.stat().st_uid for path in (DATA / "postgres").iterdir()}
        require(f"the embedded Postgres runs as {owners}", owners == {os.getuid()} != {0})
        require("its server is there", any("postgres" in name for name in ours().values()))
    finally:
        daemon.send_signal(signal.SIGTERM)
    require("rollcall serve stops on SIGTERM with 0", daemon.wait(PATIENCE) == 0)


@contextmanager
def simulator(port_file: Path) -> Iterator[str]:
    command = ["rollcall", "simulate", "--listen", "127.0.0.1:0", "--port-file", str(port_file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait("rollcall simulate", port_file.exists)
        yield port_file.read_text()
    finally:
        process.terminate()
        process.wait(PATIENCE)


def ours() -> dict[int, str]:
    """The living processes of this user whose name is the service's or the database's."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # pid (name) state ...: Z is a process that has ended and that its parent has not asked for yet.
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            alive = not rest.startswith(" Z")
            if alive and folder.stat().st_uid == os.getuid() and name.startswith(("postgres", "rollcall")):
                found[int(folder.name)] = name
        except OSError:  # it has ended meanwhile
            continue
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def succeeds(command: list[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def expect(what: str, command: list[str], *, code: int = 0) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    said = (done.stdout + done.stderr).strip()
    require(f"{what} (exit code {done.returncode})", done.returncode == code, said)
    return said


def wait(what: str, reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not reached():
        require(what, time.monotonic() < end, f"not within {PATIENCE:g} s", quietly=True)
        time.sleep(0.2)
    require(what, met=True)


def require(what: str, met: bool, otherwise: str = "", *, quietly: bool = False) -> None:
    if not met:
        sys.exit(f"NOT {what}\n{otherwise}")
    if not quietly:
        print(f"ok  {what}", flush=True)


if __name__ == "__main__":
    if shutil.which("rollcall") is None:
        sys.exit("this is for the inside of the image; see tools/prove_image.sh")
    main()
