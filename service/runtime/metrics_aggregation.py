"""Metrics of several processes as one: what the others reported is added to our own. No I/O.

Counters and histograms of a process that has ended stay in the sum, so that nothing that counts ever counts down; its
gauges go with it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from prometheus_client import Metric
from prometheus_client.registry import Collector

#: A sample's name and labels, and its value.
Sample: TypeAlias = tuple[str, Mapping[str, str], float]
_Key: TypeAlias = tuple[str, frozenset[tuple[str, str]]]
#: Times at which a counter was made: no sum of them means anything.
_MADE: Final = "_created"


def samples(ours: Collector) -> list[Sample]:
    """What a process has counted so far, in a form that JSON takes."""
    return [
        (sample.name, sample.labels, sample.value)
        for family in ours.collect()
        for sample in family.samples
        if not sample.name.endswith(_MADE)
    ]


class AggregatedMetrics(Collector):
    """Our metrics and those that others report. Every metric is one of ours too, though perhaps without a sample."""

    def __init__(self, ours: Collector) -> None:
        self._ours = ours
        self._reported: dict[str, dict[_Key, float]] = {}
        self._ended: dict[_Key, float] = {}

    def report(self, source: str, counted: Iterable[Sample]) -> None:
        """What a process has counted by now, from its start on."""
        self._reported[source] = {_key(name, labels): value for name, labels, value in counted}

    def end(self, source: str) -> None:
        """A process has ended: what it reported last is added to what another under its name will."""
        for key, value in self._reported.pop(source, {}).items():
            self._ended[key] = self._ended.get(key, 0.0) + value

    def collect(self) -> Iterator[Metric]:
        for family in self._ours.collect():
            others = [*self._reported.values(), *([] if family.type == "gauge" else [self._ended])]
            yield _added(family, others)


def _added(family: Metric, others: Iterable[Mapping[_Key, float]]) -> Metric:
    """A family with the others' samples of it added to its own."""
    names = {family.name + suffix for suffix in ("", "_total", "_bucket", "_sum", "_count")}
    values = {_key(sample.name, sample.labels): sample.value for sample in family.samples}
    for other in others:
        for key, value in other.items():
            if key[0] in names:
                values[key] = values.get(key, 0.0) + value
    summed = Metric(family.name, family.documentation, family.type)
    for (name, labels), value in values.items():
        summed.add_sample(name, dict(labels), value)
    return summed


def _key(name: str, labels: Mapping[str, str]) -> _Key:
    return name, frozenset(labels.items())
