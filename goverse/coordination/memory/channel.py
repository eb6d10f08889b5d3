"""How a client reaches the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Channel(Protocol):
    """Carries requests to the store. A simulation's one adds delay, loss and cuts.

    It may raise `CoordinatorUnavailable`, or never answer (the client has deadlines), whether or
    not the request was carried out; it carries out each request at most once.
    """

    async def request(self, operation: Callable[[], T]) -> T:
        """Call ``operation`` at the store and bring back what it returns or raises."""
        ...


class DirectChannel:
    """The store is here."""

    async def request(self, operation: Callable[[], T]) -> T:
        return operation()
