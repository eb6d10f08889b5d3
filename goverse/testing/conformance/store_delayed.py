"""Delayed and repeated calls."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from goverse.storage.api import Store
from goverse.storage.values import (
    Acceptance,
    Act,
    CallStatus,
    CallStep,
    CatchUp,
    DelayedPage,
    DueStep,
    Outcome,
    Payload,
    ReliableCall,
    Step,
    StepResult,
    StoredCall,
    Timing,
    Verdict,
)
from goverse.testing.conformance.store_kit import Owner, Owners, StoreTests

_FAR_S = 3600.0


async def clock(store: Store) -> float:
    """The store's."""
    return (await store.delayed_calls([], within_s=0)).now


async def past_of(store: Store) -> float:
    """A time that has come, in whole microseconds."""
    return round(await clock(store) - 10, 6)


async def delay(
    owner: Owner,
    id: str,
    run_at: float,
    *,
    every_s: float = 0.0,
    catch_up: CatchUp = CatchUp.ONE,
    object: str = "o",
) -> ReliableCall:
    call = owner.call(id, object=object, timing=Timing(run_at, every_s, catch_up))
    [result] = await owner.store.accept([Acceptance(owner.fence, call)])
    assert (result.verdict, result.seq) == (Verdict.DONE, 0)
    return call


async def due(owner: Owner, id: str, was_at: float, run_at: float | None = None) -> StepResult:
    step = DueStep(owner.fence, owner.id(id), was_at, was_at if run_at is None else run_at)
    [result] = await owner.store.make_due([step])
    return result


async def soon(owner: Owner, within_s: float = 2 * _FAR_S) -> list[str]:
    page = await owner.store.delayed_calls([owner.slot], within_s=within_s)
    return [call.call_id.removeprefix(f"{owner.name}/") for call in page.calls]


def again(owner: Owner, id: str, again_at: float) -> Outcome:
    return Outcome(owner.id(id), CallStatus.FAILED, Payload(b"boom"), "failed", again_at)


