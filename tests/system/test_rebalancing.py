"""Rebalancing by real nodes: the short form of `make soak`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.migration.balancing import COUNT, LOAD, SLOW_S, balancing
from tests.migration.older import ROOT
from tests.migration.opening import Setup, open_scene
from tests.migration.report import TrialReport

pytestmark = pytest.mark.system

REST_S = 1.5


async def test_by_number_nodes_come_and_go_with_weights_of_1_2_and_4(tmp_path: Path) -> None:
    report = TrialReport("rebalancing", random.SystemRandom().randrange(2**32))
    setup = Setup({"n1": "1", "n2": "2"}, stored=False, durable=0, environment=COUNT)
    async with open_scene(tmp_path, report, setup) as scene:
        async with balancing(scene, {"n1": 1.0, "n2": 2.0}) as balance:
            await balance.settle()
            await balance.pin_here(list(balance.follower.owners)[:5])
            await balance.resized("a node of weight 4 comes", {"n1": 1.0, "n2": 2.0, "n3": 4.0})
            await balance.rests(REST_S)
            await balance.resized("it goes", {"n1": 1.0, "n2": 2.0})
            await balance.rests(REST_S)
        await scene.judge()
    report.write(ROOT / "reports")
    print(report)
    assert report.ok, str(report)


async def test_by_load_five_hot_shards_are_spread_and_a_pinned_one_stays(tmp_path: Path) -> None:
    report = TrialReport("hot-shards", random.SystemRandom().randrange(2**32))
    nodes = ("n1", "n2", "n3")
    setup = Setup(
        dict.fromkeys(nodes, "1"),
        stored=False,
        volatile=12,
        durable=0,
        pause_s=SLOW_S,
        one_processor=True,
        environment=LOAD,
    )
    async with open_scene(tmp_path, report, setup) as scene:
        async with balancing(scene, dict.fromkeys(nodes, 1.0)) as balance:
            await balance.settle(by_number=False)
            home = scene.chance.choice(nodes)
            mine = [shard for shard, node in balance.follower.owners.items() if node == home]
            hot = dict.fromkeys(scene.chance.sample(mine, 5), 1.0)
            await balance.pin_here([next(iter(hot))])
            await balance.heated("five hot shards on one node", hot, rest_s=0.0, within_s=45.0)
        await scene.judge()
    report.write(ROOT / "reports")
    print(report)
    assert report.ok, str(report)
