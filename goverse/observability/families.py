"""Counters, histograms and gauges as plain numbers, cheap enough for every call.

A client library's child takes a lock for each observation, and finding it by label another
microsecond. Here an observation is a dict look-up and an addition. That is sound because each
family is moved from one thread, its process's event loop; a scrape from another thread reads
whole integers and copies of the containers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Labels = tuple[str, ...]

#: What one family may hold. Past it observations go to a child whose every label is `OTHER`, so
#: that names chosen by callers cannot fill the memory of the process or of the dashboard.
MAX_CHILDREN = 1_000
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram's child at one moment: counts per bucket (the last is unbounded) and the sum."""

    counts: tuple[int, ...]
    sum: float


class Counter:
    """Counts what has happened, after it has happened. Only goes up."""

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name, self.help, self.labels = name, help, labels
        self._overflow: Labels = (OTHER,) * len(labels)
        # Without labels there is a number from the start: 0 says that it has not happened.
        self._children: dict[Labels, float] = {} if labels else {(): 0}
        self._source: Callable[[], float] | None = None

    def inc(self, *labels: str, by: float = 1) -> None:
        """Add ``by`` to the child with these label values, in the order of the declaration."""
        children = self._children
        if labels in children:
            children[labels] += by
            return
        self._add(labels, by)

    def follow(self, source: Callable[[], float]) -> None:
        """Read the number where it is counted already, at each scrape and in its thread."""
        if self.labels:
            raise ValueError(f"{self.name} has labels")
        self._source = source

    def children(self) -> dict[Labels, float]:
        if self._source is not None:
            return {(): self._source()}
        return dict(self._children)

    def _add(self, labels: Labels, by: float) -> None:
        _check_labels(self.name, self.labels, labels)
        if len(self._children) >= MAX_CHILDREN:
            labels = self._overflow
        self._children[labels] = self._children.get(labels, 0) + by


class Histogram:
    """How long things took, or how many there were. ``bounds`` are upper limits of the buckets, in
    seconds unless the name says otherwise."""

    def __init__(self, name: str, help: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        self.name, self.help, self.labels, self.bounds = name, help, labels, bounds
        self._overflow: Labels = (OTHER,) * len(labels)
        # Counts per bucket, one more for what is above all bounds, then the sum.
        self._children: dict[Labels, list[float]] = {}

    def observe(self, seconds: float, *labels: str) -> None:
        """Count one observation for the child with these label values."""
        values = self._children.get(labels)  # as `values` does: of every call, one call less
        if values is None:
            values = self._add(labels)
        values[bisect_left(self.bounds, seconds)] += 1
        values[-1] += seconds

    def values(self, labels: Labels) -> list[float]:
        """Counts per bucket and the sum, of the child with these label values."""
        values = self._children.get(labels)
        return values if values is not None else self._add(labels)

    def child(self, *labels: str) -> HistogramChild:
        """The child with these label values, found once instead of for each observation."""
        _check_labels(self.name, self.labels, labels)
        return HistogramChild(self, labels)

    def children(self) -> dict[Labels, Buckets]:
        copies = [(labels, tuple(child)) for labels, child in list(self._children.items())]
        return {labels: Buckets(tuple(map(int, c[:-1])), c[-1]) for labels, c in copies}

    def _add(self, labels: Labels) -> list[float]:
        _check_labels(self.name, self.labels, labels)
        if len(self._children) >= MAX_CHILDREN:
            labels = self._overflow
        return self._children.setdefault(labels, [0] * (len(self.bounds) + 1) + [0.0])


class HistogramChild:
    """One child of a histogram. It is not exported before its first observation."""

    __slots__ = ("_bounds", "_histogram", "_labels", "_values")

    def __init__(self, histogram: Histogram, labels: Labels) -> None:
        self._histogram = histogram
        self._labels = labels
        self._bounds = histogram.bounds
        self._values: list[float] | None = None

    def observe(self, seconds: float) -> None:
        """As `Histogram.observe`."""
        values = self._values
        if values is None:
            values = self._values = self._histogram.values(self._labels)
        values[bisect_left(self._bounds, seconds)] += 1
        values[-1] += seconds


class Gauge:
    """What is the case now, asked for at the moment of the scrape.

    A gauge that is moved up and down by its owners drifts at the first path that forgets one
    half. This one has no memory: `watch` names who knows, and a gauge that nobody feeds is not
    exported at all.

    :param threadsafe: the source may be read from the scraping thread while the loop hangs.
    """

    def __init__(
        self, name: str, help: str, labels: Labels = (), *, threadsafe: bool = False
    ) -> None:
        self.name, self.help, self.labels, self.threadsafe = name, help, labels, threadsafe
        self._source: Callable[[], float | Mapping[Labels, float]] | None = None

    def watch(self, source: Callable[[], float | Mapping[Labels, float]]) -> None:
        """Take values from ``source``: a number, or numbers by label values if there are labels."""
        self._source = source

    def read(self) -> dict[Labels, float]:
        """Ask the source, in the thread that owns it."""
        if self._source is None:
            return {}
        values = self._source()
        if not isinstance(values, Mapping):
            values = {(): values}
        for labels in values:
            _check_labels(self.name, self.labels, labels)
        return dict(values)


def _check_labels(name: str, declared: Labels, given: Labels) -> None:
    if len(declared) != len(given):
        raise ValueError(f"{name} has the labels {declared}, not {given}")
