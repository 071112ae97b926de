"""Secrets in the data directory: whole and on the disk, or no start."""

import hmac
import os
import stat
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.token import CreationRef, mint, verify
from service.errors import ConfigError
from service.runtime.secrets import stored_secret

REF = CreationRef(UUID(int=1), 1)


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path):
    path = tmp_path / "deep" / "callback-secret"
    made = stored_secret(path)
    assert len(made) == 64
    assert stored_secret(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_the_file_and_then_its_folder_are_synced_before_the_secret_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), (tmp_path / "api-token").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    stored_secret(tmp_path / "api-token")
    # The file before it has its name, the folder after.
    assert synced == [(False, False), (True, True)]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"a" * 31, b" " * 64, b"\x00" * 64, b"\xff" * 64, b"a" * 40 + b"\n" + b"b" * 40]
)
def test_a_damaged_secret_refuses_to_start_and_is_not_printed(tmp_path: Path, content: bytes):
    path = tmp_path / "callback-secret"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is damaged") as caught:
        stored_secret(path)
    assert str(path) in str(caught.value)
    assert "aaa" not in str(caught.value)
    assert path.read_bytes() == content


@given(st.binary(max_size=200))
def test_no_content_of_the_file_yields_a_short_or_unprintable_secret(tmp_path_factory, content: bytes):
    path = tmp_path_factory.mktemp("secret") / "api-token"
    path.write_bytes(content)
    try:
        found = stored_secret(path)
    except ConfigError:
        return
    assert len(found) >= 32
    assert found.isprintable()


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", " "])
def test_the_line_end_of_any_system_is_no_part_of_the_secret(tmp_path: Path, newline: str):
    path = tmp_path / "api-token"
    path.write_text("x" * 40 + newline, newline="")
    assert stored_secret(path) == "x" * 40


def test_an_empty_callback_secret_signs_and_verifies_nothing():
    with pytest.raises(ValueError, match="empty secret"):
        mint(REF, b"")
    token = mint(REF, b"x" * 32)
    forged = token[:38] + hmac.new(b"", b"rollcall callback\x00" + token[:38].encode(), "sha256").hexdigest()[:32]
    assert verify(forged, [b""]) is None
    assert verify(token, [b"", b"x" * 32]) == REF
