"""Chance that can be repeated: the only randomness of the simulator, and nothing else.

Every purpose has a stream of its own, so that one more reading does not change which create goes wrong, and a test
that asks for the third create's answer to be lost gets exactly that.
"""

import random
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Seconds of simulated time, drawn evenly between the two. In JSON a number or a pair of numbers."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"a range goes upwards from 0, not from {self.low} to {self.high}")


@dataclass(frozen=True, slots=True)
class Chance:
    """When something goes wrong: with a probability, at the n-th occasion (from 1), or both.

    `since` and `until` (simulated seconds, the second not included) are the time during which it can. So a
    probability of 1 with both is a period. In JSON a number is a probability and a list holds the n-th occasions.
    """

    probability: float = 0.0
    nth: tuple[int, ...] = ()
    since: float = 0.0
    until: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"a probability is between 0 and 1, not {self.probability}")

    def within(self, now: float) -> bool:
        return self.since <= now and (self.until is None or now < self.until)


NEVER = Chance()


class Dice:
    """The same seed and the same questions give the same answers, whatever else was asked in between."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._round = 0
        self._asked: Counter[str] = Counter()

    def restart(self) -> None:
        """Count the occasions from 1 again, with fresh luck: for faults that were replaced at run time."""
        self._round += 1
        self._asked.clear()

    def stream(self, purpose: str) -> random.Random:
        """A generator that depends on the seed and the purpose alone."""
        return random.Random(f"{self._seed}/{purpose}")  # noqa: S311 - luck that can be repeated, not a secret

    def hit(self, purpose: str, chance: Chance, now: float) -> bool:
        """Whether it happens this time. Every question counts as an occasion, also outside the chance's time."""
        self._asked[purpose] += 1
        if chance is NEVER or not chance.within(now):
            return False
        occasion = self._asked[purpose]
        if occasion in chance.nth or chance.probability >= 1:
            return True
        return chance.probability > 0 and self._luck(purpose, occasion).random() < chance.probability

    def seconds(self, purpose: str, span: Range) -> float:
        if span.low == span.high:
            return span.low
        self._asked[purpose] += 1
        return self._luck(purpose, self._asked[purpose]).uniform(span.low, span.high)

    def _luck(self, purpose: str, occasion: int) -> random.Random:
        return self.stream(f"{self._round}/{purpose}/{occasion}")
