"""A pin holds through restarts of its node and of the leader, and gives way while its node is away.

Driven by the command line alone, against real processes and a real etcd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from goverse.testing.processes import ProcessCluster
from tests.support.balance import balanced
from tests.support.eventually import eventually

pytestmark = pytest.mark.system

SHARD = 42
NODES = ("n1", "n2", "n3")
WITHIN_S = 30.0


async def shard(cluster: ProcessCluster) -> dict[str, Any]:
    found: dict[str, Any] = await cluster.admin("shard", "get", str(SHARD))
    return found


async def becomes(
    cluster: ProcessCluster, wanted: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The shard, once it is as ``wanted``."""

    async def check() -> dict[str, Any] | None:
        found = await shard(cluster)
        return found if wanted(found) else None

    found: dict[str, Any] = await eventually(check, WITHIN_S)
    return found


async def test_a_pin_outlives_processes_and_gives_way_to_a_failure(
    cluster: ProcessCluster,
) -> None:
    for name in NODES:
        await cluster.start_node(name)
    await cluster.wait_ready()
    await balanced(cluster, *NODES)
    home = (await shard(cluster))["owner"]
    chosen = next(name for name in NODES if name != home)

    pinned = await cluster.admin("shard", "pin", str(SHARD), "--node", chosen, "--wait")
    assert (pinned["pinned"], pinned["pinned_node"], pinned["owner"]) == (True, chosen, chosen)

    # Its node restarts.
    await cluster.stop(chosen)
    await cluster.start_node(chosen)
    found = await becomes(cluster, lambda found: found["owner"] == chosen)
    assert (found["pinned"], found["failed_over"]) == (True, False)

    # The leader restarts.
    leader = (await cluster.admin("status"))["leader"]
    await cluster.stop(leader)
    await cluster.start_node(leader)
    await cluster.wait_ready(leader)
    found = await becomes(cluster, lambda found: found["owner"] == chosen)
    assert found["pinned"]

    # Its node dies: the shard lives elsewhere, with a warning, until the node is back.
    await cluster.kill(chosen)
    found = await becomes(
        cluster, lambda found: found["owner"] not in ("", chosen) and found["failed_over"]
    )
    assert (found["pinned"], found["pinned_node"]) == (True, chosen)
    warnings = (await cluster.admin("status"))["warnings"]
    (warning,) = [w for w in warnings if w["code"] == "pin_failed_over"]
    assert warning["shards"] == [SHARD]
    await cluster.start_node(chosen)
    found = await becomes(cluster, lambda found: found["owner"] == chosen)
    assert (found["pinned"], found["failed_over"]) == (True, False)

    # Unpinned, it goes back to where balance wants it.
    await cluster.admin("shard", "unpin", str(SHARD))
    found = await becomes(cluster, lambda found: found["owner"] == home)
    assert (found["pinned"], found["pinned_node"]) == (False, "")
