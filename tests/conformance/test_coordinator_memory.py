"""The in-memory coordinator does what every coordinator does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import pytest

from goverse.aio.runtime import Runtime
from goverse.coordination import Coordinator
from goverse.coordination.memory import MemoryStore
from goverse.testing.conformance.coordinator import (
    CoordinatorBackend,
    CoordinatorConformance,
    Cut,
)

T = TypeVar("T")


class CuttableChannel:
    """Loses requests, or their answers, while it is cut."""

    def __init__(self) -> None:
        self._whole = asyncio.Event()
        self._whole.set()

    async def request(self, operation: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        if not self._whole.is_set():
            await asyncio.Event().wait()
        answer = operation()
        await asyncio.sleep(0)
        if not self._whole.is_set():
            await asyncio.Event().wait()
        return answer

    def cut(self) -> None:
        self._whole.clear()

    def heal(self) -> None:
        self._whole.set()


class MemoryBackend(CoordinatorBackend):
    def __init__(self) -> None:
        self._runtime = Runtime()
        self._store = MemoryStore(self._runtime)

    async def connect(self) -> Coordinator:
        return self._store.connect(self._runtime)

    async def connect_cuttable(self, operation_timeout_s: float) -> tuple[Coordinator, Cut]:
        channel = CuttableChannel()
        client = self._store.connect(
            self._runtime, channel, operation_timeout_s=operation_timeout_s
        )
        return client, channel

    async def compact(self, revision: int) -> None:
        self._store.compact(revision)

    async def lose_history(self) -> None:
        self._store.lose_history(self._store.revision - 10)

    async def end_lease(self, lease: int) -> None:
        assert self._store.revoke(lease)


class TestMemory(CoordinatorConformance):
    @pytest.fixture
    async def backend(self) -> CoordinatorBackend:
        return MemoryBackend()
