"""Brings checkpoints to where the database's administrator cannot rewrite them, and reads back what was published.

Three places: a copy in the data directory, always; a directory and a command, if the settings name them.
"""

import asyncio
import shlex
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from service.audit.note import Note
from service.config import Settings
from service.errors import ProofInvalid
from service.files import write_whole

_LATEST: Final = "latest.checkpoint"
_COMMAND_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint that was found where it was published, and when it was written there."""

    path: Path
    note: str
    written_at: datetime

    @property
    def parsed(self) -> Note:
        return Note.parse(self.note)


async def publish(settings: Settings, note: str, *, day: str) -> None:
    """Publish a checkpoint everywhere; doing it again does no harm. Raises OSError."""
    await asyncio.to_thread(_write_all, settings, note, day)
    if settings.seal_publish_command:
        await _run(settings.seal_publish_command, note)


def latest(settings: Settings) -> list[Published]:
    """The last checkpoint at each place that can be read back. What is no checkpoint is passed over."""
    found = []
    for folder in _folders(settings):
        with suppress(FileNotFoundError, ProofInvalid):
            one = _read(folder / _LATEST)
            one.parsed  # noqa: B018  raises if it is none
            found.append(one)
    return found


def everything(folder: Path) -> list[Published]:
    """Every checkpoint in a directory that was published to."""
    return [_read(path) for path in sorted(folder.rglob("*.checkpoint"))]


def _read(path: Path) -> Published:
    return Published(path, path.read_text(errors="replace"), datetime.fromtimestamp(path.stat().st_mtime, UTC))


def _folders(settings: Settings) -> list[Path]:
    ours = settings.data_dir / "checkpoints"
    return [ours, settings.seal_publish_dir] if settings.seal_publish_dir else [ours]


def _write_all(settings: Settings, note: str, day: str) -> None:
    """The copy in the data directory is only the last one; the directory keeps each, by log and day."""
    checkpoint = Note.parse(note).checkpoint
    if settings.seal_publish_dir is not None:
        name = checkpoint.origin.rpartition("/")[2]
        _write(settings.seal_publish_dir / name / day / f"{checkpoint.size:012d}.checkpoint", note)
    for folder in _folders(settings):
        _write(folder / _LATEST, note)


def _write(path: Path, note: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, note.encode())


async def _run(command: str, note: str) -> None:
    """Run the command with the checkpoint at its standard input. Raises OSError if it fails or takes too long."""
    process = await asyncio.create_subprocess_exec(
        *shlex.split(command), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_COMMAND_SECONDS):
            _, errors = await process.communicate(note.encode())
    except TimeoutError:
        raise OSError(f"{command}: no end after {_COMMAND_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = errors.decode(errors="replace").strip()[-200:]
        raise OSError(f"{command}: exit code {process.returncode}{said and f': {said}'}")
