"""The privileges of the role that `rollcall serve` uses, if it is not the one that owns the tables."""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import ConfigError, FieldError
from service.storage.tables import APPEND_ONLY, metadata

_CREATE: Final = ("rollcall_create_partition(date)",)
#: Old months are dropped only if `ROLLCALL_EVENTS_KEEP_MONTHS` is set.
_RETIRE: Final = (
    "rollcall_lock_partition(date, boolean)", "rollcall_detach_partition(date)", "rollcall_drop_partition(date)",
)  # fmt: skip
_EDITED: Final = tuple(sorted(metadata.tables.keys() - set(APPEND_ONLY)))
_LACKS: Final = text("""
SELECT privilege || ' on ' || relation FROM unnest(CAST(:relations AS text[]), CAST(:privileges AS text[])) AS needed(relation, privilege)
WHERE NOT has_table_privilege(relation, privilege)
UNION ALL
SELECT 'EXECUTE on ' || function FROM unnest(CAST(:functions AS text[])) AS function
WHERE NOT has_function_privilege(function, 'EXECUTE')
ORDER BY 1
""")


def script(role: str = "rollcall") -> str:
    """SQL that the owner of the tables runs after each migration. Running it again changes nothing."""
    appended, edited = ", ".join(sorted(APPEND_ONLY)), ", ".join(_EDITED)
    return f"""\
-- The privileges of the role that `rollcall serve` uses. Run this as the owner of the tables, in Rollcall's database, after
-- each `rollcall migrate`. Running it again changes nothing. Once, before: CREATE ROLE {role} LOGIN PASSWORD '...';
GRANT USAGE ON SCHEMA public TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};
-- Rows of these are never edited or removed.
GRANT INSERT ON {appended} TO {role};
GRANT INSERT, UPDATE, DELETE ON {edited} TO {role};
-- Months of events to come. The function runs as you, so that the role needs no DDL.
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {role};
{_granted(_CREATE, role)}
-- Only if ROLLCALL_EVENTS_KEEP_MONTHS is set: with these the role can drop old months of events.
-- {_granted(_RETIRE, role)}
"""


def _granted(functions: tuple[str, ...], role: str) -> str:
    return f"GRANT EXECUTE ON FUNCTION {', '.join(functions)} TO {role};"


async def lacking(conn: AsyncConnection, *, retires: bool) -> list[str]:
    """The privileges that our role needs and does not have. `retires`: it drops old months."""
    needed = list(_needed())
    values = {
        "relations": [relation for relation, _ in needed],
        "privileges": [privilege for _, privilege in needed],
        "functions": [*_CREATE, *(_RETIRE if retires else ())],
    }
    return list((await conn.execute(_LACKS, values)).scalars())


async def require(conn: AsyncConnection, *, retires: bool) -> None:
    """Raise `ConfigError` if our role lacks a privilege."""
    if found := await lacking(conn, retires=retires):
        raise ConfigError([FieldError("ROLLCALL_DATABASE_URL", explain(found))])


def explain(found: list[str]) -> str:
    """What is wrong, for people."""
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"logs in as a role that lacks {', '.join(found[:3])}{more}; run what `rollcall migrate --roles` prints"


def _needed() -> Iterator[tuple[str, str]]:
    for relation in metadata.tables:
        yield from ((relation, privilege) for privilege in ("SELECT", "INSERT"))
    for relation in _EDITED:
        yield from ((relation, privilege) for privilege in ("UPDATE", "DELETE"))
