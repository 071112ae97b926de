import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import subreaper


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_a_crashed_server_whose_parent_we_have_become_counts_as_gone_and_is_started_again() -> None:
    # As process 1 of a container: without being asked for, the dead server would stay in the table of processes.
    folder = Path(tempfile.mkdtemp(prefix="rollcall-"))
    folder.chmod(0o755)
    here = Path(subreaper.__file__).parent
    try:
        done = subprocess.run(
            [sys.executable, subreaper.__file__, str(folder / "pg")],
            env={"PYTHONPATH": f"{here}:{here.parent}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    finally:
        shutil.rmtree(folder, ignore_errors=True)
