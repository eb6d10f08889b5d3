"""How calls go into the ledger together: `goverse.reliable.accepts`."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.objects.durability.fences import Fences
from goverse.reliable.accepts import (
    HALF_OF_LAST,
    MAX_PAUSE_S,
    MIN_BATCH_CALLS,
    AcceptHost,
    Accepts,
)
from goverse.reliable.entries import ACCEPTING, Entry
from goverse.storage.api import Store
from goverse.storage.values import AcceptResult, Verdict
from tests.support.virtual import elapse, virtual

TRANSACTION_S = 0.0005


class Arrived:
    """An entry that waits for its row, of a shard that is open."""

    def __init__(self) -> None:
        self.shard = SimpleNamespace(opening=SimpleNamespace(settling=False))
        self.state = ACCEPTING
        self.size = 1
        self.sent = False
        self.skip = ""
        self.call = None

    def fence(self) -> None:
        """Nobody compares it."""


class Rig:
    """Accepts beside a store whose transactions last half a millisecond of virtual time."""

    def __init__(self) -> None:
        self.noted = 0
        self.batches: list[tuple[float, int]] = []
        self.recorded_calls = 0
        self.heard = asyncio.Event()
        self.accepts = Accepts(
            cast(Store, self),
            cast(Fences, None),
            Tasks("accepts"),
            Runtime(),
            cast(AcceptHost, self),
            noted=lambda: self.noted,
        )
        self.began = asyncio.get_running_loop().time()

    async def accept(self, wanted: list[Any]) -> list[AcceptResult]:
        self.batches.append((asyncio.get_running_loop().time() - self.began, len(wanted)))
        await elapse(TRANSACTION_S)
        return [AcceptResult(Verdict.DONE)] * len(wanted)

    def recorded(self, entry: Any, result: AcceptResult) -> None:
        self.recorded_calls += 1
        self.heard.set()

    def come(self, count: int) -> None:
        for _ in range(count):
            self.accepts.add(cast(Entry, Arrived()))

    async def until_recorded(self, count: int) -> None:
        while self.recorded_calls < count:
            self.heard.clear()
            await self.heard.wait()


@virtual
async def test_one_call_goes_at_once() -> None:
    rig = Rig()
    rig.noted = 1  # somebody else's, who will call again
    rig.come(1)
    await rig.until_recorded(1)
    assert rig.batches == [(0.0, 1)]


@virtual
async def test_a_batch_has_half_of_what_goes_round_and_the_rest_the_next() -> None:
    rig = Rig()
    rig.come(64)
    await rig.until_recorded(64)
    assert [count for _, count in rig.batches] == [32, 32]


@virtual
async def test_few_calls_go_together_as_a_transaction_has_its_price() -> None:
    rig = Rig()
    rig.come(MIN_BATCH_CALLS)
    await rig.until_recorded(MIN_BATCH_CALLS)
    assert rig.batches == [(0.0, MIN_BATCH_CALLS)]


@virtual
async def test_a_batch_waits_for_its_half_while_others_are_committed() -> None:
    rig = Rig()
    rig.noted = 60
    rig.come(4)
    await elapse(MAX_PAUSE_S / 4)
    rig.come(20)
    await elapse(MAX_PAUSE_S / 4)
    rig.come(8)
    await rig.until_recorded(32)
    [(when_s, count)] = rig.batches
    assert (when_s, count) == (pytest.approx(MAX_PAUSE_S / 2), 32)


@virtual
async def test_it_does_not_wait_for_long() -> None:
    """Those who are answered need not call again; and what is noted may be long in coming."""
    rig = Rig()
    rig.noted = 60
    rig.come(4)
    await rig.until_recorded(4)
    assert rig.batches == [(pytest.approx(MAX_PAUSE_S), 4)]


@virtual
async def test_it_waits_for_nobody_when_nothing_is_committed() -> None:
    rig = Rig()
    rig.come(64)
    await rig.until_recorded(64)
    rig.batches.clear()
    rig.began = asyncio.get_running_loop().time()
    rig.come(1)
    await rig.until_recorded(65)
    assert rig.batches == [(0.0, 1)]


@virtual
async def test_a_crowd_that_has_gone_is_forgotten() -> None:
    rig = Rig()
    rig.come(64)
    await rig.until_recorded(64)
    rig.noted = 1
    for number in range(HALF_OF_LAST):
        rig.batches.clear()
        rig.began = asyncio.get_running_loop().time()
        rig.come(1)
        await rig.until_recorded(65 + number)
    assert rig.batches == [(0.0, 1)]


@virtual
async def test_a_call_that_is_withdrawn_while_its_batch_waits_is_not_sent() -> None:
    rig = Rig()
    rig.noted = 60
    rig.come(2)
    await elapse(MAX_PAUSE_S / 2)
    (first, _) = list(rig.accepts._queue)
    assert rig.accepts.withdraw(first)
    await rig.until_recorded(1)
    rig.noted = 0
    rig.come(1)
    await rig.until_recorded(2)
    assert [count for _, count in rig.batches] == [1, 1]


@virtual
async def test_nothing_is_left_behind_when_all_are_withdrawn() -> None:
    rig = Rig()
    rig.noted = 60
    rig.come(1)
    await elapse(MAX_PAUSE_S / 2)
    (only,) = list(rig.accepts._queue)
    assert rig.accepts.withdraw(only)
    await elapse(MAX_PAUSE_S)
    assert not rig.accepts._running
    rig.noted = 0
    rig.come(1)
    await rig.until_recorded(1)
    assert [count for _, count in rig.batches] == [1]
