"""A turn that hangs, in a cluster: its shard goes where it belongs, and it does no harm there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

import goverse
from goverse.errors import GoverseError
from goverse.testing import TEST_SETTINGS, Cluster
from goverse_node.app import Node
from tests.support.virtual import elapse

pytestmark = pytest.mark.virtual_time

MAX_HOLD_S = 6.0
SETTINGS = replace(TEST_SETTINGS, node=replace(TEST_SETTINGS.node, latch_max_hold_s=MAX_HOLD_S))
SHARD = 3
HUNG, BESIDE, OTHER = f"shard#{SHARD}/hung", f"shard#{SHARD}/beside", "shard#4/other"


class Account(goverse.Object, durability="acknowledged"):
    value: int = 0

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.after: list[str] = []
        born.append(self)

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @goverse.method
    async def hang(self) -> int:
        self.value += 1000
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                self.after.append("swallowed")
        try:
            await goverse.get(Account, OTHER).add(1000)
            self.after.append("called")
        except GoverseError as error:
            self.after.append(type(error).__name__)
        return self.value


class Beside(goverse.Object):
    """Volatile, on the same shard."""

    value: int = 0

    @goverse.method
    async def add(self) -> int:
        self.value += 1
        return self.value


born: list[Account] = []


@asynccontextmanager
async def cluster(nodes: int = 2) -> AsyncIterator[Cluster]:
    born.clear()
    async with Cluster(Account, Beside, nodes=nodes, settings=SETTINGS) as world:
        try:
            yield world
        finally:
            for account in born:
                account.free.set()


def node_of(world: Cluster, name: str) -> Node:
    node = world.member(name).node
    assert node is not None
    return node


async def hung_in(world: Cluster, client: Any) -> tuple[asyncio.Task[int], Account]:
    """A call that hangs at its shard's owner."""
    call = asyncio.ensure_future(goverse.options(client.get(Account, HUNG), timeout_s=60.0).hang())
    await world.wait_until(lambda: any(account.value == 1000 for account in born))
    return call, next(account for account in born if account.value == 1000)


async def test_L13_a_hung_turn_is_removed_named_and_does_no_harm_where_its_shard_went() -> None:
    async with cluster() as world:
        client = await world.client()
        assert await client.get(Account, HUNG).add(0) == 0
        for count in (1, 2):
            assert await client.get(Beside, BESIDE).add() == count
        home = world.owner_of(HUNG)
        away = "n2" if home == "n1" else "n1"
        call, zombie = await hung_in(world, client)
        started = asyncio.get_running_loop().time()
        await world.pin(SHARD, away)
        named: list[Any] = []
        while world.owner_of(HUNG) != away:
            listed = (await node_of(world, home).admin.list_locks(local_only=True)).locks
            named += [lock for lock in listed if lock.purpose == "hand_over"]
            await elapse(0.25)
        took_s = asyncio.get_running_loop().time() - started
        assert MAX_HOLD_S <= took_s <= MAX_HOLD_S + 4.0
        assert {(lock.object, lock.method) for lock in named} == {(f"Account/{HUNG}", "hang")}
        assert any(lock.sealed for lock in named) and not all(lock.sealed for lock in named)
        # What lay beside it moved along, and the hung object goes on from what is stored.
        assert await client.get(Beside, BESIDE).add() == 3
        assert await client.get(Account, HUNG).add() == 1
        (left,) = (await node_of(world, home).admin.list_locks(local_only=True)).locks
        assert (left.state, left.object) == ("cut_loose", f"Account/{HUNG}")
        metrics = world.member(home).metrics
        assert metrics.latch_removed.children() == {("cancelled",): 1, ("cut_loose",): 1}
        assert metrics.latch_acquisitions.children()[("hand_over", "forced")] == 1
        assert metrics.latch_acquisitions.children()[("hand_over", "called_off")] >= 1
        zombie.free.set()
        with pytest.raises(goverse.Unavailable) as caught:
            await call
        assert caught.value.executed is goverse.Executed.UNKNOWN
        assert zombie.after == ["swallowed", "Fenced"]
        assert await client.get(Account, OTHER).add() == 1
        assert await client.get(Account, HUNG).add() == 2
        assert (await node_of(world, home).admin.list_locks(local_only=True)).locks == ()


async def test_L13_it_comes_back_to_the_same_node_under_another_epoch() -> None:
    """There and back while the turn hangs: its own node owns the shard again, and still it alone
    is kept waiting."""
    async with cluster() as world:
        client = await world.client()
        assert await client.get(Account, BESIDE).add() == 1
        home = world.owner_of(HUNG)
        away = "n2" if home == "n1" else "n1"
        call, zombie = await hung_in(world, client)

        def epoch() -> str:
            (found,) = [
                s for s in node_of(world, home).catalog.snapshot().shards if s.number == SHARD
            ]
            return str(found.epoch)

        before = epoch()
        await world.pin(SHARD, away)
        await world.wait_until(lambda: world.owner_of(HUNG) == away, 30)
        await world.pin(SHARD, home)
        await world.wait_until(lambda: world.owner_of(HUNG) == home, 30)
        assert epoch() != before
        assert await client.get(Account, BESIDE).add() == 2
        waiting = asyncio.ensure_future(client.get(Account, HUNG).add())
        await elapse(2.0)
        assert not waiting.done()
        zombie.free.set()
        assert await waiting == 1
        with pytest.raises(goverse.Unavailable):
            await call


async def test_a_move_that_is_not_wanted_any_more_counts_from_nothing_again() -> None:
    async with cluster() as world:
        client = await world.client()
        assert await client.get(Account, HUNG).add(0) == 0
        home = world.owner_of(HUNG)
        away = "n2" if home == "n1" else "n1"
        call, zombie = await hung_in(world, client)
        for _ in range(3):
            await world.pin(SHARD, away)
            await elapse(MAX_HOLD_S - 2.0)
            await world.pin(SHARD, home)
            await elapse(3.0)
        assert world.owner_of(HUNG) == home
        assert world.member(home).metrics.latch_removed.children() == {}
        zombie.free.set()
        assert await call == 1000


async def test_a_node_that_leaves_for_good_is_not_kept_by_a_turn_that_hangs() -> None:
    async with cluster() as world:
        client = await world.client()
        assert await client.get(Account, HUNG).add(0) == 0
        home = world.owner_of(HUNG)
        away = "n2" if home == "n1" else "n1"
        call, zombie = await hung_in(world, client)
        stopping = asyncio.ensure_future(world.stop(home))
        await world.wait_until(lambda: world.owner_of(HUNG) == away, 30)
        assert await client.get(Account, HUNG).add() == 1
        zombie.free.set()
        await stopping
        with pytest.raises(GoverseError):
            await call
