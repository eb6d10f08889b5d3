"""How a client reaches the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Channel(Protocol):
    """Carries transactions to the tables. A simulation's one adds delay, loss and cuts.

    It may raise `StorageUnavailable` for a transaction that is not carried out, or never answer
    (the client has deadlines), whether or not it was; it carries out each at most once.
    """

    async def request(self, operation: Callable[[], T]) -> T:
        """Call ``operation`` at the tables and bring back what it returns or raises."""
        ...


class DirectChannel:
    """The tables are here."""

    async def request(self, operation: Callable[[], T]) -> T:
        return operation()
