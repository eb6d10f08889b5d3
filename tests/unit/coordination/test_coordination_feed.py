"""The buffer between a watch's pump and its consumer."""

from __future__ import annotations

import asyncio

import pytest

from goverse.aio.clock import SystemClock
from goverse.aio.tasks import Tasks
from goverse.coordination import Changes, Snapshot
from goverse.coordination.feed import MAX_BUFFERED_ITEMS, Feed, Pump
from tests.support.eventually import eventually


def make_feed(pump: Pump) -> Feed:
    return Feed("/a/", Tasks("test"), SystemClock(), pump)


async def test_a_full_buffer_stops_the_pump() -> None:
    produced = 0

    async def pump(feed: Feed) -> None:
        nonlocal produced
        await feed.put(Snapshot(0, {}))
        while True:
            produced += 1
            await feed.put(Changes(produced, {}))

    feed = make_feed(pump)
    await anext(feed)
    await eventually(lambda: feed.full)
    stopped_at = produced
    assert stopped_at <= MAX_BUFFERED_ITEMS + 1
    revisions = [(await anext(feed)).revision for _ in range(3 * MAX_BUFFERED_ITEMS)]
    assert revisions == list(range(1, 3 * MAX_BUFFERED_ITEMS + 1))
    await feed.aclose()


async def test_a_watch_that_nobody_reads_starts_nothing() -> None:
    async def pump(feed: Feed) -> None:
        raise AssertionError("started")

    feed = make_feed(pump)
    await feed.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(feed)


async def test_a_pump_that_crashes_is_not_taken_for_the_end() -> None:
    async def pump(feed: Feed) -> None:
        await feed.put(Snapshot(0, {}))
        raise ZeroDivisionError

    feed = make_feed(pump)
    assert await anext(feed) == Snapshot(0, {})
    with pytest.raises(ZeroDivisionError):
        await anext(feed)


async def test_closing_ends_a_pump_that_waits_for_room() -> None:
    async def pump(feed: Feed) -> None:
        await feed.put(Snapshot(0, {}))
        for n in range(2 * MAX_BUFFERED_ITEMS):
            await feed.put(Changes(n, {}))

    feed = make_feed(pump)
    await anext(feed)
    await eventually(lambda: feed.full)
    async with asyncio.timeout(1):
        await feed.aclose()
    assert feed.closed
