"""The in-memory store does what every store does."""

from __future__ import annotations

import pytest

from goverse.aio.runtime import Runtime
from goverse.storage.api import Store
from goverse.storage.measured import MeasuredStore
from goverse.storage.memory import MemoryStore
from goverse.testing.conformance.store import StoreBackend, StoreConformance, WriteGate
from tests.support.store_gate import GatedChannel


class MemoryBackend(StoreBackend):
    def __init__(self) -> None:
        self._store = MemoryStore(Runtime())

    async def connect(self) -> Store:
        return self._store.connect()

    async def connect_new(self) -> Store:
        return MemoryStore(Runtime()).connect()

    async def connect_gated(self) -> tuple[Store, WriteGate]:
        channel = GatedChannel()
        return self._store.connect(channel, operation_timeout_s=0.2), channel


class TestMemory(StoreConformance):
    @pytest.fixture
    async def backend(self) -> StoreBackend:
        return MemoryBackend()


class Unheard:
    """A `StoreObserver` that counts nothing."""

    def ended(self, operation: str, status: str, seconds: float) -> None:
        pass

    def batch(self, operation: str, items: int) -> None:
        pass

    def fenced(self, operation: str, items: int) -> None:
        pass


class MeasuredBackend(MemoryBackend):
    """As a node uses a store."""

    async def connect(self) -> Store:
        return MeasuredStore(await super().connect(), Unheard())

    async def connect_new(self) -> Store:
        return MeasuredStore(await super().connect_new(), Unheard())

    async def connect_gated(self) -> tuple[Store, WriteGate]:
        store, gate = await super().connect_gated()
        return MeasuredStore(store, Unheard()), gate


class TestMeasured(StoreConformance):
    @pytest.fixture
    async def backend(self) -> StoreBackend:
        return MeasuredBackend()
