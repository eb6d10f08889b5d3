"""What reliable calls tell whoever counts them."""

from __future__ import annotations

from typing import Protocol

from goverse.reliable.outbox import OutboxObserver


class ReliableObserver(OutboxObserver, Protocol):
    """Told what reliable calls do; counts it."""

    def accepted(self, type_name: str) -> None: ...

    def refused(self, type_name: str, reason: str) -> None:
        """A call was not recorded; ``reason`` is the code that its caller is told."""
        ...

    def repeated(self, type_name: str) -> None:
        """A call id was known already, for the same call."""
        ...

    def finished(self, type_name: str, status: str, seconds: float) -> None:
        """``seconds`` since its accept was known here."""
        ...

    def parked(self, type_name: str) -> None: ...
