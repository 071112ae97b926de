"""The simulator's only source of random numbers. They are repeatable.

Each purpose has its own stream: an additional list call does not change which create fails, and a test that asks for
the third create's answer to be lost gets exactly that.
"""

import math
import random
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Seconds of simulated time, drawn uniformly from low to high. In JSON: a number or a pair of numbers."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < math.inf:
            raise ValueError(f"a range must satisfy 0 <= low <= high < infinity, not {self.low} and {self.high}")


@dataclass(frozen=True, slots=True)
class Trigger:
    """When a fault occurs: with a probability, on the nth occasions (counted from 1), or both.

    It occurs only from `since` (included) to `until` (excluded), in simulated seconds. A probability of 1 with both
    makes a period. In JSON: a number is a probability, a list holds nth occasions.
    """

    probability: float = 0.0
    nth: tuple[int, ...] = ()
    since: float = 0.0
    until: float | None = None

    def __post_init__(self) -> None:
        errors = []
        if not 0 <= self.probability <= 1:
            errors.append(f"a probability must be between 0 and 1, not {self.probability}")
        if any(occasion < 1 for occasion in self.nth):
            errors.append(f"occasions are counted from 1, not {min(self.nth)}")
        if self.until is not None and not self.since <= self.until:
            errors.append(f"until ({self.until}) must not be before since ({self.since})")
        if errors:
            raise ValueError("; ".join(errors))

    def within(self, now: float) -> bool:
        return self.since <= now and (self.until is None or now < self.until)


NEVER = Trigger()


class Rng:
    """The same seed and purposes give the same draws, whatever is drawn in between."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._round = 0
        self._occasions: Counter[str] = Counter()

    def restart(self) -> None:
        """Count occasions from 1 again and use new streams: for faults replaced at run time."""
        self._round += 1
        self._occasions.clear()

    def stream(self, purpose: str) -> random.Random:
        """A generator that depends only on the seed and the purpose."""
        return random.Random(f"{self._seed}/{purpose}")  # noqa: S311 - repeatable, not secret

    def fires(self, purpose: str, trigger: Trigger, now: float) -> bool:
        """Whether the fault occurs now. Every call counts as an occasion, even outside the trigger's period."""
        self._occasions[purpose] += 1
        if trigger is NEVER or not trigger.within(now):
            return False
        occasion = self._occasions[purpose]
        if occasion in trigger.nth or trigger.probability >= 1:
            return True
        return trigger.probability > 0 and self._generator(purpose, occasion).random() < trigger.probability

    def seconds(self, purpose: str, span: Range) -> float:
        if span.low == span.high:
            return span.low
        self._occasions[purpose] += 1
        return self._generator(purpose, self._occasions[purpose]).uniform(span.low, span.high)

    def _generator(self, purpose: str, occasion: int) -> random.Random:
        return self.stream(f"{self._round}/{purpose}/{occasion}")
