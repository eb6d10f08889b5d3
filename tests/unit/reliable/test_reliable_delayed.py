"""Delayed and repeated calls: in time, once, and not lost with their owner."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import msgspec
import pytest
from objects_kit import make_call, turns_of_the_loop, value_of
from reliable_kit import ReliableNode, reliable

import goverse
from goverse.aio.runtime import Runtime
from goverse.call import Verb
from goverse.config.settings import LimitSettings
from goverse.errors import Conflict, FailedPrecondition, InvalidArgument, Unavailable
from goverse.ids import Epoch
from goverse.objects.timing import Schedule, When
from goverse.reliable.interventions import Changed, decode_changed
from goverse.storage.memory import MemoryStore
from goverse.storage.values import CallStatus, CatchUp, StoredCall
from tests.support.eventually import eventually

OLD, NEW = Epoch(1, 100), Epoch(1, 200)


class Wall:
    """A store's clock, which a test sets."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.now = time.monotonic

    def wall(self) -> float:
        return time.time() + self.ahead_s


class Meter(goverse.Object, durability="acknowledged"):
    ticks: list[int] = []
    reminder: str = ""

    @goverse.method
    async def tick(self, number: int = 0) -> int:
        self.ticks.append(number)
        if gates:
            await gates[-1].wait()
        return len(self.ticks)

    @goverse.method
    async def fail(self) -> None:
        self.ticks.append(0)
        raise goverse.ApplicationError("no", "not today")

    @goverse.method
    async def later(self, number: int, delay_s: float) -> str:
        return goverse.issue(goverse.get(Meter, self.id).tick(number=number), delay_s=delay_s)

    @goverse.method
    async def watch(self, every_s: float) -> str:
        self.reminder = goverse.issue(goverse.get(Meter, self.id).tick(), every_s=every_s)
        return self.reminder

    @goverse.method
    async def forget(self) -> None:
        goverse.cancel(goverse.get(Meter, self.id), self.reminder)
        self.reminder = ""

    @goverse.method
    async def think_again(self) -> str:
        me = goverse.get(Meter, self.id)
        call_id = goverse.issue(me.tick(), delay_s=0.05)
        goverse.cancel(me, call_id)
        return call_id

    @goverse.method
    async def wrong(self, what: str) -> None:
        me = goverse.get(Meter, self.id)
        if what == "both":
            goverse.issue(me.tick(), run_at=5.0, delay_s=5.0)
        elif what == "expiry":
            goverse.issue(me.tick(), every_s=1.0, expires_after_s=5.0)
        elif what == "policy":
            goverse.issue(me.tick(), every_s=1.0, catch_up="some")
        elif what == "short":
            goverse.issue(me.tick(), every_s=0.001)
        else:
            goverse.issue(me.tick(), delay_s=float("nan"))

    @goverse.method(read_only=True)
    async def seen(self) -> list[int]:
        return self.ticks


gates: list[asyncio.Event] = []


@pytest.fixture(autouse=True)
def no_gates() -> None:
    gates.clear()


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def store(wall: Wall) -> MemoryStore:
    return MemoryStore(Runtime(clock=wall, random=random.Random(2)))


def scheduled(
    call_id: str, id: str = "m", method: str = "tick", *, when: When, **arguments: Any
) -> Any:
    payload = msgspec.msgpack.encode(Schedule(msgspec.msgpack.encode(arguments), when))
    return make_call("Meter", id, method, call_id=call_id, verb=Verb.SCHEDULE, payload=payload)


async def schedule(node: ReliableNode, call_id: str, id: str = "m", **more: Any) -> None:
    await node.catalog.invoke(scheduled(call_id, id, **more))


async def cancel(node: ReliableNode, call_id: str, id: str = "m") -> Changed:
    reply = await node.catalog.invoke(make_call("Meter", id, "", call_id=call_id, verb=Verb.CANCEL))
    return decode_changed(reply.payload)


async def seen(node: ReliableNode, id: str = "m") -> list[int]:
    return list(value_of(await node.call("Meter", id, "seen")))


