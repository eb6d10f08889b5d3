"""Cables and the channel to the coordinator: late, lost, cut, refused."""

from __future__ import annotations

import asyncio
import random

import pytest

from goverse.coordination.api import CoordinatorUnavailable
from goverse.testing.channel import FaultyChannel
from goverse.testing.faults import COORDINATOR, Faults
from goverse.testing.loop import SimLoop, run_virtual

wait = asyncio.sleep


def faults(seed: int = 1) -> Faults:
    return Faults(random.Random(seed), latency_s=(0.001, 0.002))


def test_cables_are_cut_slowed_and_mended() -> None:
    cables = faults()
    assert 0 < (cables.delay("a", "b") or 0) < 0.03
    cables.cut_one_way("a", "b")
    assert cables.delay("a", "b") is None and cables.delay("b", "a") is not None
    cables.cut("a", "c")
    cables.slow("b", "c", 5)
    assert (cables.delay("c", "b") or 0) > 5
    assert cables.snapshot().cut == (("a", "b"), ("a", "c"), ("c", "a"))
    cables.mend("b", "a")
    assert cables.delay("a", "b") is not None and cables.delay("a", "c") is None
    cables.heal()
    assert cables.snapshot().clean


def test_a_request_reaches_the_store_after_a_while() -> None:
    async def main(loop: SimLoop) -> None:
        channel = FaultyChannel(faults(), "n1")
        assert await channel.request(lambda: 7) == 7
        assert 0.002 <= loop.elapsed_s < 0.1
        with pytest.raises(KeyError):
            await channel.request(lambda: {}["x"])

    run_virtual(main)


def test_lost_answers_leave_the_operation_done() -> None:
    async def main(loop: SimLoop) -> None:
        cables = faults()
        cables.cut_one_way(COORDINATOR, "n1")
        done: list[int] = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await FaultyChannel(cables, "n1").request(lambda: done.append(1))
        assert done == [1]

    run_virtual(main)


def test_requests_into_a_cut_are_lost_or_come_late() -> None:
    async def main(loop: SimLoop) -> None:
        cables = faults()
        channel = FaultyChannel(cables, "n1")
        cables.cut("n1", COORDINATOR)
        done: list[int] = []
        for number in range(40):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await channel.request(lambda n=number: done.append(n))  # type: ignore[misc]
        assert done == []
        cables.heal()
        await wait(1)
        assert 5 < len(done) < 35

    run_virtual(main)


def test_a_request_outlives_the_process_that_sent_it() -> None:
    async def main(loop: SimLoop) -> None:
        done: list[int] = []
        channel = FaultyChannel(faults(), "n1")
        loop.spawn("n1", channel.request(lambda: done.append(1)))
        await wait(0)
        loop.kill("n1")
        await wait(1)
        assert done == [1]

    run_virtual(main)


def test_a_closed_port_refuses_at_once() -> None:
    async def main(loop: SimLoop) -> None:
        cables = faults()
        cables.close_port(COORDINATOR)
        with pytest.raises(CoordinatorUnavailable, match="refused"):
            await FaultyChannel(cables, "n1").request(lambda: 1)
        cables.open_port(COORDINATOR)
        assert await FaultyChannel(cables, "n1").request(lambda: 1) == 1

    run_virtual(main)


def test_jitter_can_be_that_of_a_share_of_the_messages():
    cables = faults()
    cables.jitter("a", "b", 10.0, 0.25)
    delays = [cables.delay("a", "b") or 0.0 for _ in range(1000)]
    assert 150 < sum(delay > 0.1 for delay in delays) < 350
    assert max(delays) > 5.0
    cables.mend("a", "b")
    assert max(cables.delay("a", "b") or 0.0 for _ in range(100)) < 0.1
