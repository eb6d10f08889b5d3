"""When shards are where balance wants them."""

from __future__ import annotations

from collections.abc import Collection

from goverse.testing.processes import ProcessCluster
from tests.support.eventually import eventually


async def balanced(
    cluster: ProcessCluster, nodes: Collection[str], *, within_s: float = 30.0
) -> None:
    """Every shard is where balance wants it: nodes that start together do not join together,
    and the first one has everything until the others take their share."""

    async def check() -> bool:
        found = await cluster.admin("status")
        everybody = all(node["claimed"] for node in found["nodes"])
        settled = found["shards"]["owned"] == found["num_shards"] and not found["held"]
        return len(found["nodes"]) == len(nodes) and everybody and settled

    await eventually(check, within_s)
