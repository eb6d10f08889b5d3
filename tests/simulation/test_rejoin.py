"""Regressions of a node that is killed and comes back while its shards fail over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from goverse.testing import Cluster, SimLoop, run_virtual
from goverse.testing.cluster import TEST_SETTINGS
from tests.simulation.objects import Register

SETTINGS = replace(
    TEST_SETTINGS,
    cluster=replace(TEST_SETTINGS.cluster, initial_num_shards=2048, stability_duration_s=1.0),
)


def _all_served(cluster: Cluster) -> bool:
    nodes = [member.node for member in cluster.members if member.alive]
    found = [node.member.ownership.snapshot() for node in nodes if node is not None]
    return sum(one.open for one in found) == 2048 and all(o.open == o.targeted for o in found)


@pytest.mark.parametrize(
    ("seed", "away_s", "latency_s"),
    [
        (3, 2.3705636425086625, (0.002, 0.03)),
        (12, 1.0759798186264184, (0.0005, 0.2)),
        (46, 1.5999775838840518, (0.0005, 0.002)),
        (54, 1.7557507025024335, (0.002, 0.03)),
    ],
)
def test_a_release_due_before_its_claim_is_answered_is_not_forgotten(
    seed: int, away_s: float, latency_s: tuple[float, float]
) -> None:
    """The watch showed a claim, and the move of its target, before the answer of the claim's
    transaction came; that answer then removed the release from the queue, and the shard was
    held by a node that never opened it again."""

    async def main(loop: SimLoop) -> None:
        async with Cluster(
            Register, nodes=2, gates=1, settings=SETTINGS, seed=seed, latency_s=latency_s
        ) as cluster:
            cluster.kill("n2")
            back_at = loop.time() + away_s
            await cluster.wait_until(lambda: loop.time() >= back_at)
            await cluster.start_node("n2")
            await cluster.wait_until(lambda: _all_served(cluster), timeout_s=20)

    run_virtual(main, seed=seed)
