"""What objects tell, as metrics."""

from __future__ import annotations

from goverse.observability.metrics import Metrics


class TurnMetrics:
    """An `ObjectObserver`."""

    def __init__(self, metrics: Metrics) -> None:
        self._seconds = metrics.turn_seconds

    def activated(self, type_name: str) -> None:
        """Activations are counted where they live, when somebody asks."""

    def deactivated(self, type_name: str) -> None:
        """As `activated`."""

    def turn_ended(self, type_name: str, method: str, status: str, seconds: float) -> None:
        self._seconds.observe(seconds, type_name, method, status)


class CommitMetrics:
    """A `goverse.objects.durability.commits.CommitObserver`."""

    def __init__(self, metrics: Metrics) -> None:
        self._objects = metrics.commit_objects
        self._refused = metrics.commits_refused

    def committed(self, objects: int) -> None:
        self._objects.inc(by=objects)

    def refused(self, reason: str) -> None:
        self._refused.inc(reason)


class LatchMetrics:
    """A `goverse.objects.latch.LatchObserver`."""

    def __init__(self, metrics: Metrics) -> None:
        self._acquisitions = metrics.latch_acquisitions
        self._seconds = metrics.latch_wait_seconds
        self._removed = metrics.latch_removed

    def acquired(self, purpose: str, outcome: str, seconds: float) -> None:
        self._acquisitions.inc(purpose, outcome)
        self._seconds.observe(seconds, purpose)

    def removed(self, how: str) -> None:
        self._removed.inc(how)


class MoveMetrics:
    """A `goverse.objects.luggage.Observer`."""

    def __init__(self, metrics: Metrics) -> None:
        self._moved = metrics.moved_objects

    def moved(self, outcome: str, objects: int) -> None:
        self._moved.inc(outcome, by=objects)
