"""What is shown of the log: its last checkpoint, and whether that is signed and is of what is stored."""

from pathlib import Path

import pytest
from operator_api import serving
from sealing import SealedStage
from sqlalchemy import text

from service.runtime.runtime import Runtime
from service.storage.engine import begin


async def edit(stage: SealedStage, statement: str) -> None:
    async with begin(stage.engine) as conn:
        await conn.execute(text(statement.replace(":", r"\:")))


async def test_the_last_checkpoint_is_shown_as_signed_until_somebody_edits_it(runtime: Runtime, tmp_path: Path) -> None:
    stage = SealedStage(runtime, tmp_path)
    async with serving(runtime) as api:
        assert (await api.request("GET", "/v1/log")).status == 404
        await stage.record(40)  # more leaves than a tile has
        await stage.seal()
        found = await api.get("/v1/log")
        assert found["checkpoint"]["found"] == "as signed"
        assert found["checkpoint"]["size"] == found["size"] > 256
        assert found["checkpoint"]["published_at"] is not None
        assert found["checkpoint"]["note"].startswith(found["origin"])
        assert (len(found["keys"]), found["issue"]) == (1, None)
        runtime.health.report("sealing stopped", "the record was restored")
        assert (await api.get("/v1/log"))["issue"] == "the record was restored"


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE log_tiles SET hashes = set_byte(hashes, 0, get_byte(hashes, 0) # 1) WHERE level = 0", "contradicted"),
        ("UPDATE log_tiles SET hashes = set_byte(hashes, 0, get_byte(hashes, 0) # 1) WHERE level = 1", "contradicted"),
        ("DELETE FROM log_tiles WHERE tile_no = 1", "contradicted"),
        ("UPDATE log_tiles SET hashes = substring(hashes FROM 1 FOR 40)", "contradicted"),
        ("UPDATE checkpoints SET note = 'rubbish'", "damaged"),
        ("UPDATE checkpoints SET note = substring(note FROM 1 FOR length(note) - 20) || repeat('A', 16) || E'==\\n'", "unsigned"),
        ("UPDATE checkpoints SET size = size - 1", "contradicted"),
    ],
)  # fmt: skip
async def test_an_edit_of_the_checkpoint_or_of_its_hashes_shows(
    runtime: Runtime, tmp_path: Path, statement: str, found: str
) -> None:
    stage = SealedStage(runtime, tmp_path)
    await stage.record(40)
    await stage.seal()
    await edit(stage, statement)
    async with serving(runtime) as api:
        shown = (await api.get("/v1/log"))["checkpoint"]["found"]
    assert shown in {found, "damaged" if found == "unsigned" else found}