async def until_seen(node: ReliableNode, count: int, id: str = "m") -> list[int]:
    await eventually(lambda: count_of(node, id) >= count)
    return await seen(node, id)


def count_of(node: ReliableNode, id: str) -> int:
    activation = node.catalog._activations.get(("Meter", id))
    return len(activation.instance.ticks) if activation is not None else 0


async def row(node: ReliableNode, call_id: str) -> StoredCall:
    found = await node.row(call_id)
    assert found is not None
    return found


async def status(node: ReliableNode, call_id: str) -> CallStatus:
    return (await row(node, call_id)).status


async def until_status(node: ReliableNode, call_id: str, wanted: CallStatus) -> None:
    async def there() -> bool:
        return await status(node, call_id) is wanted

    await eventually(there)


# ---- once


async def test_a_call_from_outside_is_told_once_it_is_accepted(store: MemoryStore) -> None:
    async with reliable(Meter, store=store) as node:
        await schedule(node, "s1", when=When(delay_s=0.05), number=7)
        assert await status(node, "s1") is CallStatus.DELAYED
        assert await seen(node) == []
        # Whoever calls under the same id waits for its outcome.
        assert await node.do("s1", "Meter", "m", "tick", number=7) == 1
        found = await row(node, "s1")
        assert found.status is CallStatus.SUCCESS and found.seq > 0
        assert found.call.timing is not None and found.finished_at is not None
        assert found.finished_at >= found.call.timing.run_at
        assert await seen(node) == [7]
        assert "late" in node.told.seen
        await schedule(node, "s1", when=When(delay_s=0.0), number=7)
        with pytest.raises(Conflict):
            await schedule(node, "s1", when=When(delay_s=0.0), number=8)
        assert await seen(node) == [7]


async def test_what_was_due_long_ago_runs_at_once(store: MemoryStore, wall: Wall) -> None:
    async with reliable(Meter, store=store) as node:
        await schedule(node, "s1", when=When(run_at=wall.wall() - 3600.0))
        assert await until_seen(node, 1) == [0]


async def test_a_turn_issues_a_call_for_later(store: MemoryStore) -> None:
    async with reliable(Meter, store=store) as node:
        call_id = value_of(await node.call("Meter", "m", "later", number=5, delay_s=0.05))
        await eventually(lambda: node.told.seen.count("delivered") == 1)
        assert await status(node, call_id) is CallStatus.DELAYED
        assert await until_seen(node, 1) == [5]
        await until_status(node, call_id, CallStatus.SUCCESS)


async def test_what_cannot_be_meant_is_refused(store: MemoryStore) -> None:
    async with reliable(Meter, store=store) as node:
        for what in ("both", "expiry", "policy", "short", "nan"):
            with pytest.raises(goverse.ObjectFailed):
                await node.call("Meter", "m", "wrong", what=what)
        for when in (When(), When(1.0, 1.0), When(every_s=0.001), When(delay_s=-1.0),
                     When(delay_s=1.0, catch_up="some"), When(run_at=float("inf"))):  # fmt: skip
            with pytest.raises(InvalidArgument):
                await schedule(node, "s1", when=when)
        call = make_call("Meter", "m", "tick", call_id="s1", verb=Verb.SCHEDULE, payload=b"\xc1")
        with pytest.raises(InvalidArgument, match="no delayed call"):
            await node.catalog.invoke(call)
        assert await node.row("s1") is None


# ---- repeated


async def test_a_reminder_ticks_until_it_is_forgotten(store: MemoryStore) -> None:
    async with reliable(Meter, store=store) as node:
        call_id = value_of(await node.call("Meter", "m", "watch", every_s=0.02))
        await until_seen(node, 4)
        await node.call("Meter", "m", "forget")
        await until_status(node, call_id, CallStatus.SKIPPED)
        found = await row(node, call_id)
        assert found.reason == "cancelled"
        assert node.reliability.snapshot().entries == 0
        await eventually(lambda: node.reliability.snapshot().delayed == 0)


