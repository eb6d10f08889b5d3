"""Who waits for a shard to be opened."""

from __future__ import annotations

import asyncio
import math

import pytest

from goverse.call import Call, Codec
from goverse.errors import DeadlineExceeded
from goverse.ids import Epoch
from goverse.objects.shard import HeldLimit, Shard


def call(deadline: float = math.inf) -> Call:
    return Call(type="T", id="a", method="m", payload=b"", deadline=deadline, codec=Codec.MSGPACK)


@pytest.fixture
def limit() -> HeldLimit:
    return HeldLimit(10)


@pytest.mark.parametrize("outcome", [asyncio.CancelledError, DeadlineExceeded])
async def test_who_gives_up_in_the_moment_of_the_opening_is_told_why(
    limit: HeldLimit, outcome: type[BaseException]
) -> None:
    """It was told of an internal error: it looked for itself among those who still waited."""
    shard = Shard(1, Epoch(1, 1), limit)
    loop = asyncio.get_running_loop()
    overdue = outcome is DeadlineExceeded
    waiter = asyncio.create_task(shard.wait_change(call(loop.time() if overdue else math.inf)))
    opened = loop.create_future()

    def open_it() -> None:
        # Behind the timer of the deadline, and before the waiter runs again.
        if not overdue:
            waiter.cancel()
        shard.changed()
        opened.set_result(None)

    loop.call_soon(lambda: loop.call_later(0, open_it))
    await opened
    with pytest.raises(outcome):
        await waiter
    assert limit.held == 0


async def test_who_waits_goes_on_once_it_is_open(limit: HeldLimit) -> None:
    shard = Shard(1, Epoch(1, 1), limit)
    waiter = asyncio.create_task(shard.wait_change(call()))
    asyncio.get_running_loop().call_soon(
        lambda: asyncio.get_running_loop().call_soon(shard.changed)
    )
    await waiter
    assert limit.held == 0
