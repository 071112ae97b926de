"""Runs the migrations on the connection that `service.storage.migrate` hands over."""

from alembic import context

from service.storage.tables import metadata


def include_name(name: str | None, kind: str, _parents: object) -> bool:
    """Leave the partitions out of comparisons: the daemon makes and drops them as months go by."""
    return not (kind == "table" and name is not None and name.startswith("events_p"))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=include_name,
    compare_type=True,
    compare_server_default=True,
)
context.run_migrations()
