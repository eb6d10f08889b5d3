"""What routing tells, as metrics."""

from __future__ import annotations

from goverse.observability.metrics import Metrics


class RouterMetrics:
    """A `RouterObserver`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def retried(self, reason: str) -> None:
        self._metrics.retries.inc(reason)

    def waited(self, seconds: float) -> None:
        self._metrics.operation_ended("wait_for_owner", "ok", seconds)

    def gave_up(self, reason: str) -> None:
        self._metrics.operation_ended("wait_for_owner", reason, 0.0)
