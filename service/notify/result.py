"""What came of one attempt to deliver a message."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryResult:
    """The result: delivered if there is no error. An error says what went wrong, and holds no secret.

    `away`: the target as a whole does not work, so the others wait too. `final`: there is no point in another attempt.
    """

    error: str | None = None
    status: int | None = None
    away: bool = False
    final: bool = False
    retry_after: timedelta | None = None


DELIVERED = DeliveryResult()
