"""The table `health_issues`: what daemons report, so that it is told once and once more when it is over."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


async def save(conn: AsyncConnection, issues: Mapping[str, str], *, now: datetime, gone_before: datetime) -> None:
    """Save the issues of a daemon by name. Those that no daemon has reported since `gone_before` are over."""
    if issues:
        names = sorted(issues)
        await conn.execute(
            text("""
            INSERT INTO health_issues (name, text, since, reported_at)
            SELECT name, text, :now, :now FROM unnest(CAST(:names AS text[]), CAST(:texts AS text[])) AS new (name, text)
            ON CONFLICT (name) DO UPDATE SET text = excluded.text, reported_at = excluded.reported_at
            """),
            {"now": now, "names": names, "texts": [issues[name] for name in names]},
        )
    await conn.execute(text("DELETE FROM health_issues WHERE reported_at < :before"), {"before": gone_before})
