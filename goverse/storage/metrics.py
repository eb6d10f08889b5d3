"""What stores tell, as metrics."""

from __future__ import annotations

from goverse.observability.metrics import Metrics


class StoreMetrics:
    """A `goverse.storage.measured.StoreObserver`."""

    def __init__(self, metrics: Metrics) -> None:
        self._seconds = metrics.store_seconds
        self._items = metrics.store_batch_items
        self._fenced = metrics.fence_rejections

    def ended(self, operation: str, status: str, seconds: float) -> None:
        self._seconds.observe(seconds, operation, status)

    def batch(self, operation: str, items: int) -> None:
        self._items.observe(items, operation)

    def fenced(self, operation: str, items: int) -> None:
        self._fenced.inc(operation, by=items)
