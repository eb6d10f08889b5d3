"""Test kit: clusters in one process, virtual time, faults. Public: for applications too.

What may live here: whatever makes the runtime testable from outside. What may not: anything that
production code imports. See docs/how-to/test-your-application.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goverse.testing.cluster import TEST_SETTINGS, Cluster, ClusterSnapshot
    from goverse.testing.faults import COORDINATOR, STORE, Faults, FaultsSnapshot
    from goverse.testing.loop import (
        ProcessKilled,
        SimClock,
        SimLoop,
        SimulationError,
        current_process,
        run_virtual,
        sim_runtime,
    )
    from goverse.testing.member import Kind, Member, MemberSnapshot
    from goverse.testing.trace import Trace

__all__ = [
    "COORDINATOR",
    "STORE",
    "TEST_SETTINGS",
    "Cluster",
    "ClusterSnapshot",
    "Faults",
    "FaultsSnapshot",
    "Kind",
    "Member",
    "MemberSnapshot",
    "ProcessKilled",
    "SimClock",
    "SimLoop",
    "SimulationError",
    "Trace",
    "current_process",
    "run_virtual",
    "sim_runtime",
]

_HOMES = {
    **dict.fromkeys(("TEST_SETTINGS", "Cluster", "ClusterSnapshot"), "cluster"),
    **dict.fromkeys(("COORDINATOR", "STORE", "Faults", "FaultsSnapshot"), "faults"),
    **dict.fromkeys(("Kind", "Member", "MemberSnapshot"), "member"),
    "Trace": "trace",
}


def __getattr__(name: str) -> Any:
    """Loaded when first used: pytest imports this package in every project that has Goverse
    installed, and most of their runs need neither node nor gate."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'loop')}"), name)
