"""The latch of a shard: turns hold it, a writer wants it alone, and whoever stays is removed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from durable_kit import DurableNode, MemoryStore
from objects_kit import Node, make_call, turns_of_the_loop, value_of

import goverse
from goverse.aio.runtime import Runtime
from goverse.config.settings import LimitSettings
from goverse.errors import Executed, Fenced, NotOwner, Unavailable
from goverse.ids import Epoch
from goverse.objects.holders import GRACE_S
from goverse.objects.latch import Holds
from goverse.objects.luggage import Luggage
from goverse.testing import SimLoop, run_virtual
from tests.support.virtual import elapse, virtual

NEWER = Epoch(1, 200)
SHARD = 5
HOLDS = Holds(max_hold_s=10.0, warn_after_s=1.0)
DRAIN_S = 2.0


def on(shard: int, name: str) -> str:
    return f"shard#{shard}/{name}"


X, Y = on(SHARD, "x"), on(SHARD, "y")
ELSEWHERE = on(SHARD + 1, "z")


class Thing(goverse.Object):
    value: int = 0

    @goverse.method
    async def bump(self) -> int:
        self.value += 1
        return self.value

    @goverse.method
    async def hold(self, seconds: float) -> int:
        self.value += 1
        await elapse(seconds)
        return self.value

    @goverse.method
    async def visit(self, there: str, seconds: float) -> int:
        return await goverse.get(Thing, there).hold(seconds)


class Zombie(goverse.Object):
    """Swallows every cancellation, and does what it can after it was told to end."""

    value: int = 0

    def __init__(self) -> None:
        zombies.append(self)
        self.free = asyncio.Event()
        self.did: list[str] = []

    @goverse.method
    async def hang(self) -> int:
        self.value += 100
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                self.did.append("swallowed")
        for name, act in (
            ("call", lambda: goverse.get(Thing, ELSEWHERE).bump()),
            ("spawn", lambda: self._spawn()),
        ):
            try:
                await act()
                self.did.append(name)
            except Fenced:
                self.did.append(f"{name} refused")
        return self.value

    async def _spawn(self) -> None:
        self.spawn(elapse(0), name="more")

    @goverse.method
    async def bump(self) -> int:
        self.value += 1
        return self.value


zombies: list[Any] = []


class Away:
    """A courier that takes everything."""

    def __init__(self) -> None:
        self.took: list[tuple[str, str]] = []

    def leads_away(self, shard: int) -> bool:
        return True

    async def deliver(self, shard: int, epoch: Epoch, luggage: Luggage) -> None:
        for piece in luggage.pieces(0.0):
            self.took += [(packed.type, packed.id) for packed in piece]


class Observed:
    """A `LatchObserver`."""

    def __init__(self) -> None:
        self.acquired_as: list[tuple[str, str]] = []
        self.waits: list[float] = []
        self.removed_by: list[str] = []

    def acquired(self, purpose: str, outcome: str, seconds: float) -> None:
        if purpose != "open":
            self.acquired_as.append((purpose, outcome))
            self.waits.append(seconds)

    def removed(self, how: str) -> None:
        self.removed_by.append(how)


@asynccontextmanager
async def at_work(
    *classes: type, node_type: type[Node] = Node, **options: Any
) -> AsyncIterator[Any]:
    observed = Observed()
    options = {"holds": HOLDS, "latch_observer": observed, **options}
    node = node_type(*classes, **options)
    node.latch_seen = observed
    await node.open_all()
    try:
        yield node
    finally:
        for zombie in zombies:
            zombie.free.set()
        zombies.clear()
        await turns_of_the_loop()
        await node.catalog.stop(0.0)
        await node.tasks.close()


async def close(node: Node, wanted_s: float = 0.0, shard: int = SHARD) -> bool:
    return await node.catalog.shards.close_shard(shard, drain_timeout_s=DRAIN_S, wanted_s=wanted_s)


def shard_now(node: Node, number: int = SHARD) -> Any:
    return next(s for s in node.catalog.snapshot().shards if s.number == number)


# -- the test that breaks the naive version


@virtual
async def test_L13_who_swallows_his_cancellation_reaches_nobody_once_the_shard_is_back() -> None:
    """He is removed, his shard goes at once and comes back under another epoch; then he wakes,
    calls, spawns and answers: all of that is refused, and the new life of the shard is not
    touched."""
    async with at_work(Thing, Zombie) as node:
        hung = node.send(make_call("Zombie", X, "hang", timeout_s=100))
        await turns_of_the_loop()
        assert value_of(await node.call("Thing", Y, "bump")) == 1
        assert await close(node) is False, "called off: it has not been wanted for long"
        await elapse(HOLDS.max_hold_s)
        assert await close(node, wanted_s=HOLDS.max_hold_s)
        assert node.latch_seen.removed_by == ["cancelled", "cut_loose"]
        assert node.latch_seen.waits[-1] == pytest.approx(GRACE_S, abs=0.1), "a second to obey"
        assert not hung.done()
        assert node.catalog.census.count_holders()[("cut_loose",)] == 1
        await node.catalog.shards.open_shard(SHARD, NEWER)
        assert value_of(await node.call("Thing", Y, "bump")) == 1  # alive under the new epoch
        before = shard_now(node)
        zombies[0].free.set()
        with pytest.raises(Unavailable, match="held") as caught:
            await hung
        assert caught.value.executed is Executed.UNKNOWN
        assert zombies[0].did == ["swallowed", "call refused", "spawn refused"]
        assert node.ids() == [Y], "nothing was called into being"
        assert shard_now(node) == before, "its end is not counted as that of somebody else"
        assert value_of(await node.call("Zombie", X, "bump")) == 1, "begins afresh"
        assert node.catalog.census.count_holders()[("cut_loose",)] == 0


class Kept(Zombie, durability="acknowledged"):
    """The same, of what the store keeps."""


@virtual
async def test_L13_nothing_of_a_removed_turn_reaches_the_store() -> None:
    store = MemoryStore(Runtime(random=random.Random(2)))
    options = {"store": store, "limits": LimitSettings(), "incarnation": "first"}
    async with at_work(Kept, Thing, node_type=DurableNode, **options) as node:
        node.durability.start()
        assert value_of(await node.call("Kept", X, "bump")) == 1
        hung = node.send(make_call("Kept", X, "hang", timeout_s=100))
        await elapse(HOLDS.max_hold_s)
        assert await close(node, wanted_s=HOLDS.max_hold_s)
        await node.catalog.shards.open_shard(SHARD, NEWER)
        zombies[0].free.set()
        with pytest.raises(Unavailable):
            await hung
        assert value_of(await node.call("Kept", X, "bump")) == 2, "not 102"
        stored = await node.stored("Kept", X)
        assert stored is not None and stored.version == 2
        await node.durability.close()


# -- who is removed, when


@virtual
async def test_a_turn_that_obeys_is_rolled_back_and_its_object_leaves_in_order() -> None:
    courier = Away()
    async with at_work(Thing, courier=courier) as node:
        await node.call("Thing", X, "bump")
        held = node.send(make_call("Thing", X, "hold", seconds=1000, timeout_s=2000))
        await elapse(HOLDS.max_hold_s)
        assert await close(node, wanted_s=HOLDS.max_hold_s)
        with pytest.raises(Unavailable, match=r"held shard 5 for .* handed over") as caught:
            await held
        assert caught.value.executed is Executed.UNKNOWN
        assert caught.value.details["rolled_back"] is True
        assert node.latch_seen.removed_by == ["cancelled"]
        assert node.latch_seen.acquired_as == [("hand_over", "forced")]
        assert courier.took == [("Thing", X)] and node.outcomes == {}


@virtual
async def test_a_removed_object_alone_begins_afresh() -> None:
    courier = Away()
    async with at_work(Thing, Zombie, courier=courier) as node:
        await node.call("Thing", Y, "bump")
        hung = node.send(make_call("Zombie", X, "hang", timeout_s=100))
        await elapse(HOLDS.max_hold_s)
        assert await close(node, wanted_s=HOLDS.max_hold_s)
        assert courier.took == [("Thing", Y)] and node.outcomes == {"cut_off": 1}
        zombies[0].free.set()
        with pytest.raises(Unavailable):
            await hung


@virtual
async def test_a_hold_counts_only_while_a_writer_waits() -> None:
    async with at_work(Thing) as node:
        held = node.send(make_call("Thing", X, "hold", seconds=1000, timeout_s=2000))
        await elapse(990)
        assert await close(node) is False
        assert node.latch_seen.acquired_as == [("close", "called_off")]
        assert node.latch_seen.waits == [pytest.approx(DRAIN_S, abs=0.1)]
        await elapse(7.0)
        assert await close(node, wanted_s=9.0)
        assert value_of(await held) == 1
        assert node.latch_seen.removed_by == []


@virtual
async def test_a_turn_younger_than_the_maximum_is_waited_for() -> None:
    """However long the shard has been wanted: it is sealed, and not called off any more."""
    async with at_work(Thing) as node:
        held = node.send(make_call("Thing", X, "hold", seconds=HOLDS.max_hold_s - 1, timeout_s=99))
        await turns_of_the_loop()
        closing = asyncio.ensure_future(close(node, wanted_s=300.0))
        await turns_of_the_loop()
        late = node.send(make_call("Thing", Y, "bump", timeout_s=99))
        assert await closing
        assert value_of(await held) == 1
        assert node.latch_seen.removed_by == []
        assert node.latch_seen.acquired_as == [("close", "acquired")]
        with pytest.raises(NotOwner) as caught:
            await late
        assert caught.value.executed is Executed.NO


@virtual
async def test_a_turn_that_its_deadline_did_not_end_is_cut_loose() -> None:
    async with at_work(Zombie, Thing) as node:
        hung = node.send(make_call("Zombie", X, "hang", timeout_s=3))
        await elapse(HOLDS.max_hold_s)
        assert await close(node, wanted_s=HOLDS.max_hold_s)
        assert zombies[0].did == ["swallowed"], "nobody is cancelled twice"
        zombies[0].free.set()
        with pytest.raises(goverse.DeadlineExceeded):
            await hung


@virtual
async def test_an_obedient_turn_that_ends_in_the_very_pass_keeps_its_reply() -> None:
    async with at_work(Thing) as node:
        held = node.send(make_call("Thing", X, "hold", seconds=HOLDS.max_hold_s, timeout_s=2000))
        await turns_of_the_loop()
        assert await close(node, wanted_s=HOLDS.max_hold_s)
        assert value_of(await held) == 1
        assert node.latch_seen.acquired_as == [("close", "acquired")]


class Wakes(goverse.Object):
    """Its hook swallows everything."""

    def __init__(self) -> None:
        zombies.append(self)
        self.free = asyncio.Event()

    async def on_activate(self) -> None:
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                pass

    @goverse.method
    async def go(self) -> None: ...


@virtual
async def test_a_hook_that_hangs_is_cut_loose_and_named() -> None:
    async with at_work(Wakes) as node:
        call = node.send(make_call("Wakes", X, "go", timeout_s=1000))
        await elapse(HOLDS.max_hold_s)
        (latch,) = node.catalog.census.latches(10)
        assert (latch.object, latch.method) == (f"Wakes/{X}", "on_activate")
        assert await close(node, wanted_s=HOLDS.max_hold_s)
        assert node.latch_seen.removed_by == ["cut_loose"]
        with pytest.raises(NotOwner) as caught:
            await call
        assert caught.value.executed is Executed.NO
        (latch,) = node.catalog.census.latches(10)
        assert (latch.state, latch.method) == ("cut_loose", "on_activate")


@virtual
async def test_the_next_life_of_a_hung_object_waits_and_holds_up_nobody() -> None:
    async with at_work(Zombie, Thing) as node:
        hung = node.send(make_call("Zombie", X, "hang", timeout_s=1000))
        await elapse(HOLDS.max_hold_s)
        assert await close(node, wanted_s=HOLDS.max_hold_s)
        await node.catalog.shards.open_shard(SHARD, NEWER)
        again = node.send(make_call("Zombie", X, "bump", timeout_s=1000))
        await elapse(HOLDS.max_hold_s)
        assert not again.done(), "turns of one object never overlap"
        assert value_of(await node.call("Thing", Y, "bump")) == 1
        assert await close(node, wanted_s=HOLDS.max_hold_s)
        with pytest.raises(NotOwner):
            await again
        await node.catalog.shards.open_shard(SHARD, Epoch(1, 300))
        again = node.send(make_call("Zombie", X, "bump", timeout_s=1000))
        await turns_of_the_loop()
        zombies[0].free.set()
        with pytest.raises(Unavailable):
            await hung
        assert value_of(await again) == 1


class Turning(goverse.Object, reentrancy="allow"):
    """Comes back to itself, and hangs there."""

    def __init__(self) -> None:
        zombies.append(self)
        self.free = asyncio.Event()

    @goverse.method
    async def around(self) -> None:
        await goverse.get(Turning, self.id).hang()

    @goverse.method
    async def hang(self) -> None:
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                pass


class Crowded(Turning, concurrent=True):
    @goverse.method
    async def around(self) -> None:
        await goverse.get(Crowded, self.id).hang()


@pytest.mark.parametrize("name", ["Turning", "Crowded"])
def test_turns_within_turns_are_counted_when_their_object_is_cut_loose(name: str) -> None:
    async def main(loop: SimLoop) -> None:
        async with at_work(Turning, Crowded, Thing) as node:
            hung = [node.send(make_call(name, X, "around", timeout_s=1000)) for _ in range(3)]
            await turns_of_the_loop()
            assert shard_now(node).holders == (4 if name == "Turning" else 6)
            await elapse(HOLDS.max_hold_s)
            closing = asyncio.ensure_future(close(node, wanted_s=HOLDS.max_hold_s))
            shard = node.catalog.shards.by_number[SHARD]
            assert await closing
            assert shard.holders == 0, "what held it holds it no more, each once"
            zombies[0].free.set()
            await asyncio.gather(*hung, return_exceptions=True)
            assert shard.holders == 0, "and is not given back twice"

    run_virtual(main)


# -- who wants it


@virtual
async def test_a_sealed_shard_admits_only_what_its_own_turns_wait_for() -> None:
    async with at_work(Thing) as node:
        inside = node.send(make_call("Thing", X, "visit", there=Y, seconds=3.0, timeout_s=100))
        outside = node.send(
            make_call("Thing", ELSEWHERE, "visit", there=Y, seconds=1.0, timeout_s=100)
        )
        closing = asyncio.ensure_future(close(node, wanted_s=300.0))
        assert await closing
        assert value_of(await inside) == 1
        # A node's router would ask the next owner.
        with pytest.raises(goverse.ObjectFailed, match="NotOwner"):
            await outside
        assert node.latch_seen.removed_by == []


@virtual
async def test_a_sealed_shard_is_had_however_late_a_holder_began() -> None:
    """It was called by a turn that ran there, so it was let in, and hangs longer than that."""

    class Late(Thing, name="Late"):
        @goverse.method
        async def go(self) -> None:
            await elapse(HOLDS.max_hold_s - 1)
            await goverse.get(Zombie, Y).hang()

    async with at_work(Late, Zombie, Thing) as node:
        call = node.send(make_call("Late", X, "go", timeout_s=1000))
        await turns_of_the_loop()
        assert await close(node, wanted_s=HOLDS.max_hold_s)
        assert node.latch_seen.waits == [pytest.approx(HOLDS.max_hold_s + GRACE_S, abs=0.1)]
        # Who awaits a task that swallows its cancellation is not cancelled either.
        assert node.latch_seen.removed_by == ["cancelled", "cut_loose", "cut_loose"]
        zombies[0].free.set()
        with pytest.raises(Unavailable):
            await call


@virtual
async def test_L14_turns_of_two_sealed_shards_that_wait_for_each_other_end() -> None:
    """Each holds back the call that the other's turn waits for: neither is ever quiet by itself."""
    async with at_work(Thing) as node:
        calls = []
        for here, there in ((SHARD, SHARD + 1), (SHARD + 1, SHARD)):
            call = make_call("Thing", on(here, "a"), "visit", there=on(there, "b"), seconds=1.0)
            call.deadline += 1000
            calls.append(node.send(call))
        closing = [
            asyncio.ensure_future(close(node, wanted_s=300.0, shard=shard))
            for shard in (SHARD, SHARD + 1)
        ]
        assert await asyncio.gather(*closing) == [True, True]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, Unavailable | NotOwner) for result in results)


