"""The stock as this process last read it. Reading it is for the operations."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass
class StockCache:
    """GPUs by region and model, and when they were read. `lock` is held by whoever reads them."""

    levels: Mapping[Any, int] = field(default_factory=dict)
    read_at: datetime | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
