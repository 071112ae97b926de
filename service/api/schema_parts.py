"""What the schemas of the OpenAPI document are put together from."""

from typing import Any, Final

Json = dict[str, Any]

TEXT: Final[Json] = {"type": "string"}
TIME: Final[Json] = {"type": "string", "format": "date-time"}


def object_of(properties: Json, *, optional: Json | None = None) -> Json:
    """An object that has all of `properties`, and may have those of `optional`."""
    return {"type": "object", "properties": {**properties, **(optional or {})}, "required": sorted(properties)}