@virtual
async def test_a_writer_that_is_called_off_leaves_no_trace() -> None:
    async with at_work(Thing) as node:
        held = node.send(make_call("Thing", X, "hold", seconds=20.0, timeout_s=100))
        await turns_of_the_loop()
        closing = asyncio.ensure_future(close(node))
        await turns_of_the_loop()
        (latch,) = node.catalog.census.latches(10)
        assert (latch.state, latch.purpose, latch.holders) == ("draining", "close", 1)
        assert node.catalog.census.count_writers()[("close",)] == 1
        assert await closing is False
        (latch,) = node.catalog.census.latches(10)
        assert (latch.state, latch.purpose, latch.holders) == ("open", "", 1)
        assert node.catalog.census.count_writers()[("close",)] == 0
        closing = asyncio.ensure_future(close(node))
        await turns_of_the_loop()
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        assert node.latch_seen.acquired_as == [("close", "called_off"), ("close", "cancelled")]
        assert value_of(await held) == 1


@virtual
async def test_the_end_of_the_lease_ends_the_wait_of_a_writer() -> None:
    async with at_work(Thing) as node:
        held = node.send(make_call("Thing", X, "hold", seconds=20.0, timeout_s=100))
        await turns_of_the_loop()
        closing = asyncio.ensure_future(close(node, wanted_s=300.0))
        await turns_of_the_loop()
        node.catalog.shards.discard_all("the lease is lost")
        assert await closing
        assert node.latch_seen.acquired_as == [("close", "lost")]
        with pytest.raises(Fenced):
            await held


