"""What a Store must do.

::

    class TestMine(StoreConformance):
        @pytest.fixture
        async def backend(self):
            yield MyBackend()

The tests of what needs a fault to be seen are skipped where the backend cannot make that fault.
They need pytest-asyncio in auto mode.
"""

from __future__ import annotations

from goverse.testing.conformance.store_calls import CallTests
from goverse.testing.conformance.store_commits import CommitTests
from goverse.testing.conformance.store_delayed import DelayedTests
from goverse.testing.conformance.store_faults import FaultTests
from goverse.testing.conformance.store_fences import FenceTests
from goverse.testing.conformance.store_ids import IdTests
from goverse.testing.conformance.store_kit import StoreBackend, WriteGate
from goverse.testing.conformance.store_lists import ListTests

__all__ = ["StoreBackend", "StoreConformance", "WriteGate"]


class StoreConformance(
    FenceTests, CommitTests, CallTests, DelayedTests, ListTests, IdTests, FaultTests
):
    """The whole suite. Each test works in slots and under names of its own, so that one database
    serves them all."""