async def test_a_failed_tick_does_not_end_the_others(store: MemoryStore) -> None:
    async with reliable(Meter, store=store) as node:
        await schedule(node, "s1", when=When(every_s=0.02), method="fail")
        await eventually(lambda: node.told.seen.count("failed") >= 3)
        found = await row(node, "s1")
        assert found.last_tick is CallStatus.FAILED and found.result is not None
        changed = await cancel(node, "s1")
        assert changed.status in ("skipped", "failed")
        assert await seen(node) == []


async def test_a_slow_tick_holds_up_the_next_and_never_overlaps(store: MemoryStore) -> None:
    gates.append(asyncio.Event())
    async with reliable(Meter, store=store) as node:
        await schedule(node, "s1", when=When(delay_s=0.0, every_s=0.02))
        await eventually(lambda: count_of(node, "m") == 1)
        found = await row(node, "s1")
        first = found.call.timing
        assert first is not None and found.status is CallStatus.PENDING
        # Several periods go by while it runs.
        await eventually(lambda: node.store is store and time.time() > first.run_at + 0.1)
        assert count_of(node, "m") == 1
        gates[-1].set()
        await until_seen(node, 2)
        assert any(told.endswith("left out") for told in node.told.seen)


@pytest.mark.parametrize(
    ("policy", "least", "most"), [(CatchUp.EACH, 11, 11), (CatchUp.ONE, 1, 1), (CatchUp.NONE, 0, 0)]
)
async def test_missed_ticks_are_caught_up_as_the_policy_says(
    store: MemoryStore, wall: Wall, policy: CatchUp, least: int, most: int
) -> None:
    """Nobody owned the object for ten and a half periods."""
    every_s = 600.0
    async with reliable(Meter, store=store, epoch=OLD) as node:
        await schedule(node, "s1", when=When(every_s=every_s, catch_up=policy.value))
        first = (await row(node, "s1")).call.timing
        assert first is not None
    wall.ahead_s = 11.5 * every_s
    async with reliable(Meter, store=store, epoch=NEW, incarnation="second") as node:
        # The next one, which is not missed, is the sign that the others are over.
        upcoming = first.run_at + 11 * every_s

        async def at_the_next() -> StoredCall:
            found = await row(node, "s1")
            assert found.call.timing is not None and found.status is CallStatus.DELAYED
            assert found.call.timing.run_at == pytest.approx(upcoming, abs=1e-3)
            return found

        await eventually(at_the_next)
        assert least <= len(await seen(node)) <= most


async def test_an_hour_of_missed_ticks_is_bounded(store: MemoryStore, wall: Wall) -> None:
    limits = LimitSettings(max_missed_ticks=20)
    async with reliable(Meter, store=store, epoch=OLD) as node:
        await schedule(node, "s1", when=When(every_s=0.1, delay_s=60.0, catch_up="each"))
    wall.ahead_s = 3660.0  # 36,000 ticks
    async with reliable(Meter, store=store, epoch=NEW, incarnation="second", limits=limits) as node:
        await until_seen(node, 10)
        assert node.reliability.snapshot().entries <= 1
        assert node.reliability.snapshot().delayed <= 1
        await until_seen(node, 21)
        left_out = [int(t.split()[0]) for t in node.told.seen if t.endswith("left out")]
        assert left_out[0] == pytest.approx(35_980, abs=20)


# ---- cancelling


async def test_a_cancelled_call_never_runs(store: MemoryStore) -> None:
    async with reliable(Meter, store=store) as node:
        await schedule(node, "s1", when=When(delay_s=0.05))
        assert (await cancel(node, "s1")).status == "skipped"
        await schedule(node, "s2", when=When(delay_s=0.1))
        await until_status(node, "s2", CallStatus.SUCCESS)
        assert len(await seen(node)) == 1
        assert (await cancel(node, "s2")).status == "success"
        with pytest.raises(FailedPrecondition):
            await node.do("s1", "Meter", "m", "tick")
        # An id that nobody knows can never run afterwards.
        assert (await cancel(node, "s3")).status == "skipped"
        await schedule(node, "s3", when=When(delay_s=0.0))
        assert await status(node, "s3") is CallStatus.SKIPPED
        with pytest.raises(Conflict):
            await cancel(node, "s3", "other")


