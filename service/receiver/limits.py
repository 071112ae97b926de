"""What one connection of the callback listener may do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Bytes of a body, and seconds for headers, for a body, and between requests."""

    most_body: int
    head_seconds: float
    body_seconds: float
    idle_seconds: float