class DelayedTests(StoreTests):
    async def test_a_delayed_call_has_no_place_in_the_order(self, owners: Owners) -> None:
        owner = await owners.owner()
        run_at = round(await clock(owner.store) + _FAR_S, 6)
        call = await delay(owner, "d", run_at, every_s=0.1, catch_up=CatchUp.EACH)
        row = await owner.row("d")
        assert row.call == call
        assert (row.status, row.seq, row.slot) == (CallStatus.DELAYED, 0, owner.slot)
        assert (row.finished_at, row.reason, row.attempts) == (None, "", 0)
        assert await owner.store.pending_calls([owner.slot]) == []
        assert await owner.store.parked_calls([owner.slot]) == []
        outcome = Outcome(owner.id("d"), CallStatus.SUCCESS, Payload(b""))
        assert (await owner.commit(b"1", outcomes=(outcome,))).verdict is Verdict.NOT_PENDING
        for step in (Step.ATTEMPT, Step.PARK, Step.RETRY):
            change = CallStep(owner.fence, owner.id("d"), step, "r")
            [result] = await owner.store.change_calls([change])
            assert result.verdict is Verdict.NOT_PENDING
        page = await owner.store.delayed_calls([owner.slot], within_s=2 * _FAR_S)
        [found] = page.calls
        assert (found.call_id, found.slot, found.object) == (call.call_id, owner.slot, call.object)
        assert found.timing == call.timing

    async def test_the_timing_is_no_part_of_what_a_repetition_is_but_the_period_is(
        self, owners: Owners
    ) -> None:
        owner = await owners.owner()
        later = round(await clock(owner.store) + _FAR_S, 6)
        call = await delay(owner, "d", later)
        for same in (call, replace(call, timing=Timing(later + 1)), replace(call, timing=None)):
            [known] = await owner.store.accept([Acceptance(owner.fence, same)])
            assert known.verdict is Verdict.KNOWN and known.stored is not None
            assert known.stored.call.timing == call.timing
        tick = await delay(owner, "t", later, every_s=5)
        for other in (None, Timing(later, 6), Timing(later, 5, CatchUp.NONE)):
            [result] = await owner.store.accept(
                [Acceptance(owner.fence, replace(tick, timing=other))]
            )
            assert result.verdict is Verdict.CONFLICT
        moved = replace(tick, timing=Timing(later + 7, 5))
        [known] = await owner.store.accept([Acceptance(owner.fence, moved)])
        assert known.verdict is Verdict.KNOWN

    async def test_a_call_is_due_once_and_gets_the_next_place(self, owners: Owners) -> None:
        owner = await owners.owner()
        past = await past_of(owner.store)
        await delay(owner, "d", past)
        [first] = await owner.accept("c")
        done = await due(owner, "d", past)
        assert done.verdict is Verdict.DONE and done.seq > first and done.attempts == 0
        assert (await due(owner, "d", past)).verdict is Verdict.NOT_PENDING
        row = await owner.row("d")
        assert (row.status, row.seq) == (CallStatus.PENDING, done.seq)
        assert row.call.timing == Timing(past)
        pending = await owner.store.pending_calls([owner.slot])
        assert [call.call.call_id for call in pending] == [owner.id("c"), owner.id("d")]
        assert await soon(owner) == []
        outcome = Outcome(owner.id("d"), CallStatus.SUCCESS, Payload(b"5"))
        await owner.commit(b"1", outcomes=(outcome,))
        row = await owner.row("d")
        assert (row.status, row.result) == (CallStatus.SUCCESS, Payload(b"5"))
        assert (await due(owner, "d", past)).verdict is Verdict.NOT_PENDING

    async def test_the_order_is_that_of_the_steps(self, owners: Owners) -> None:
        owner = await owners.owner()
        past = await past_of(owner.store)
        ids = ["z", "b", "y", "a", "c"]
        for n, id in enumerate(ids):
            await delay(owner, id, past + n)
        steps = [DueStep(owner.fence, owner.id(i), past + n, past + n) for n, i in enumerate(ids)]
        results = await owner.store.make_due(steps)
        assert [result.seq for result in results] == sorted(result.seq for result in results)
        pending = await owner.store.pending_calls([owner.slot])
        assert [call.call.call_id for call in pending] == [owner.id(id) for id in ids]

    async def test_the_clock_of_the_store_decides(self, owners: Owners) -> None:
        """Whatever the owner's says: a call that is not due stays delayed."""
        owner = await owners.owner()
        later = round(await clock(owner.store) + _FAR_S, 6)
        await delay(owner, "d", later)
        assert await due(owner, "d", later) == StepResult(Verdict.DONE, 0, 0)
        row = await owner.row("d")
        assert (row.status, row.seq, row.call.timing) == (CallStatus.DELAYED, 0, Timing(later))
        assert await soon(owner) == ["d"]

    async def test_a_step_that_knows_another_time_is_not_taken(self, owners: Owners) -> None:
        """It was read before a tick; taken, it would run that tick again."""
        owner = await owners.owner()
        past = await past_of(owner.store)
        await delay(owner, "d", past, every_s=2)
        assert (await due(owner, "d", past - 2)).verdict is Verdict.NOT_PENDING
        assert (await due(owner, "d", past + 0.000001)).verdict is Verdict.NOT_PENDING
        assert (await owner.row("d")).status is CallStatus.DELAYED
        assert (await due(owner, "absent", past)).verdict is Verdict.NOT_PENDING

    async def test_missed_ticks_are_left_out_by_moving_it(self, owners: Owners) -> None:
        owner = await owners.owner()
        past = await past_of(owner.store)
        await delay(owner, "one", past, every_s=2)
        await delay(owner, "none", past, every_s=_FAR_S)
        moved = await due(owner, "one", past, past + 4)
        assert moved.verdict is Verdict.DONE and moved.seq > 0
        row = await owner.row("one")
        assert (row.status, row.call.timing) == (CallStatus.PENDING, Timing(past + 4, 2))
        assert await due(owner, "none", past, past + _FAR_S) == StepResult(Verdict.DONE, 0, 0)
        row = await owner.row("none")
        assert (row.status, row.call.timing) == (
            CallStatus.DELAYED,
            Timing(past + _FAR_S, _FAR_S),
        )

    async def test_a_tick_and_the_next_are_one_commit(self, owners: Owners) -> None:
        owner = await owners.owner()
        past = await past_of(owner.store)
        await delay(owner, "t", past, every_s=2)
        await owner.accept("c")
        assert (await due(owner, "t", past)).verdict is Verdict.DONE
        change = CallStep(owner.fence, owner.id("t"), Step.ATTEMPT)
        assert (await owner.store.change_calls([change]))[0].attempts == 1
        outcomes = (
            again(owner, "t", past + 2),
            Outcome(owner.id("c"), CallStatus.SUCCESS, Payload(b"c")),
        )
        wrong = await owner.commit(b"1", version=7, outcomes=outcomes)
        assert wrong.verdict is Verdict.VERSION
        assert (await owner.row("t")).status is CallStatus.PENDING
        assert (await owner.commit(b"1", outcomes=outcomes)).verdict is Verdict.DONE
        row = await owner.row("t")
        assert (row.status, row.seq, row.attempts) == (CallStatus.DELAYED, 0, 0)
        assert row.call.timing == Timing(past + 2, 2)
        assert (row.result, row.reason, row.finished_at) == (Payload(b"boom"), "failed", None)
        assert (await owner.row("c")).status is CallStatus.SUCCESS
        assert await owner.store.pending_calls([owner.slot]) == []
        # The same tick again, as a former connection might: it is over.
        late = await owner.commit(b"2", version=1, outcomes=(again(owner, "t", past + 2),))
        assert late.verdict is Verdict.NOT_PENDING
        assert (await due(owner, "t", past)).verdict is Verdict.NOT_PENDING
        assert (await due(owner, "t", past + 2)).verdict is Verdict.DONE
        last = Outcome(owner.id("t"), CallStatus.SUCCESS, Payload(b"last"))
        assert (await owner.commit(b"2", version=1, outcomes=(last,))).verdict is Verdict.DONE
        assert (await owner.row("t")).status is CallStatus.SUCCESS

    async def test_one_of_many_objects_goes_on_and_the_others_end(self, owners: Owners) -> None:
        owner = await owners.owner()
        past = await past_of(owner.store)
        await delay(owner, "t", past, every_s=2, object="a")
        await due(owner, "t", past)
        await owner.accept("c", object="b")
        ended = Outcome(owner.id("c"), CallStatus.SUCCESS, Payload(b"c"))
        child = owner.call("child", timing=Timing(past, 3, CatchUp.EACH))
        batch = [
            owner.commit_of(b"1", id="a", outcomes=(again(owner, "t", past + 2),)),
            owner.commit_of(b"1", id="b", outcomes=(ended,), outbox=(child, owner.call("plain"))),
        ]
        results = await owner.store.commit(batch)
        assert [result.verdict for result in results] == [Verdict.DONE] * 2
        assert (await owner.row("t")).status is CallStatus.DELAYED
        row = await owner.row("c")
        assert row.status is CallStatus.SUCCESS and row.seq > 0 and row.finished_at is not None
        rows = await owner.store.outbox([owner.slot])
        assert [row.call.timing for row in rows] == [child.timing, None]
        assert rows[0].call == child

    # ---- pages

    async def test_pages_come_by_time_and_id(self, owners: Owners) -> None:
        owner, stranger = await owners.owner(), await owners.owner()
        now = round(await clock(owner.store), 6)
        for id, after_s in (("z", 5), ("b", 9), ("B", 9), ("a", 9), ("far", 500), ("past", -5)):
            await delay(owner, id, now + after_s)
        await delay(stranger, "other", now + 5)
        assert await soon(owner, within_s=100) == ["past", "z", "B", "a", "b"]
        assert await soon(owner, within_s=0) == ["past"]
        assert await soon(owner, within_s=1000) == ["past", "z", "B", "a", "b", "far"]
        found: list[str] = []
        after = (0.0, "")
        while True:
            page = await owner.store.delayed_calls(
                [owner.slot, stranger.slot], within_s=100, after=after, limit=2
            )
            if not page.calls:
                break
            assert len(page.calls) <= 2
            found += [call.call_id for call in page.calls]
            after = (page.calls[-1].timing.run_at, page.calls[-1].call_id)
        mine = [owner.id(id) for id in ("past", "z", "B", "a", "b")]
        assert [id for id in found if id != stranger.id("other")] == mine
        assert found.count(stranger.id("other")) == 1

    async def test_a_page_tells_the_time_also_when_it_is_empty(self, owners: Owners) -> None:
        owner = await owners.owner()
        first = await owner.store.delayed_calls([owner.slot], within_s=60)
        assert first.calls == ()
        await owner.accept("c")
        created = (await owner.row("c")).created_at
        second = await owner.store.delayed_calls([], within_s=60)
        assert isinstance(second, DelayedPage)
        assert first.now <= created <= second.now
        for wrong in ({"within_s": -1.0}, {"within_s": 1.0, "limit": 0}):
            with pytest.raises(ValueError):
                await owner.store.delayed_calls([owner.slot], **wrong)  # type: ignore[arg-type]

    # ---- owners

    async def test_L03_only_the_owner_makes_it_due(self, owners: Owners) -> None:
        old = await owners.owner()
        past = await past_of(old.store)
        await delay(old, "d", past)
        new = await (await owners.successor(old)).open()
        assert (await due(old, "d", past)).verdict is Verdict.FENCED
        stranger = await owners.owner()
        foreign = DueStep(stranger.fence, old.id("d"), past, past)
        [result] = await stranger.store.make_due([foreign])
        assert result.verdict is Verdict.NOT_PENDING
        assert await soon(new) == ["d"]
        assert (await due(new, "d", past)).verdict is Verdict.DONE

    async def test_L03_cancelled_while_it_becomes_due_it_runs_or_not(self, owners: Owners) -> None:
        owner, beside = await owners.owner(), await owners.store()
        past = await past_of(owner.store)
        for n in range(8):
            id = f"d{n}"
            await delay(owner, id, past, every_s=n % 2)
            cancel = CallStep(owner.fence, owner.id(id), Step.SKIP, "cancelled")
            made, [cancelled] = await asyncio.gather(
                due(owner, id, past), beside.change_calls([cancel])
            )
            # Before or after it was due: a call that is pending can be cancelled too.
            row = await owner.row(id)
            if cancelled.verdict is Verdict.DONE:
                assert row.status is CallStatus.SKIPPED
                again_at = again(owner, id, past + 1)
                late = await owner.commit(b"s", outcomes=(again_at,))
                assert late.verdict is Verdict.NOT_PENDING
            else:
                assert made.verdict is Verdict.DONE and row.status is CallStatus.PENDING
        assert await soon(owner) == []

    async def test_L09_what_is_delayed_goes_with_its_object(self, owners: Owners) -> None:
        owner = await owners.owner()
        past = await past_of(owner.store)
        await owner.commit(b"1")
        await delay(owner, "once", past + 2 * _FAR_S)
        await delay(owner, "idle", past + _FAR_S, every_s=1)
        await delay(owner, "tick", past, every_s=1)
        await delay(owner, "over", past, every_s=1)
        await delay(owner, "other", past + _FAR_S, object="p")
        await due(owner, "tick", past)
        await due(owner, "over", past)
        # One tick is over in the very commit that deletes.
        gone = await owner.commit(Act.DELETE, version=1, outcomes=(again(owner, "over", past + 1),))
        assert gone.verdict is Verdict.DONE
        for id in ("once", "idle", "tick", "over"):
            row: StoredCall = await owner.row(id)
            assert (row.status, row.reason) == (CallStatus.SKIPPED, "deleted"), id
            assert row.finished_at is not None
        assert await soon(owner) == ["other"]
        assert await owner.store.pending_calls([owner.slot]) == []

    async def test_what_is_delayed_is_counted(self, owners: Owners) -> None:
        store = await owners.new_store()
        await store.migrate()
        owner = await owners.owner(store)
        past = await past_of(store)
        await delay(owner, "late", past - 100)
        await delay(owner, "later", past + _FAR_S)
        census = await store.census()
        assert (census.pending_calls, census.delayed_calls) == (0, 2)
        [live] = await store.live_calls()
        assert (live.pending, live.delayed, live.oldest_pending_s) == (0, 2, 0)
        # Late since it was accepted: it was due before it was known.
        assert 0 <= live.overdue_s < 60
        await due(owner, "late", past - 100)
        [live] = await store.live_calls()
        assert (live.pending, live.delayed, live.overdue_s) == (1, 1, 0)
        assert 0 <= live.oldest_pending_s < 60
        [queue] = await store.longest_queues(1)
        assert queue.pending == 1 and 0 <= queue.oldest_s < 60

    async def test_lists_show_when_it_is_due(self, owners: Owners) -> None:
        store = await owners.new_store()
        await store.migrate()
        owner = await owners.owner(store)
        later = round(await clock(store) + _FAR_S, 6)
        await delay(owner, "d", later)
        await owner.commit(b"1", outbox=(owner.call("x", timing=Timing(later + 1)),))
        [delayed] = await store.list_calls(CallStatus.DELAYED)
        [delivery] = await store.list_outbox(parked=False)
        assert (delayed.call_id, delayed.run_at) == (owner.id("d"), later)
        assert (delivery.call_id, delivery.run_at) == (owner.id("x"), later + 1)
        await owner.accept("c")
        [pending] = await store.list_calls(CallStatus.PENDING)
        assert pending.run_at is None

    async def test_times_that_cannot_be_are_refused(self, owners: Owners) -> None:
        owner = await owners.owner()
        for timing in (Timing(-1.0), Timing(float("nan")), Timing(1.0, -1.0), Timing(1e13)):
            with pytest.raises(ValueError, match=r"run_at|every_s"):
                await owner.store.accept([Acceptance(owner.fence, owner.call("d", timing=timing))])
        with pytest.raises(ValueError, match="again_at"):
            await owner.commit(b"1", outcomes=(again(owner, "d", -1.0),))
        with pytest.raises(ValueError, match="twice"):
            await owner.store.make_due([DueStep(owner.fence, "a", 1.0, 1.0)] * 2)
