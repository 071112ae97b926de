"""What happens to wrong tokens: each source is counted, logged once a minute, and delayed the longer the more it sends."""

from datetime import datetime
from typing import Final

from service.runtime.logs import logger
from service.runtime.runtime import Runtime

_LOG: Final = logger(room="api")


class WrongTokens:
    """Wrong tokens by source and minute. Sources are bounded: those beyond the bound are counted as one."""

    MAX_SOURCES: Final = 1000
    _OTHERS: Final = "other sources"

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int, int]] = {}

    async def slow_down(self, rt: Runtime, source: str) -> None:
        """Count a wrong token, log the first of a source and minute, and wait the longer the more there were."""
        rt.metrics.wrong_tokens.inc()
        count, before = self.add(source, rt.clock.now())
        if count == 1:
            _LOG.warning("wrong API token", action="authorize", source=source, in_the_minute_before=before)
        if delay := delay_after(count):
            await rt.clock.sleep(delay)

    def add(self, source: str, now: datetime) -> tuple[int, int]:
        """Count one: how many the source sent in this minute, and how many in the minute of its last one before."""
        minute = int(now.timestamp()) // 60
        if source not in self._counts and len(self._counts) >= self.MAX_SOURCES:
            self._counts = {one: known for one, known in self._counts.items() if known[0] == minute}
            if len(self._counts) >= self.MAX_SOURCES:
                source = self._OTHERS
        last, count, before = self._counts.get(source, (minute, 0, 0))
        count, before = (count + 1, before) if last == minute else (1, count)
        self._counts[source] = (minute, count, before)
        return count, before


def delay_after(count: int) -> float:
    """Seconds to wait before the answer to a source's wrong token number `count` of this minute. The first is free."""
    return 0.0 if count <= 1 else min(0.01 * 2.0 ** min(count - 2, 10), 2.0)
