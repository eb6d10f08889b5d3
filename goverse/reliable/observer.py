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

    def late(self, type_name: str, seconds: float) -> None:
        """The turn of a delayed call has begun so much after its time."""
        ...

    def ticks_left_out(self, type_name: str, ticks: int) -> None:
        """Ticks of a repeated call were missed, and will not be run."""
        ...
