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
from goverse.testing.loop import SimLoop, run_virtual
from tests.support.pacing import last

TRANSACTION_S = 0.0005


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
        await last(TRANSACTION_S)
        return [AcceptResult(Verdict.DONE)] * len(wanted)

    def recorded(self, entry: Any, result: AcceptResult) -> None:
        self.recorded_calls += 1
        self.heard.set()

    def come(self, count: int) -> None:
        for _ in range(count):
            opening = SimpleNamespace(settling=False)
            entry = SimpleNamespace(
                shard=SimpleNamespace(opening=opening),
                state=ACCEPTING,
                size=1,
                sent=False,
                skip="",
                call=None,
                fence=lambda: None,
            )
            self.accepts.add(cast(Entry, _Hashable(entry)))

    async def until_recorded(self, count: int) -> None:
        while self.recorded_calls < count:
            self.heard.clear()
            await self.heard.wait()


class _Hashable:
    """Equal to itself alone, as entries are."""

    def __init__(self, fields: SimpleNamespace) -> None:
        self.__dict__.update(vars(fields))


@pytest.fixture
def virtual() -> Any:
    """Runs a scenario with a rig of its own; its batches."""

    def run(scenario: Any) -> list[tuple[float, int]]:
        async def main(loop: SimLoop) -> list[tuple[float, int]]:
            rig = Rig()
            await scenario(rig)
            return rig.batches

        return run_virtual(main)

    return run


def test_one_call_goes_at_once(virtual: Any) -> None:
    async def scenario(rig: Rig) -> None:
        rig.noted = 1  # somebody else's, who will call again
        rig.come(1)
        await rig.until_recorded(1)

    assert virtual(scenario) == [(0.0, 1)]


def test_a_batch_has_half_of_what_goes_round_and_the_rest_the_next(virtual: Any) -> None:
    async def scenario(rig: Rig) -> None:
        rig.come(64)
        await rig.until_recorded(64)

    assert [count for _, count in virtual(scenario)] == [32, 32]


def test_few_calls_go_together_as_a_transaction_has_its_price(virtual: Any) -> None:
    async def scenario(rig: Rig) -> None:
        rig.come(MIN_BATCH_CALLS)
        await rig.until_recorded(MIN_BATCH_CALLS)

    assert virtual(scenario) == [(0.0, MIN_BATCH_CALLS)]


def test_a_batch_waits_for_its_half_while_others_are_committed(virtual: Any) -> None:
    async def scenario(rig: Rig) -> None:
        rig.noted = 60
        rig.come(4)
        await last(MAX_PAUSE_S / 4)
        rig.come(20)
        await last(MAX_PAUSE_S / 4)
        rig.come(8)
        await rig.until_recorded(32)

    [(when_s, count)] = virtual(scenario)
    assert (when_s, count) == (pytest.approx(MAX_PAUSE_S / 2), 32)


def test_it_does_not_wait_for_long(virtual: Any) -> None:
    """Those who are answered need not call again; and what is noted may be long in coming."""

    async def scenario(rig: Rig) -> None:
        rig.noted = 60
        rig.come(4)
        await rig.until_recorded(4)

    assert virtual(scenario) == [(pytest.approx(MAX_PAUSE_S), 4)]


def test_it_waits_for_nobody_when_nothing_is_committed(virtual: Any) -> None:
    async def scenario(rig: Rig) -> None:
        rig.come(64)
        await rig.until_recorded(64)
        rig.batches.clear()
        rig.began = asyncio.get_running_loop().time()
        rig.come(1)
        await rig.until_recorded(65)

    assert virtual(scenario) == [(0.0, 1)]


def test_a_crowd_that_has_gone_is_forgotten(virtual: Any) -> None:
    async def scenario(rig: Rig) -> None:
        rig.come(64)
        await rig.until_recorded(64)
        rig.noted = 1
        for number in range(HALF_OF_LAST):
            rig.batches.clear()
            rig.began = asyncio.get_running_loop().time()
            rig.come(1)
            await rig.until_recorded(65 + number)

    assert virtual(scenario) == [(0.0, 1)]


def test_a_call_that_is_withdrawn_while_its_batch_waits_is_not_sent(virtual: Any) -> None:
    async def scenario(rig: Rig) -> None:
        rig.noted = 60
        rig.come(2)
        await last(MAX_PAUSE_S / 2)
        (first, _) = list(rig.accepts._queue)
        assert rig.accepts.withdraw(first)
        await rig.until_recorded(1)
        rig.noted = 0
        rig.come(1)
        await rig.until_recorded(2)

    assert [count for _, count in virtual(scenario)] == [1, 1]


def test_nothing_is_left_behind_when_all_are_withdrawn(virtual: Any) -> None:
    async def scenario(rig: Rig) -> None:
        rig.noted = 60
        rig.come(1)
        await last(MAX_PAUSE_S / 2)
        (only,) = list(rig.accepts._queue)
        assert rig.accepts.withdraw(only)
        await last(MAX_PAUSE_S)
        assert not rig.accepts._running
        rig.noted = 0
        rig.come(1)
        await rig.until_recorded(1)

    assert [count for _, count in virtual(scenario)] == [1]
