"""Delayed calls beside kills and moves: what the benchmark does between them."""

from __future__ import annotations

from benchmarks.delayed import another


def test_a_shard_is_moved_to_a_node_that_runs_and_has_joined() -> None:
    """It used to be pinned to a node that had been started and was not in the cluster yet."""
    running = {"node-1": 1, "node-3": 3}
    assert another("node-3", ["node-1", "node-2", "node-3"], running) == "node-1"
    just_started = {"node-1": 1, "node-2": 2, "node-3": 3}
    assert another("node-2", ["node-2", "node-3"], just_started) == "node-3"
