"""Durable objects: what is answered is stored, and what is not stored is not seen."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from durable_kit import DurableNode, durable
from objects_kit import EPOCH, make_call, turns_of_the_loop, value_of

import goverse
from goverse.aio.runtime import Runtime
from goverse.call import ChainEntry, Receiver, Reply, Verb
from goverse.config.settings import LimitSettings
from goverse.errors import (
    Conflict,
    DeadlineExceeded,
    Executed,
    GoverseError,
    NotOwner,
    ObjectFailed,
    Overloaded,
    Unavailable,
)
from goverse.ids import Epoch, ObjectId
from goverse.storage.memory import MemoryStore
from goverse.storage.values import Act, ObjectCommit, State
from goverse.testing.loop import run_virtual
from tests.support.eventually import eventually


class Counter(goverse.Object, durability="acknowledged"):
    value: int = 0

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @goverse.method
    async def add_slowly(self, amount: int = 1) -> int:
        self.value += amount
        await turns_of_the_loop(1)
        return self.value

    @goverse.method(read_only=True)
    async def get(self) -> int:
        return self.value

    @goverse.method
    async def fail(self) -> None:
        self.value += 1000
        raise goverse.ApplicationError("no", "on purpose")

    @goverse.method(rollback=False)
    async def fail_and_keep(self) -> None:
        self.value += 1000
        raise goverse.ApplicationError("no", "on purpose")

    @goverse.method
    async def tell(self, other: str) -> int:
        return await goverse.get(Counter, other).get()


class Lazy(goverse.Object, durability="interval", commit_interval_s=3600.0):
    value: int = 0
    deactivated: bool = False

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    async def on_deactivate(self) -> None:
        self.deactivated = True


class Born(goverse.Object, durability="acknowledged"):
    steps: list[str] = []

    async def on_activate(self) -> None:
        self.steps.append("activated")

    @goverse.method(read_only=True)
    async def get(self) -> list[str]:
        return self.steps


class Told:
    """A receiver of a forwarded call."""

    def __init__(self) -> None:
        self.outcomes: list[Reply | Exception] = []

    def succeed(self, reply: Reply) -> None:
        self.outcomes.append(reply)

    def fail(self, error: Exception) -> None:
        self.outcomes.append(error)


async def value_in_store(node: DurableNode, id: str, type_name: str = "Counter") -> Any:
    """What a process that begins afresh would find."""
    row = await node.stored(type_name, id)
    if row is None or row.state is None:
        return None
    fresh = Counter() if type_name == "Counter" else Lazy()
    assert type(fresh).__goverse__.stored is not None
    type(fresh).__goverse__.stored.unpack(row.state, fresh)
    return fresh.value


async def test_L11_an_answered_change_is_stored_before_the_answer() -> None:
    async with durable(Counter) as node:
        for expected in (5, 10):
            assert await node.get(Counter, "a").add(5) == expected
            assert await value_in_store(node, "a") == expected


async def test_a_successor_goes_on_where_the_store_is() -> None:
    store = MemoryStore(Runtime())
    async with durable(Counter, store=store) as first:
        await first.get(Counter, "a").add(5)
        async with durable(Counter, store=store, epoch=Epoch(1, 200), incarnation="2") as second:
            assert await second.get(Counter, "a").add(1) == 6
            with pytest.raises(Unavailable) as refused:
                await first.get(Counter, "a").add(100)
            assert refused.value.executed is Executed.UNKNOWN
            assert refused.value.details["rolled_back"] is True
            assert await second.get(Counter, "a").get() == 6


@pytest.mark.parametrize("method", ["add", "add_slowly"])
async def test_a_reply_waits_for_its_commit_and_so_does_whoever_reads(method: str) -> None:
    async with durable(Counter) as node:
        await node.get(Counter, "a").get()
        node.wire.plans = ["wait"]
        writing = node.call("Counter", "a", method, amount=5)
        await turns_of_the_loop()
        reading = node.call("Counter", "a", "get")
        failing = node.call("Counter", "a", "fail")
        await turns_of_the_loop()
        assert not (writing.done() or reading.done() or failing.done())
        node.wire.gate.set()
        assert value_of(await writing) == value_of(await reading) == 5
        with pytest.raises(goverse.ApplicationError):
            await failing
        assert await value_in_store(node, "a") == 5


async def test_turns_do_not_wait_for_the_commit_of_those_before() -> None:
    async with durable(Counter) as node:
        await node.get(Counter, "a").get()
        node.wire.plans = ["wait"]
        calls = [node.call("Counter", "a", "add") for _ in range(100)]
        await turns_of_the_loop()
        assert node.catalog.census.objects()[0].running == 0
        node.wire.gate.set()
        assert [value_of(await call) for call in calls] == list(range(1, 101))
        assert sum(node.counted.batches) <= 3, "a hundred turns in two commits or three"


async def test_what_only_reads_writes_nothing() -> None:
    async with durable(Counter) as node:
        assert await node.get(Counter, "a").get() == 0
        assert await node.get(Counter, "a").add(0) == 0
        with pytest.raises(goverse.ApplicationError):
            await node.get(Counter, "a").fail()
        assert await node.stored("Counter", "a") is None
        assert node.counted.batches == []


async def test_L10_a_failed_turn_is_not_stored_unless_its_class_asks_for_that() -> None:
    async with durable(Counter) as node:
        await node.get(Counter, "a").add(1)
        with pytest.raises(goverse.ApplicationError):
            await node.get(Counter, "a").fail()
        assert await value_in_store(node, "a") == 1
        with pytest.raises(goverse.ApplicationError):
            await node.get(Counter, "a").fail_and_keep()
        assert await value_in_store(node, "a") == 1001


async def test_an_outgoing_call_waits_for_the_turns_before_it() -> None:
    async with durable(Counter) as node:
        await node.get(Counter, "a").get()
        await node.get(Counter, "b").get()
        node.sent.clear()
        node.wire.plans = ["wait"]
        node.call("Counter", "a", "add")
        await turns_of_the_loop()
        telling = node.call("Counter", "a", "tell", other="b")
        await turns_of_the_loop()
        assert node.sent == []
        node.wire.gate.set()
        assert value_of(await telling) == 0


async def test_a_refused_commit_discards_everything_that_built_on_it() -> None:
    async with durable(Counter) as node:
        await node.get(Counter, "a").add(1)
        id = ObjectId("Counter", "a")
        other = node.store.connect()
        fence = node.fence("a")
        stored = await node.stored("Counter", "a")
        assert stored is not None and stored.state is not None
        node.wire.plans = ["wait"]
        calls = [node.call("Counter", "a", "add") for _ in range(3)]
        await turns_of_the_loop()
        await other.commit([ObjectCommit(fence, id, 1, stored.state)])
        node.wire.gate.set()
        for call in calls:
            with pytest.raises(Unavailable) as refused:
                await call
            assert refused.value.details["rolled_back"] is True
        assert await node.get(Counter, "a").get() == 1


@pytest.mark.parametrize("plan", ["do and lose the answer", "hold and lose the answer"])
async def test_an_unknown_outcome_is_settled_before_anybody_is_told(plan: str) -> None:
    async with durable(Counter) as node:
        await node.get(Counter, "a").get()
        node.wire.plans = [plan]
        assert await node.get(Counter, "a").add(5) == 5
        node.wire.deliver()
        assert await node.get(Counter, "a").add(5) == 10
        assert await value_in_store(node, "a") == 10


async def test_a_deadline_ends_the_wait_for_a_commit_and_says_unknown() -> None:
    async with durable(Counter) as node:
        await node.get(Counter, "a").get()
        node.wire.away = True
        with pytest.raises(DeadlineExceeded) as late:
            await node.send(make_call("Counter", "a", "add_slowly", timeout_s=0.05))
        assert late.value.executed is Executed.UNKNOWN
        node.wire.away = False
        assert await node.get(Counter, "a").get() == 1


async def test_a_store_that_is_away_fails_new_objects_with_unavailable_and_heals() -> None:
    async with durable(Counter) as node:
        node.wire.away = True
        call = node.call("Counter", "a", "add")
        await turns_of_the_loop()
        assert not call.done()
        node.wire.away = False
        assert value_of(await call) == 1


async def test_too_many_uncommitted_turns_are_refused_before_they_begin() -> None:
    async with durable(Counter, limits=LimitSettings(max_uncommitted_turns=3)) as node:
        await node.get(Counter, "a").get()
        node.wire.plans = ["wait"]
        calls = [node.call("Counter", "a", "add") for _ in range(5)]
        await turns_of_the_loop()
        refused = [call for call in calls if call.done()]
        assert len(refused) == 2
        limits = {limit.name: limit for limit in node.catalog.limits()}
        turns = limits["object.uncommitted_turns"]
        assert (turns.used, turns.most) == (3, 3)
        for call in refused:
            with pytest.raises(Overloaded) as full:
                await call
            assert full.value.executed is Executed.NO
        node.wire.gate.set()
        await asyncio.gather(*calls, return_exceptions=True)
        assert await value_in_store(node, "a") == 3


async def test_objects_that_wait_to_be_loaded_have_a_limit() -> None:
    async with durable(Counter, limits=LimitSettings(max_waiting_calls=3)) as node:
        node.wire.plans = ["wait"]
        first = node.call("Counter", "o0", "get")
        await turns_of_the_loop()
        waiting = [node.call("Counter", f"o{number}", "get") for number in range(1, 4)]
        await turns_of_the_loop()
        (loads,) = (one for one in node.durability.limits() if one.name == "durability.loads")
        assert (loads.used, loads.most) == (3, 3)
        with pytest.raises(Overloaded) as full:
            await node.get(Counter, "o9").get()
        assert full.value.executed is Executed.NO
        node.wire.gate.set()
        assert [value_of(await call) for call in [first, *waiting]] == [0, 0, 0, 0]
        assert not any(one.used for one in node.durability.limits())


async def test_L09_deleting_reaches_what_is_not_active_and_what_was_never_saved() -> None:
    store = MemoryStore(Runtime())
    async with durable(Counter, store=store) as node:
        await node.send(make_call("Counter", "never", "", verb=Verb.DELETE))
        await node.get(Counter, "a").add(5)
        await node.reopen(Epoch(1, 150))
        assert node.ids() == []
        await node.send(make_call("Counter", "a", "", verb=Verb.DELETE))
        assert await node.stored("Counter", "a") is None
        assert await node.get(Counter, "a").get() == 0


@pytest.mark.parametrize(
    ("plan", "value"), [("hold and lose the answer", 6), ("do and lose the answer", 1)]
)
async def test_nothing_is_read_of_an_object_whose_deletion_is_not_settled(
    plan: str, value: int
) -> None:
    async with durable(Counter) as node:
        await node.get(Counter, "a").add(5)
        node.wire.plans = [plan, "refuse", "refuse"]
        deleting = node.send(make_call("Counter", "a", "", verb=Verb.DELETE, timeout_s=0.05))
        with pytest.raises(DeadlineExceeded):
            await deleting
        assert await node.get(Counter, "a").add(1) == value
        node.wire.deliver()
        assert await value_in_store(node, "a") == value


async def test_creating_is_stored_and_refused_for_what_is_stored() -> None:
    async with durable(Counter) as node:
        await node.send(make_call("Counter", "a", "", verb=Verb.CREATE))
        assert await value_in_store(node, "a") == 0
        await node.reopen(Epoch(1, 150))
        with pytest.raises(Conflict):
            await node.send(make_call("Counter", "a", "", verb=Verb.CREATE))
        with pytest.raises(Conflict):
            await node.send(make_call("Counter", "a", "", verb=Verb.CREATE))


async def test_an_interval_does_not_keep_replies_and_an_orderly_end_stores_all() -> None:
    store = MemoryStore(Runtime())
    async with durable(Lazy, store=store) as node:
        node.wire.plans = []
        assert await node.get(Lazy, "a").add(5) == 5
        assert await node.stored("Lazy", "a") is None
        assert await node.catalog.shards.close_shard(node.facts.shard_of("a"), drain_timeout_s=5.0)
        row = await node.stored("Lazy", "a")
        assert row is not None and row.state is not None
        back = Lazy()
        assert Lazy.__goverse__.stored is not None
        Lazy.__goverse__.stored.unpack(row.state, back)
        assert (back.value, back.deactivated) == (5, True)


async def test_a_shard_closes_only_with_everything_committed() -> None:
    async with durable(Counter) as node:
        await node.get(Counter, "a").get()
        node.wire.plans = ["wait"]
        call = node.call("Counter", "a", "add")
        await turns_of_the_loop()
        shard = node.facts.shard_of("a")
        closing = asyncio.ensure_future(node.catalog.shards.close_shard(shard, drain_timeout_s=5.0))
        await turns_of_the_loop()
        assert not closing.done()
        node.wire.gate.set()
        assert await closing and value_of(await call) == 1
        assert await value_in_store(node, "a") == 1


async def test_what_a_hook_changes_at_activation_is_stored() -> None:
    async with durable(Born) as node:
        assert await node.get(Born, "a").get() == ["activated"]
        await eventually(lambda: node.counted.objects == 1)
        await node.reopen(Epoch(1, 150))
        assert await node.get(Born, "a").get() == ["activated", "activated"]


@pytest.mark.parametrize("plan", ["wait", "do and lose the answer"])
async def test_a_forwarded_turn_tells_its_receiver_after_the_commit(plan: str) -> None:
    async with durable(Counter) as node:
        await node.get(Counter, "a").get()
        node.wire.plans = [plan]
        told: Any = Told()
        receiver: Receiver = told
        under_way = node.catalog.forward(make_call("Counter", "a", "add"), receiver)
        assert under_way is not None and told.outcomes == []
        node.wire.gate.set()
        await eventually(lambda: told.outcomes)
        assert value_of(told.outcomes[0]) == 1
        ignored: Any = Told()
        node.wire.plans = []
        again = node.catalog.forward(make_call("Counter", "a", "add"), ignored)
        assert again is not None
        again.cancel()
        assert await node.get(Counter, "a").get() == 2
        assert ignored.outcomes == []


async def test_a_forwarded_turn_whose_activation_is_lost_is_told_so() -> None:
    async with durable(Counter) as node:
        await node.get(Counter, "a").get()
        node.wire.away = True
        told: Any = Told()
        node.catalog.forward(make_call("Counter", "a", "add"), told)
        await turns_of_the_loop()
        node.catalog.shards.discard_all("the lease ended")
        assert len(told.outcomes) == 1
        assert isinstance(told.outcomes[0], GoverseError)
        assert told.outcomes[0].executed is Executed.UNKNOWN


class Nested(goverse.Object, durability="acknowledged", reentrancy="allow"):
    value: int = 0

    @goverse.method
    async def outer(self, fails: bool = False) -> int:
        self.value += 1
        await goverse.get(Nested, self.id).inner()
        if fails:
            raise goverse.ApplicationError("no")
        return self.value

    @goverse.method
    async def hang(self) -> None:
        self.value += 1
        await asyncio.Event().wait()

    @goverse.method
    async def inner(self) -> int:
        self.value += 10
        return self.value


async def test_an_inner_turn_commits_with_its_outer_one_or_not_at_all() -> None:
    async with durable(Nested) as node:
        assert await node.get(Nested, "a").outer() == 11
        with pytest.raises(goverse.ApplicationError):
            await node.get(Nested, "a").outer(fails=True)
        assert node.counted.batches == [1]
        await node.reopen(Epoch(1, 150))
        assert await node.get(Nested, "a").outer() == 22


async def test_a_callback_that_comes_after_its_outer_turn_was_cancelled_is_stored() -> None:
    async with durable(Nested) as node:
        outer = node.call("Nested", "a", "hang")
        await eventually(
            lambda: node.catalog.census.objects() and node.catalog.census.objects()[0].running
        )
        outer.cancel()
        await asyncio.gather(outer, return_exceptions=True)
        chain = (ChainEntry("Nested", "a", EPOCH, 1),)
        late = make_call("Nested", "a", "inner", chain=chain)
        assert value_of(await node.send(late)) == 10
        await node.reopen(Epoch(1, 150))
        assert value_of(await node.send(make_call("Nested", "a", "inner"))) == 20


async def test_a_slow_load_of_before_the_shard_was_lost_begins_nothing() -> None:
    async with durable(Counter) as node:
        assert await node.get(Counter, "a").add() == 1
        await node.reopen(Epoch(1, 150))
        answered, arrived = node.client.load, asyncio.Event()

        async def slow(objects: Any) -> Any:
            found = await answered(objects)
            node.client.load = answered
            await arrived.wait()
            return found

        node.client.load = slow
        early = node.call("Counter", "a", "add")
        await eventually(lambda: node.client.load is answered)
        # Somebody else has the shard for a while, and writes.
        async with durable(
            Counter, store=node.store, epoch=Epoch(1, 151), incarnation="second"
        ) as other:
            assert await other.get(Counter, "a").add(100) == 101
        await node.reopen(Epoch(1, 152))
        late = node.call("Counter", "a", "add")
        arrived.set()
        with pytest.raises(NotOwner):
            await early
        assert value_of(await late) == 102
        assert await node.get(Counter, "a").add() == 103
        assert node.counted.reasons == []


async def test_a_state_that_cannot_be_read_fails_calls_and_stays() -> None:
    async with durable(Counter) as node:
        fence = node.fence("a")
        id = ObjectId("Counter", "a")
        await node.store.connect().commit([ObjectCommit(fence, id, 0, State(b"\xc1", 0))])
        with pytest.raises(ObjectFailed, match="stored state does not fit") as failed:
            await node.get(Counter, "a").add(1)
        assert failed.value.executed is Executed.NO
        await node.store.connect().commit([ObjectCommit(fence, id, 1, State(b"\xc1", 9))])
        with pytest.raises(Unavailable, match="version 9"):
            await node.get(Counter, "a").add(1)
        await node.store.connect().commit([ObjectCommit(fence, id, 2, Act.DELETE)])
        assert await node.get(Counter, "a").add(1) == 1


@pytest.mark.parametrize("size", [1 << 20])
async def test_states_of_a_megabyte_work(size: int) -> None:
    class Blob(goverse.Object, durability="acknowledged"):
        data: bytes = b""

        @goverse.method
        async def put(self, size: int) -> int:
            self.data = bytes(size)
            return len(self.data)

        @goverse.method(read_only=True)
        async def size(self) -> int:
            return len(self.data)

    async with durable(Blob) as node:
        assert await node.get(Blob, "a").put(size) == size
        await node.reopen(Epoch(1, 150))
        assert await node.get(Blob, "a").size() == size


@pytest.mark.parametrize("seed", range(40))
def test_L02_L07_L11_histories_under_faults_are_those_of_a_register(seed: int) -> None:
    run_virtual(lambda _: _history(seed), seed=seed)


async def _history(seed: int) -> None:
    """Two nodes take the same shards in turn, answers get lost, transactions come late. Every
    answered sum is one that the store then had, they only grow, and nothing answered is lost."""
    chance = random.Random(seed)
    store = MemoryStore(Runtime(random=random.Random(seed)))
    faults = ["refuse", "do and lose the answer", "hold and lose the answer"]
    answered = unknown = highest = 0
    async with durable(Counter, store=store, epoch=Epoch(1, 1), incarnation="a") as one:
        async with durable(Counter, store=store, epoch=Epoch(1, 2), incarnation="b") as two:
            nodes, epoch, owner = [one, two], 2, 1
            for _ in range(40):
                node = nodes[owner]
                if chance.random() < 0.3:
                    node.wire.plans.append(chance.choice(faults))
                calls = [
                    nodes[chance.choice([owner, owner, 0, 1])].call("Counter", "x", method)
                    for method in chance.choices(["add", "add_slowly"], k=chance.randrange(1, 5))
                ]
                if chance.random() < 0.2:
                    owner, epoch = 1 - owner, epoch + 1
                    await turns_of_the_loop(chance.randrange(8))
                    await nodes[owner].reopen(Epoch(1, epoch))
                for ended in await asyncio.gather(*calls, return_exceptions=True):
                    if isinstance(ended, Reply):
                        answered += 1
                        value = value_of(ended)
                        assert value > 0, f"seed {seed}"
                        highest = max(highest, value)
                    else:
                        assert isinstance(ended, GoverseError), f"seed {seed}: {ended!r}"
                        unknown += ended.executed is Executed.UNKNOWN
                for node in nodes:
                    node.wire.deliver()
            for node in nodes:
                node.wire.plans = []
            final = value_of(await nodes[owner].call("Counter", "x", "get"))
            assert answered <= final <= answered + unknown, f"seed {seed}"
            assert final >= highest, f"seed {seed}"
            assert await value_in_store(one, "x") == final, f"seed {seed}"
