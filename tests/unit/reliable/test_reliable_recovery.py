"""What a shard finds pending when it opens, and what becomes of it."""

from __future__ import annotations

import asyncio

import pytest
from objects_kit import make_call, turns_of_the_loop
from reliable_kit import AfterACrash, ReliableNode, reliable

import goverse
from goverse.aio.runtime import Runtime
from goverse.call import Verb
from goverse.config.settings import LimitSettings
from goverse.errors import Executed, FailedPrecondition, NotOwner, ObjectFailed
from goverse.ids import Epoch, ObjectId
from goverse.sharding import slot_of
from goverse.storage.memory import MemoryStore
from goverse.storage.values import (
    Acceptance,
    CallStatus,
    CommitResult,
    Fence,
    Payload,
    ReliableCall,
    Verdict,
)
from tests.support.eventually import eventually

OLD, NEW = Epoch(1, 100), Epoch(1, 200)


class Account(goverse.Object, durability="acknowledged"):
    balance: int = 0
    log: list[int] = []

    @goverse.method
    async def deposit(self, amount: int = 1) -> int:
        self.balance += amount
        self.log.append(amount)
        return self.balance

    @goverse.method
    async def hang(self, amount: int = 1) -> int:
        self.balance += amount
        began.append(self.id)
        while hanging:
            await asyncio.Event().wait()
        return self.balance

    @goverse.method(read_only=True)
    async def history(self) -> list[int]:
        return self.log


class Blocking(Account, on_parked="block"):
    pass


began: list[str] = []
hanging: list[bool] = []


@pytest.fixture(autouse=True)
def fresh():
    began.clear()
    hanging[:] = [True]


def a_store() -> MemoryStore:
    return MemoryStore(Runtime())


def pending(call_id: str, id: str, amount: int, *, method: str = "deposit", **more) -> Acceptance:
    """A call as an owner under the old epoch accepted it."""
    slot = slot_of(id)
    call = ReliableCall(
        call_id,
        ObjectId("Account", id),
        method,
        Payload(b"\x81\xa6amount" + bytes([amount])),
        call_id.encode(),
        **more,
    )
    return Acceptance(Fence(slot, OLD, 1), call)


async def left_behind(store: MemoryStore, *calls: Acceptance) -> None:
    """Their owner has accepted ``calls`` and is no more."""
    client = store.connect()
    slots = sorted({call.fence.slot for call in calls})
    await client.raise_fence(slots, OLD, "dead", 1)
    for call in calls:
        (result,) = await client.accept([call])
        assert result.verdict is Verdict.DONE


async def status(node: ReliableNode, call_id: str) -> CallStatus | None:
    row = await node.row(call_id)
    return row.status if row is not None else None


def finished(node: ReliableNode, count: int) -> bool:
    return sum(seen in ("success", "failed", "skipped") for seen in node.told.seen) >= count


async def test_pending_calls_run_although_nobody_calls_and_in_their_order():
    store = a_store()
    await left_behind(store, *(pending(f"c{n}", f"a{n % 3}", n) for n in range(30)))
    async with reliable(Account, store=store, epoch=NEW) as node:
        await eventually(lambda: finished(node, 30))
        for number in range(3):
            history = await node.get(Account, f"a{number}").history()
            assert history == [n for n in range(30) if n % 3 == number]
        assert node.reliability.snapshot().entries == 0


async def test_more_than_a_page_is_pending_and_new_calls_do_not_overtake():
    store = a_store()
    await left_behind(store, *(pending(f"c{n}", "a", n % 100) for n in range(1200)))
    may_read = asyncio.Event()

    class Slow(ReliableNode):
        def make_reliable(self, node):
            read = self.client.pending_calls

            async def pending_calls(slots, *, after=0, limit=1000):
                if after:
                    await may_read.wait()
                return await read(slots, after=after, limit=limit)

            self.client.pending_calls = pending_calls
            return super().make_reliable(node)

    async with reliable(Account, store=store, epoch=NEW, make=Slow) as node:
        late = node.do("late", "Account", "a", "deposit", amount=77, timeout_s=30)
        await eventually(lambda: "accepted" in node.told.seen)
        await eventually(lambda: finished(node, 500))
        assert not late.done() and node.reliability.snapshot().recovering == 1
        may_read.set()
        assert await late == sum(n % 100 for n in range(1200)) + 77
        history = await node.get(Account, "a").history()
        assert history == [n % 100 for n in range(1200)] + [77]


async def test_memory_for_what_is_pending_is_bounded():
    store = a_store()
    await left_behind(store, *(pending(f"c{n}", f"a{n % 7}", 1) for n in range(1300)))
    limits = LimitSettings(max_reliable_calls=100)
    async with reliable(Account, store=store, epoch=NEW, limits=limits) as node:
        assert node.reliability.snapshot().entries <= 500  # a page
        await eventually(lambda: finished(node, 1300))