async def test_whoever_waits_is_told_that_it_was_cancelled(store: MemoryStore) -> None:
    async with reliable(Meter, store=store) as node:
        await schedule(node, "s1", when=When(delay_s=60.0))
        waiting = node.do("s1", "Meter", "m", "tick")
        await eventually(lambda: node.reliability.snapshot().entries == 1)
        await cancel(node, "s1")
        with pytest.raises(FailedPrecondition, match="cancelled"):
            await waiting


async def test_the_tick_that_runs_when_it_is_cancelled_is_the_last(store: MemoryStore) -> None:
    gates.append(asyncio.Event())
    async with reliable(Meter, store=store) as node:
        await schedule(node, "s1", when=When(delay_s=0.0, every_s=0.02))
        await eventually(lambda: count_of(node, "m") == 1)
        cancelling = asyncio.ensure_future(cancel(node, "s1"))
        await turns_of_the_loop()
        assert not cancelling.done()
        gates[-1].set()
        assert (await cancelling).status == "success"
        assert await status(node, "s1") is CallStatus.SUCCESS
        assert await seen(node) == [0]


async def test_issued_and_cancelled_in_one_turn(store: MemoryStore) -> None:
    async with reliable(Meter, store=store) as node:
        call_id = value_of(await node.call("Meter", "m", "think_again"))
        await until_status(node, call_id, CallStatus.SKIPPED)
        assert await seen(node) == []


async def test_L09_what_is_delayed_goes_with_its_object(store: MemoryStore) -> None:
    async with reliable(Meter, store=store) as node:
        await node.call("Meter", "m", "tick")
        await schedule(node, "s1", when=When(delay_s=0.05))
        await schedule(node, "s2", when=When(every_s=0.05))
        await node.catalog.invoke(make_call("Meter", "m", "", verb=Verb.DELETE))
        for call_id in ("s1", "s2"):
            assert (await row(node, call_id)).reason == "deleted"
        await schedule(node, "s3", when=When(delay_s=0.1), number=3)
        assert await until_seen(node, 1) == [3]


# ---- owners, store and clocks


async def test_the_next_owner_goes_on(store: MemoryStore) -> None:
    async with reliable(Meter, store=store, epoch=OLD) as old:
        for n in range(20):
            await schedule(old, f"s{n}", f"m{n}", when=When(delay_s=0.15))
        await schedule(old, "far", "far", when=When(delay_s=3600.0))
        async with reliable(Meter, store=store, epoch=NEW, incarnation="second") as new:
            for n in range(20):
                await until_status(new, f"s{n}", CallStatus.SUCCESS)
                assert await seen(new, f"m{n}") == [0]
                assert count_of(old, f"m{n}") == 0
            assert await status(new, "far") is CallStatus.DELAYED


async def test_due_while_the_shard_moves_it_waits_for_the_next_owner(store: MemoryStore) -> None:
    async with reliable(Meter, store=store, epoch=OLD) as old:
        await schedule(old, "s1", when=When(delay_s=0.05))
        old.catalog.shards.discard_all("the lease ended")
        await eventually(lambda: old.reliability.snapshot().delayed == 0)
        async with reliable(Meter, store=store, epoch=NEW, incarnation="second") as new:
            assert await until_seen(new, 1) == [0]


async def test_L27_the_store_is_away_when_it_is_due(store: MemoryStore) -> None:
    async with reliable(Meter, store=store) as node:
        await schedule(node, "s1", when=When(delay_s=0.03))
        await schedule(node, "s2", "n", when=When(every_s=0.03))
        node.wire.away = True
        requests = node.wire.requests
        await eventually(lambda: node.wire.requests > requests + 3)
        assert node.wire.requests < requests + 100
        node.wire.away = False
        assert await until_seen(node, 1) == [0]
        await until_seen(node, 2, "n")


