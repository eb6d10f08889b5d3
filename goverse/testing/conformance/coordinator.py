"""What a Coordinator must do.

::

    class TestMine(CoordinatorConformance):
        @pytest.fixture
        async def backend(self):
            yield MyBackend()

The tests of what needs a fault to be seen are skipped where the backend cannot make that fault.
They need pytest-asyncio in auto mode.
"""

from __future__ import annotations

from goverse.testing.conformance.coordinator_cuts import CutTests
from goverse.testing.conformance.coordinator_kit import Clients, CoordinatorBackend, Cut, View
from goverse.testing.conformance.coordinator_leases import LeaseTests
from goverse.testing.conformance.coordinator_reads import ReadTests
from goverse.testing.conformance.coordinator_watches import WatchTests

__all__ = ["Clients", "CoordinatorBackend", "CoordinatorConformance", "Cut", "View"]


class CoordinatorConformance(ReadTests, LeaseTests, WatchTests, CutTests):
    """The whole suite."""
