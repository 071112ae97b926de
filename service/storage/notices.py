"""The tables `notices` and `notify_wanted`: what is to be told, as triggers wrote it with the changes themselves."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.notices import Notice
from service.storage.rows import from_rows

_TAKE: Final = text("""
WITH first AS (
    SELECT submission_id, notice_no FROM notices ORDER BY notice_no LIMIT :limit FOR UPDATE SKIP LOCKED
), taken AS (
    DELETE FROM notices USING first
    WHERE notices.submission_id = first.submission_id AND notices.notice_no = first.notice_no
    RETURNING notices.*
)
SELECT taken.*, vms.name, vms.provider_id, vms.state, coalesce(vms.floating_ip, vms.fixed_ip) AS address
FROM taken LEFT JOIN vms ON vms.submission_id = taken.submission_id AND vms.vm_no = taken.vm_no
ORDER BY notice_no
""")


async def take(conn: AsyncConnection, *, limit: int) -> list[Notice]:
    """Take the oldest notices out of the table. They are back if this transaction fails."""
    return await from_rows(Notice, await conn.execute(_TAKE, {"limit": limit}))


async def set_wanted(conn: AsyncConnection, kinds: Sequence[str]) -> None:
    """From now on notices are written of these kinds, and of submissions with a URL of their own."""
    await conn.execute(text("DELETE FROM notify_wanted WHERE kind <> ALL (CAST(:kinds AS text[]))"), {"kinds": kinds})
    await conn.execute(
        text(
            "INSERT INTO notify_wanted SELECT unnest(CAST(:kinds AS text[])) AS kind ORDER BY kind ON CONFLICT DO NOTHING"
        ),
        {"kinds": kinds},
    )


async def any_left(conn: AsyncConnection) -> bool:
    """Whether there are notices."""
    return bool((await conn.execute(text("SELECT EXISTS (SELECT FROM notices)"))).scalar_one())