@pytest.mark.parametrize("plan", ["do and lose the answer", "hold and lose the answer"])
async def test_whether_it_became_due_is_not_known(store: MemoryStore, plan: str) -> None:
    async with reliable(Meter, store=store) as node:
        await schedule(node, "s1", when=When(delay_s=0.03), number=1)
        make_due = node.client.make_due

        async def planned(steps: Any) -> Any:
            node.wire.plans = [plan]
            node.client.make_due = make_due
            return await make_due(steps)

        node.client.make_due = planned
        await until_seen(node, 1)
        node.wire.deliver()
        await until_status(node, "s1", CallStatus.SUCCESS)
        assert await seen(node) == [1]


async def test_a_clock_that_goes_back_runs_nothing_early(store: MemoryStore, wall: Wall) -> None:
    async with reliable(Meter, store=store) as node:
        began = time.monotonic()
        await schedule(node, "s1", when=When(delay_s=0.05))
        await schedule(node, "s2", "n", when=When(every_s=0.05))
        due_at = (await row(node, "s1")).call.timing
        wall.ahead_s = -3600.0
        requests = node.wire.requests
        clock = node.reliability._delays.clock
        await eventually(lambda: clock.now() < time.time() - 3000)
        assert await status(node, "s1") is CallStatus.DELAYED
        assert (await row(node, "s1")).call.timing == due_at
        assert await status(node, "s2") is CallStatus.DELAYED
        assert node.wire.requests < requests + 60  # and does not ask all the time
        assert "left out" not in " ".join(node.told.seen)
        wall.ahead_s = 0.0
        node.reliability._delays.look_again()
        assert await until_seen(node, 1) == [0]
        # At most those of the time that has passed, and none of the hour that has not.
        left_out = [int(told.split()[0]) for told in node.told.seen if told.endswith("left out")]
        assert sum(left_out) <= (time.monotonic() - began) / 0.05


async def test_a_clock_that_leaps_ahead_is_noticed(store: MemoryStore, wall: Wall) -> None:
    async with reliable(Meter, store=store) as node:
        await schedule(node, "s1", when=When(delay_s=600.0))
        wall.ahead_s = 3600.0
        node.reliability._delays.look_again()  # as it does by itself, twice in a horizon
        assert await until_seen(node, 1) == [0]


async def test_L29_only_what_is_due_next_is_in_memory(store: MemoryStore) -> None:
    limits = LimitSettings(max_delayed_calls=8)
    async with reliable(Meter, store=store, limits=limits) as node:
        for n in range(60):
            await schedule(node, f"s{n}", f"m{n % 5}", when=When(delay_s=0.1 + n * 0.002))
            assert node.reliability.snapshot().delayed <= 8
            assert node.reliability.snapshot().entries <= 8
        for n in range(60):
            await until_status(node, f"s{n}", CallStatus.SUCCESS)
        assert sum([len(await seen(node, f"m{n}")) for n in range(5)]) == 60


async def test_a_call_that_is_due_waits_for_room(store: MemoryStore) -> None:
    limits = LimitSettings(max_reliable_calls=2)
    gates.append(asyncio.Event())
    async with reliable(Meter, store=store, limits=limits) as node:
        for n in range(2):
            await schedule(node, f"s{n}", f"m{n}", when=When(delay_s=0.0))
            await eventually(lambda n=n: count_of(node, f"m{n}") == 1)
        # There is no room for another, and so none to accept it; one is made due later.
        with pytest.raises(goverse.Overloaded):
            await schedule(node, "s2", "m2", when=When(delay_s=0.0))
        gates[-1].set()
        await until_status(node, "s1", CallStatus.SUCCESS)
        await schedule(node, "s2", "m2", when=When(delay_s=0.0))
        await until_status(node, "s2", CallStatus.SUCCESS)


async def test_a_shard_that_is_not_here_says_so(store: MemoryStore) -> None:
    async with reliable(Meter, store=store) as node:
        node.wire.away = True
        with pytest.raises(Unavailable):
            await schedule(node, "s1", when=When(delay_s=0.0))
        node.wire.away = False
        assert await node.row("s1") is None
