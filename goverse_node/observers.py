"""What objects, routing and ownership tell, as metrics."""

from __future__ import annotations

from goverse.observability.metrics import Metrics


class TurnMetrics:
    """An `ObjectObserver`."""

    def __init__(self, metrics: Metrics) -> None:
        self._seconds = metrics.turn_seconds
        self._active: dict[str, int] = {}
        metrics.activations.watch(
            lambda: {(name,): float(count) for name, count in self._active.items()}
        )

    def activated(self, type_name: str) -> None:
        self._active[type_name] = self._active.get(type_name, 0) + 1

    def deactivated(self, type_name: str) -> None:
        self._active[type_name] -= 1

    def turn_started(self, type_name: str, method: str) -> None:
        pass

    def turn_ended(self, type_name: str, method: str, status: str, seconds: float) -> None:
        self._seconds.observe(seconds, type_name, method, status)


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