@virtual
async def test_the_end_of_the_process_takes_over_from_a_patient_writer() -> None:
    async with at_work(Thing) as node:
        held = node.send(make_call("Thing", X, "hold", seconds=500.0, timeout_s=1000))
        await turns_of_the_loop()
        closing = asyncio.ensure_future(close(node, wanted_s=300.0))
        await turns_of_the_loop()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await node.catalog.stop(0.5)
        assert loop.time() - began < 2.0
        with pytest.raises(Unavailable):
            await held
        await closing


# -- what is told


def test_L37_a_holder_is_named_while_a_writer_waits_and_only_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(loop: SimLoop) -> None:
        async with at_work(Thing) as node:
            call = make_call("Thing", X, "hold", seconds=500.0, timeout_s=1000)
            held = node.send(call)
            others = [
                node.send(make_call("Thing", on(n, "o"), "hold", seconds=500.0, timeout_s=1000))
                for n in (1, 2, 3)
            ]
            await elapse(100.0)
            assert caplog.records == []
            shards = (SHARD, 1, 2, 3)
            assert not any(await asyncio.gather(*(close(node, shard=n) for n in shards)))
            told = [record.getMessage() for record in caplog.records]
            assert len(told) <= 2, "one line a second, whatever waits"
            assert f"Thing/{X}.hold" in told[0] and "101.0 s" in told[0]
            assert caplog.records[0].method == "hold"  # type: ignore[attr-defined]
            held.cancel()
            for other in others:
                other.cancel()
            await asyncio.gather(held, *others, return_exceptions=True)

    with caplog.at_level(logging.WARNING, "goverse.objects"):
        run_virtual(main)


