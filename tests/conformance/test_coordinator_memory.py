"""The in-memory coordinator does what every coordinator does."""

from __future__ import annotations

import pytest

from goverse.aio.runtime import Runtime
from goverse.coordination import Coordinator
from goverse.coordination.memory import MemoryStore
from goverse.testing.conformance.coordinator import (
    CoordinatorBackend,
    CoordinatorConformance,
    Cut,
)
from tests.support.cuttable import CuttableChannel


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
