"""When shards are where balance wants them."""

from __future__ import annotations

import goverse.admin
from goverse.testing.processes import ProcessCluster
from tests.support.eventually import eventually

WITHIN_S = 30.0


async def balanced(cluster: ProcessCluster, *nodes: str) -> None:
    """Return once ``nodes`` and no others have shards, each shard is where it should be, and none
    is going to move: nodes that start together do not join together, and the first one has
    everything until the others take their share."""
    async with goverse.admin.connect(cluster.servers[nodes[0]].address) as admin:

        async def check() -> bool:
            found = await admin.get_status()
            have = {node.name for node in found.nodes if node.claimed}
            all_owned = found.shards.owned == found.num_shards
            return have == set(nodes) and all_owned and not found.held

        await eventually(check, WITHIN_S)
