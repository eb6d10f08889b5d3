"""What reliable calls tell, as metrics."""

from __future__ import annotations

from goverse.observability.metrics import Metrics


class ReliableMetrics:
    """A `goverse.reliable.observer.ReliableObserver`."""

    def __init__(self, metrics: Metrics) -> None:
        self._accepted = metrics.reliable_accepted
        self._refused = metrics.accepts_refused
        self._repeated = metrics.reliable_repeated
        self._seconds = metrics.reliable_seconds
        self._parked = metrics.reliable_parked
        self._deliveries = metrics.deliveries
        self._lateness = metrics.delayed_lateness
        self._left_out = metrics.ticks_left_out

    def accepted(self, type_name: str) -> None:
        self._accepted.inc(type_name)

    def refused(self, type_name: str, reason: str) -> None:
        self._refused.inc(type_name, reason)

    def repeated(self, type_name: str) -> None:
        self._repeated.inc(type_name)

    def finished(self, type_name: str, status: str, seconds: float) -> None:
        self._seconds.observe(seconds, type_name, status)

    def parked(self, type_name: str) -> None:
        self._parked.inc(type_name)

    def late(self, type_name: str, seconds: float) -> None:
        self._lateness.observe(seconds, type_name)

    def ticks_left_out(self, type_name: str, ticks: int) -> None:
        self._left_out.inc(type_name, by=ticks)

    def delivered(self) -> None:
        self._deliveries.inc("delivered")

    def delivery_parked(self) -> None:
        self._deliveries.inc("parked")
