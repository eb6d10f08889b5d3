"""A node closes a few shards at a time, whatever becomes of those that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from goverse.cluster import pin_shard
from goverse.cluster.closing import MAX_CLOSING, ClosingWindow
from goverse.cluster.holdings import HoldingState
from goverse.coordination import Delete, Put
from goverse.testing.loop import SimLoop, run_virtual
from tests.support.members import Process, World, in_world


async def passes(seconds: float) -> None:
    """Of virtual time."""
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_later(seconds, passed.set_result, None)
    await passed


def giving_up(process: Process) -> int:
    """Shards whose calls wait there: closing, or closed and not released."""
    gone = (HoldingState.CLOSING, HoldingState.RELEASING)
    return sum(h.state in gone for h in process.node.ownership._holdings.values())


@in_world(shards=512)
async def test_a_node_that_leaves_closes_a_few_shards_at_a_time(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    n2 = await world.node("n2")
    await world.until(lambda: world.settled() and n1.node.leadership.snapshot().moving == 0)
    most = 0

    async def look() -> None:
        nonlocal most
        while n1.host.shards:
            most = max(most, giving_up(n1))
            await passes(0.0005)

    n1.host.close_s = 0.05
    assert len(n1.host.shards) > 2 * MAX_CLOSING - 100
    looking = world.loop.spawn("", look())
    assert await n1.drain(timeout_s=20)
    await looking
    assert 100 < most <= MAX_CLOSING
    assert len(n2.host.shards) == 512


@in_world(shards=512)
async def test_turns_that_run_long_do_not_keep_the_others_from_closing(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    n1.node.ownership._drain_timeout_s = 5.0
    n1.host.busy = dict.fromkeys(range(0, 512, 2), True)  # each for the whole of that
    n2 = await world.node("n2")
    draining = world.loop.spawn("", n1.drain(timeout_s=20))
    idle = set(range(1, 512, 2))
    # 124 that are busy keep their places for 0.25 s, and then the others go.
    await world.until(lambda: idle <= set(n2.host.shards), 3)
    n1.host.busy.clear()
    assert await draining


@in_world(shards=256)
async def test_a_shard_that_is_called_off_while_it_waits_stays_open(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    closed: list[int] = []
    close_shard = n1.host.close_shard

    async def close(shard: int, *, drain_timeout_s: float, wanted_s: float = 0.0) -> bool:
        closed.append(shard)
        return await close_shard(shard, drain_timeout_s=drain_timeout_s, wanted_s=wanted_s)

    n1.host.close_shard = close  # type: ignore[method-assign]
    n2 = await world.node("n2")
    await world.until(lambda: len(n2.host.shards) > 60 and world.settled())
    # As if the window were full.
    window = n1.node.ownership._window
    window._max_closing = 0
    shard = n1.host.shards[0]
    await pin_shard(n1.coordinator, world.keys, shard, "n2")
    await world.until(lambda: window.waiting == 1)
    assert any("waits for its turn" in text for text in n1.node.ownership.why(shard))
    closed.clear()
    await pin_shard(n1.coordinator, world.keys, shard, "n1")
    await world.until(lambda: window.waiting == 0)
    window._max_closing = MAX_CLOSING
    await world.passes(1)
    assert closed == [] and shard in n1.host.open


@in_world(shards=64)
async def test_a_lease_that_is_lost_while_shards_wait_closes_none_of_them(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    window = n1.node.ownership._window
    window._max_closing = 0
    n2 = await world.node("n2")
    await world.until(lambda: window.waiting > 10)
    n1.cut()
    await world.until(lambda: bool(n1.host.discarded))
    assert (window.waiting, window.closing) == (0, 0)
    window._max_closing = MAX_CLOSING
    n1.mend()
    await world.until(world.settled)
    assert n2.host.shards


@in_world(shards=512)
async def test_while_releases_have_no_answer_what_is_not_closed_goes_on_serving(
    world: World,
) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    answer = asyncio.Event()

    async def hold_back(operations: Sequence[Put | Delete]) -> None:
        if isinstance(operations[0], Delete):
            await answer.wait()

    n1.coordinator.answers = hold_back
    n2 = await world.node("n2")
    draining = world.loop.spawn("", n1.drain(timeout_s=20))
    await world.until(lambda: giving_up(n1) >= 62)
    await world.passes(1.0)  # beyond the time for which one that closes keeps its place
    assert giving_up(n1) <= MAX_CLOSING
    assert len(n1.host.shards) + len(n2.host.shards) >= 512 - MAX_CLOSING
    n1.coordinator.answers = None
    world.loop.call_soon(answer.set)
    assert await draining


def test_a_place_is_given_once_and_comes_back() -> None:
    async def main(loop: SimLoop) -> None:
        begun: list[int] = []
        window = ClosingWindow(begun.append, max_closing=2, place_s=1.0)
        for shard in (1, 2, 3, 4, 5, 6, 3):
            window.ask(shard)
        assert begun == [1, 2] and (window.closing, window.waiting) == (2, 4)
        assert window.ahead_of(5) == 2 and window.ahead_of(1) is None
        window.called_off(4)
        window.called_off(1)  # has begun: nothing is stopped
        window.releasing(1)
        window.ask(1)
        await passes(1.5)  # the place of 2 is over, that of 1 is kept until its claim is gone
        assert begun == [1, 2, 3]
        window.left(1)
        window.left(1)
        assert begun == [1, 2, 3, 5]
        window.open_wide()
        assert begun == [1, 2, 3, 5, 6] and window.waiting == 0
        window.clear()
        assert window.closing == 0
        await passes(5)
        assert begun == [1, 2, 3, 5, 6]

    run_virtual(main, seed=1, max_time_s=60)
