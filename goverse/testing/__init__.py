"""Test kit: clusters in one process, virtual time, faults, histories. Public: for applications too.

What may live here: whatever makes the runtime testable from outside. What may not: anything that
production code imports. See docs/how-to/test-your-application.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goverse.testing.cluster import TEST_SETTINGS, Cluster, ClusterSnapshot
    from goverse.testing.faults import COORDINATOR, STORE, Faults, FaultsSnapshot
    from goverse.testing.linearizability import (
        ANY_RESULT,
        COUNTER,
        REGISTER,
        UNKNOWN,
        Model,
        Operation,
        Undecided,
        Violation,
        find_violation,
    )
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
    "ANY_RESULT",
    "COORDINATOR",
    "COUNTER",
    "REGISTER",
    "STORE",
    "TEST_SETTINGS",
    "UNKNOWN",
    "Cluster",
    "ClusterSnapshot",
    "Faults",
    "FaultsSnapshot",
    "Kind",
    "Member",
    "MemberSnapshot",
    "Model",
    "Operation",
    "ProcessKilled",
    "SimClock",
    "SimLoop",
    "SimulationError",
    "Trace",
    "Undecided",
    "Violation",
    "current_process",
    "find_violation",
    "run_virtual",
    "sim_runtime",
]

_HOMES = {
    **dict.fromkeys(("TEST_SETTINGS", "Cluster", "ClusterSnapshot"), "cluster"),
    **dict.fromkeys(("COORDINATOR", "STORE", "Faults", "FaultsSnapshot"), "faults"),
    **dict.fromkeys(("Kind", "Member", "MemberSnapshot"), "member"),
    **dict.fromkeys(
        (
            "ANY_RESULT",
            "COUNTER",
            "REGISTER",
            "UNKNOWN",
            "Model",
            "Operation",
            "Undecided",
            "Violation",
            "find_violation",
        ),
        "linearizability",
    ),
    "Trace": "trace",
}


def __getattr__(name: str) -> Any:
    """Loaded when first used: pytest imports this package in every project that has Goverse
    installed, and most of their runs need neither node nor gate."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'loop')}"), name)
