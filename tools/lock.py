"""Write requirements/*.txt: every dependency, pinned with its hashes and without naming a registry.

    .venv/bin/python tools/lock.py [--keep] [FILE...]     `--keep` keeps the versions that are pinned already

Writes only the named files, or all of them.
"""

import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = "uv==0.13.9"

EXTRAS = ("embedded", "parquet", "apprise", "plots", "otel", "nats")
_ALL = ["pyproject.toml", *(word for extra in EXTRAS for word in ("--extra", extra))]
LOCKS = {
    "runtime.txt": ["pyproject.toml", "--extra", "embedded"],
    "extras.txt": [*_ALL, "--constraints", "requirements/runtime.txt"],
    "build.txt": ["--group", "build", "--constraints", "requirements/runtime.txt"],
    # These are installed into the same environment as the ones before them, so all must agree on versions.
    "dev.txt": [
        *(*_ALL, "--group", "dev", "--constraints", "requirements/extras.txt"),
        *("--group", "build", "--constraints", "requirements/runtime.txt", "--constraints", "requirements/build.txt"),
    ],
    "bench.txt": ["--group", "bench", "--constraints", "requirements/dev.txt"],
}


def main(arguments: Sequence[str]) -> None:
    upgrade = [] if "--keep" in arguments else ["--upgrade"]
    names = [name for name in arguments if name != "--keep"]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, UV], check=True)
        for name, what in LOCKS.items():
            if names and name not in names:
                continue
            subprocess.run(
                [
                    f"{folder}/bin/uv",
                    "pip",
                    "compile",
                    *what,
                    *("--universal", "--python-version", "3.11", "--generate-hashes"),
                    *("--no-header", "--no-annotate", "--no-emit-index-url", "--quiet"),
                    *upgrade,
                    *("--output-file", f"requirements/{name}"),
                ],
                check=True,
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
            )
            print(f"requirements/{name}")


if __name__ == "__main__":
    main(sys.argv[1:])
