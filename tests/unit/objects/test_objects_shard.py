"""A shard that calls wait for."""

from __future__ import annotations

import asyncio

import pytest
from objects_kit import make_call, turns_of_the_loop

from goverse.ids import Epoch
from goverse.objects.shard import HeldLimit, Shard


async def test_a_call_given_up_in_the_step_in_which_the_shard_opens_is_cancelled():
    limit = HeldLimit(10)
    shard = Shard(3, Epoch(1, 1), limit)
    waiting = asyncio.ensure_future(shard.wait_change(make_call("Any", "a", "get")))
    other = asyncio.ensure_future(shard.wait_change(make_call("Any", "a", "get")))
    await turns_of_the_loop(2)
    assert limit.held == 2
    waiting.cancel()
    shard.changed()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await other
    assert limit.held == 0
