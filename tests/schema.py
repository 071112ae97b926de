"""What a database holds, as Postgres itself describes it, so that two can be compared to the last constraint."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.storage.engine import begin

# Alembic's own comparison does not look at CHECK constraints or triggers; these do.
_COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"""
_CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace"""
_INDEXES = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
_PARTITIONED = "SELECT partrelid::regclass::text, pg_get_partkeydef(partrelid) FROM pg_partitioned_table"
_TRIGGERS = "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"
_FUNCTIONS = "SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
_SETTINGS = """
    SELECT relname, unnest(reloptions) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"""

#: What tables.py can say of a database, and what only migrations make.
OF_TABLES = {"columns": _COLUMNS, "constraints": _CONSTRAINTS, "indexes": _INDEXES, "partitioned": _PARTITIONED}
OF_MIGRATIONS = {"triggers": _TRIGGERS, "functions": _FUNCTIONS, "settings": _SETTINGS}

Schema = dict[str, set[tuple[object, ...]]]


async def described(engine: AsyncEngine, *, partitions: bool = True) -> Schema:
    """Everything in the database but alembic's own table, and on request without the partitions of events."""

    def wanted(row: tuple[object, ...]) -> bool:
        name = str(row[0])
        return name != "alembic_version" and (partitions or not name.startswith("events_p"))

    found: Schema = {}
    async with begin(engine) as conn:
        for what, query in {**OF_TABLES, **OF_MIGRATIONS}.items():
            found[what] = {tuple(row) for row in await conn.execute(text(query)) if wanted(tuple(row))}
    return found