def test_L37_shards_that_are_wanted_come_first_then_those_held_longest() -> None:
    async def main(loop: SimLoop) -> None:
        async with at_work(Thing) as node:
            calls = []
            for shard in (1, 2, 3):
                calls.append(
                    node.send(make_call("Thing", on(shard, "t"), "hold", seconds=9.0, timeout_s=99))
                )
                await elapse(1.0)
            closing = asyncio.ensure_future(close(node, shard=3))
            await elapse(0.5)
            found = node.catalog.census.latches(10)
            assert [latch.shard for latch in found] == [3, 1, 2]
            assert [round(latch.age_s, 1) for latch in found] == [1.5, 3.5, 2.5]
            wanted = found[0]
            assert (wanted.purpose, wanted.object, wanted.method) == (
                "close",
                f"Thing/{on(3, 't')}",
                "hold",
            )
            assert wanted.waits_s == pytest.approx(0.5, abs=0.1)
            assert [latch.shard for latch in node.catalog.census.latches(1)] == [3]
            assert node.catalog.census.count_holders() == {
                ("opening",): 0,
                ("open",): 2,
                ("draining",): 1,
                ("leaving",): 0,
                ("cut_loose",): 0,
            }
            await asyncio.gather(closing, *calls)

    run_virtual(main)


def test_L29_what_was_cut_loose_is_forgotten_once_it_has_ended() -> None:
    async def main(loop: SimLoop) -> None:
        async with at_work(Zombie, Thing) as node:
            for round in range(5):
                hung = node.send(make_call("Zombie", X, "hang", timeout_s=1000))
                await elapse(HOLDS.max_hold_s)
                assert await close(node, wanted_s=HOLDS.max_hold_s)
                assert len(node.catalog.shards.holders._loose) == 1
                zombies[-1].free.set()
                await asyncio.gather(hung, return_exceptions=True)
                await node.catalog.shards.open_shard(SHARD, Epoch(1, 200 + round))
            assert node.catalog.census.latches(10) == ()

    run_virtual(main)
