"""What a node says of its load, and that saying it costs the same whatever the node holds."""

from __future__ import annotations

import asyncio

import goverse
from goverse.call import Codec, Verb
from goverse.objects import metering
from goverse.objects.metering import LoadMeter
from goverse.objects.shard import HeldLimit, Shard
from goverse.observability.quota import Machine, Quota, Usage
from goverse.sharding import shard_of
from goverse.sharding.loads import NodeLoad, ShardLoad
from tests.unit.objects.objects_kit import EPOCH, NUM_SHARDS, make_call, running


class Kept(goverse.Object):
    text: str = ""

    @goverse.method
    async def put(self, size: int) -> None:
        self.text = "x" * size

    @goverse.method
    async def rest(self) -> None:
        # It has a place to wait at, and so is given a task.
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        await done


class Half(Machine):
    """Two processors, one of them busy."""

    now = 0.0

    def quota(self) -> Quota:
        return Quota(2.0, 1 << 20)

    def usage(self) -> Usage:
        return Usage(self.now, 1 << 19)


def meter(shards: dict[int, Shard]) -> tuple[LoadMeter, Half]:
    machine = Half()
    return LoadMeter(shards, machine, lambda: machine.now), machine


async def test_turns_are_counted_however_they_run() -> None:
    async with running(Kept) as node:
        for number in range(7):
            await node.call("Kept", "a", "put", size=100)
            await node.call("Kept", "a", "rest")
            assert number == node.catalog.shards.by_number[shard_of("a", NUM_SHARDS)].turns / 2 - 1
        shard = node.catalog.shards.by_number[shard_of("a", NUM_SHARDS)]
        assert shard.turns == 14 and shard.busy_s > 0
        assert sum(one.turns for one in node.catalog.shards.by_number.values()) == 14


async def test_a_node_answers_who_asks_for_its_load() -> None:
    async with running(Kept) as node:
        await node.call("Kept", "a", "put", size=1000)
        await node.call("Kept", f"node#{node.facts.node_name}/b", "rest")
        watch, machine = meter(node.catalog.shards.by_number)
        machine.now = 2.0
        found = watch.measure()
        number = shard_of("a", NUM_SHARDS)
        assert (found.cpu, found.memory, found.memory_bytes) == (0.5, 0.5, 1 << 20)
        assert found.hottest[number].calls == 0.5 and found.hottest[number].objects == 1
        assert 1000 <= found.hottest[number].bytes < 1100
        assert found.own.calls == 0.5 and -1 not in found.hottest
        reply = await node.send(make_call("", "", "", verb=Verb.LOAD, codec=Codec.JSON))
        assert reply.codec is Codec.JSON and b"hottest" in reply.payload


def test_what_is_said_is_of_the_time_since_it_was_said_before() -> None:
    shards = {number: Shard(number, EPOCH, HeldLimit(1)) for number in range(3)}
    watch, machine = meter(shards)
    shards[1].turns, shards[1].busy_s = 100, 5.0
    machine.now = 10.0
    assert watch.measure().hottest[1] == ShardLoad(10.0, 0.5)
    machine.now = 10.5  # too soon for another rate
    shards[1].turns = 1000
    assert watch.measure().hottest[1] == ShardLoad(10.0, 0.5)
    shards[1].turns = 110
    machine.now = 15.0
    assert watch.measure().hottest[1] == ShardLoad(2.0, 0.0)
    # Another claim of the same shard begins at nothing.
    shards[1] = Shard(1, EPOCH, HeldLimit(1))
    shards[1].turns = 5
    machine.now = 20.0
    assert watch.measure().hottest[1] == ShardLoad(1.0, 0.0)
    del shards[1]
    machine.now = 30.0
    found = watch.measure()
    # What has nothing to do is counted and not named.
    assert (found.hottest, found.others) == ({}, 2)


async def test_the_state_of_a_bounded_number_of_objects_is_looked_at(monkeypatch) -> None:
    monkeypatch.setattr(metering, "_SIZED_SHARDS", 2)
    async with running(Kept) as node:
        for number in range(64):
            await node.call("Kept", f"object {number}", "put", size=500)
        watch, machine = meter(node.catalog.shards.by_number)
        sized = []
        for _ in range(5):
            machine.now += 2.0
            found: NodeLoad = watch.measure()
            sized.append(sum(shard.bytes > 0 for shard in found.hottest.values()))
        # Two more shards each time, the node's own among them, until all have been looked at.
        assert sized[0] <= 2 and sized == sorted(sized) and sized[-1] == NUM_SHARDS
        held = sum(shard.bytes for shard in found.hottest.values())
        assert 64 * 500 <= held < 64 * 530