async def test_a_call_accepted_before_a_crash_is_run_once_by_the_next_owner_and_found_there():
    store = a_store()
    async with reliable(Account, store=store, epoch=OLD) as dead:
        call = dead.do("c", "Account", "a", "hang", amount=5)
        await eventually(lambda: began)
        dead.facts.lease = False  # it does not know yet, and will never say anything again
        hanging.clear()
        async with reliable(Account, store=store, epoch=NEW, incarnation="second") as node:
            assert await node.do("c", "Account", "a", "hang", amount=5) == 5
            assert await node.do("c", "Account", "a", "hang", amount=5) == 5
            dead.catalog.shards.discard_all("the lease ended")
            with pytest.raises(NotOwner) as moved:
                await call
            assert moved.value.executed is Executed.UNKNOWN


async def test_L03_a_call_that_ran_at_the_old_owner_is_not_committed_twice():
    store = a_store()
    async with reliable(Account, store=store, epoch=OLD) as old:
        old.wire.plans = ["do", "do", "wait"]  # accept, load; the commit is still on its way
        call = old.do("c", "Account", "a", "deposit", amount=5)
        await eventually(lambda: not old.wire.plans)
        async with reliable(Account, store=store, epoch=NEW, incarnation="second") as node:
            assert await node.do("c", "Account", "a", "deposit", amount=5) == 5
            old.wire.gate.set()
            assert await call == 5  # it looked again, and found what the new owner did
            assert await node.get(Account, "a").history() == [5]
            assert "fenced" in old.counted.reasons


async def test_L35_an_accept_that_a_fence_has_refused_is_counted():
    store = a_store()
    async with reliable(Account, store=store, epoch=OLD) as old:
        async with reliable(Account, store=store, epoch=NEW, incarnation="second") as node:
            with pytest.raises(NotOwner):
                await old.do("c", "Account", "a", "deposit", amount=5)
            assert old.told.refusals == ["not_owner"] and old.told.seen == []
            assert await node.do("c", "Account", "a", "deposit", amount=5) == 5
            assert node.told.refusals == []


async def test_a_planned_move_leaves_what_waits_to_the_next_owner():
    store = a_store()
    async with reliable(Account, store=store, epoch=OLD) as old:
        hanging.clear()
        calls = [old.do(f"c{n}", "Account", "a", "deposit", amount=n) for n in range(20)]
        await eventually(lambda: old.told.seen)
        for shard in range(-1, 8):
            assert await old.catalog.shards.close_shard(shard, drain_timeout_s=2.0)
        done = await asyncio.gather(*calls, return_exceptions=True)
        async with reliable(Account, store=store, epoch=NEW, incarnation="second") as node:
            for number, outcome in enumerate(done):
                if isinstance(outcome, Exception):
                    assert isinstance(outcome, NotOwner)
                    await node.do(f"c{number}", "Account", "a", "deposit", amount=number)
            history = await node.get(Account, "a").history()
            assert sorted(history) == list(range(20))


async def test_L12_what_this_version_cannot_decode_stays_pending():
    store = a_store()
    unknown = pending("c0", "a", 1, method="of_a_newer_version")
    await left_behind(store, unknown, pending("c1", "a", 2), pending("c2", "b", 3))
    async with reliable(Account, store=store, epoch=NEW) as node:
        await eventually(lambda: finished(node, 1))  # another object's
        assert await status(node, "c2") is CallStatus.SUCCESS
        assert await status(node, "c0") is CallStatus.PENDING
        assert await status(node, "c1") is CallStatus.PENDING, "it has overtaken c0"


async def test_L20_only_the_first_call_is_counted_and_the_poisoned_one_is_parked():
    store = a_store()
    await left_behind(
        store,
        pending("good", "a", 1),
        pending("poison", "a", 2, method="hang"),
        pending("after", "a", 4),
    )
    limits = LimitSettings(max_call_attempts=2)
    lives = iter(range(200, 300))

    def next_owner(released: bool):
        epoch = Epoch(1, next(lives))
        return reliable(Account, store=store, epoch=epoch, limits=limits, released=released)

    for _ in range(3):
        async with next_owner(released=True) as node:
            await eventually(lambda: began)
            began.clear()
            assert (await node.row("poison")).attempts == 0
    for attempt in (1, 2):
        async with next_owner(released=False) as node:
            await eventually(lambda: began)
            began.clear()
            assert (await node.row("poison")).attempts == attempt
            assert (await node.row("after")).attempts == 0
    async with next_owner(released=False) as node:
        await eventually(lambda: "parked" in node.told.seen)
        await eventually(lambda: finished(node, 1))
        row = await node.row("poison")
        assert row.status is CallStatus.PARKED and "2 attempts" in row.reason
        assert await node.get(Account, "a").history() == [1, 4]


