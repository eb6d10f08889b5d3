"""Objects per shard, as gauges want it."""

from __future__ import annotations

from dataclasses import replace

import pytest

import goverse
from goverse.config.settings import MetricsSettings
from goverse.objects.counts import by_shard, quantiles
from goverse.testing.cluster import TEST_SETTINGS, Cluster
from tests.support.virtual import virtual


def test_quantiles_are_counts_of_some_shard() -> None:
    assert quantiles({}) == {}
    assert set(quantiles({7: 3}).values()) == {3}
    found = quantiles({shard: shard for shard in range(101)})
    assert found == {("0",): 0, ("0.5",): 50, ("0.9",): 90, ("0.99",): 99, ("1",): 100}


def test_only_shards_with_objects_have_a_line() -> None:
    assert by_shard({1: 0, 2: 5}) == {("2",): 5}


class Kept(goverse.Object):
    @goverse.method
    async def touch(self) -> None:
        pass


@pytest.mark.parametrize("per_shard", [False, True])
def test_L35_shards_are_told_one_by_one_only_where_that_is_asked_for(per_shard: bool) -> None:
    @virtual
    async def story() -> None:
        settings = replace(TEST_SETTINGS, metrics=MetricsSettings(per_shard=per_shard))
        async with Cluster(Kept, nodes=1, settings=settings) as world:
            client = await world.client()
            for number in range(3):
                await client.get(Kept, f"shard#5/{number}").touch()
            node = world.member("n1").node
            assert node is not None
            sample = world.member("n1").metrics.sample()
            assert sample["goverse_shard_objects"][("1",)] == 3
            assert sample["goverse_shard_objects"][("0.5",)] == 0
            each = sample["goverse_objects_of_shard"]
            assert each == ({("5",): 3} if per_shard else {})

    story()