async def test_L20_a_class_can_ask_to_be_blocked_by_a_parked_call():
    store = a_store()
    hang = pending("poison", "a", 2, method="hang")
    calls = [hang, pending("after", "a", 4)]
    blocking = [
        Acceptance(
            call.fence,
            ReliableCall(
                call.call.call_id,
                ObjectId("Blocking", "a"),
                call.call.method,
                call.call.arguments,
                call.call.digest,
            ),
        )
        for call in calls
    ]
    await left_behind(store, *blocking)
    limits = LimitSettings(max_call_attempts=1)
    for life in range(3):
        epoch = Epoch(1, 400 + life)
        async with reliable(
            Blocking, store=store, limits=limits, epoch=epoch, released=False
        ) as node:
            if life == 0:
                await eventually(lambda: began)
            else:
                await eventually(lambda: "parked" in node.told.seen)
                assert await status(node, "after") is CallStatus.PENDING
                assert (await node.row("poison")).attempts == 2


async def test_a_suspect_runs_alone_so_that_its_outcome_is_not_lost_with_the_next():
    store = a_store()
    await left_behind(store, pending("innocent", "a", 1), pending("next", "a", 2, method="hang"))
    may_commit = asyncio.Event()

    class Slow(AfterACrash):
        def make_reliable(self, node):
            commit = self.client.commit

            async def slowly(batch):
                await may_commit.wait()
                return await commit(batch)

            self.client.commit = slowly
            return super().make_reliable(node)

    async with reliable(Account, store=store, epoch=NEW, make=Slow) as node:
        await eventually(lambda: node.durability.snapshot().commits.in_flight)
        await turns_of_the_loop(50)
        assert not began  # the second may end the process, and the first is not committed
        may_commit.set()
        await eventually(lambda: began)
        assert await status(node, "innocent") is CallStatus.SUCCESS
        assert (await node.row("next")).attempts == 0


async def test_expired_calls_are_skipped_and_their_callers_told():
    store = a_store()
    await left_behind(store, pending("old", "a", 1, expires_at=1.0), pending("new", "a", 2))
    async with reliable(Account, store=store, epoch=NEW) as node:
        await eventually(lambda: finished(node, 2))
        assert await status(node, "old") is CallStatus.SKIPPED
        assert await node.get(Account, "a").history() == [2]


async def test_L09_calls_pending_for_a_deleted_object_do_not_run_on_its_successor():
    async with reliable(Account) as node:
        first = node.do("first", "Account", "a", "hang", timeout_s=10)
        await eventually(lambda: began)
        behind = node.do("behind", "Account", "a", "deposit", amount=7)
        await eventually(lambda: node.told.seen.count("accepted") == 2)
        deletion = node.send(make_call("Account", "a", "", verb=Verb.DELETE))
        # The deletion waits behind the turn that runs; the call behind has no place yet.
        for turn in next(iter(node.catalog._activations.values())).turns.values():
            turn.stop(goverse.Unavailable("interrupted"))
        await deletion
        for call in (first, behind):
            with pytest.raises(FailedPrecondition, match="never run: deleted") as skipped:
                await call
            assert skipped.value.executed is Executed.NO
        assert await node.do("new", "Account", "a", "deposit", amount=3) == 3
        assert await node.get(Account, "a").history() == [3]
        assert await status(node, "behind") is CallStatus.SKIPPED


async def test_L08_a_state_that_the_database_refuses_fails_its_call_and_no_other():
    async with reliable(Account) as node:
        commit = node.client.commit

        async def refusing(batch):
            results = []
            for one in batch:
                data = getattr(one.state, "data", b"")
                if b"\x66" in data[-3:]:
                    results.append(CommitResult(Verdict.REFUSED, 0, "too odd"))
                else:
                    results += await commit([one])
            return results

        node.client.commit = refusing
        calls = [
            node.do(f"c{n}", "Account", "a", "deposit", amount=0x66 if n == 2 else n)
            for n in range(5)
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(outcomes[2], ObjectFailed) and "too odd" in str(outcomes[2])
        assert outcomes[2].executed is Executed.YES
        assert [one for n, one in enumerate(outcomes) if n != 2] == [0, 1, 4, 8]
        assert await status(node, "c2") is CallStatus.FAILED


async def test_a_lost_journal_is_run_again_in_the_old_order():
    async with reliable(Account) as node:
        commit = node.client.commit
        refusals = [True]

        async def once_overtaken(batch):
            if refusals and any(one.outcomes for one in batch):
                refusals.clear()
                return [CommitResult(Verdict.VERSION) for _ in batch]
            return await commit(batch)

        node.client.commit = once_overtaken
        calls = [node.do(f"c{n}", "Account", "a", "deposit", amount=n) for n in range(30)]
        await asyncio.gather(*calls)
        assert await node.get(Account, "a").history() == list(range(30))
