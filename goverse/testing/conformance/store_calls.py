"""The ledger of reliable calls, and the outbox."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from goverse.ids import ObjectId
from goverse.storage.api import MAX_PAGE, StorageUnavailable
from goverse.storage.values import (
    Acceptance,
    CallStatus,
    CallStep,
    OutboxChange,
    OutboxStep,
    Outcome,
    Payload,
    ReliableCall,
    Step,
    StepResult,
    Verdict,
)
from goverse.testing.conformance.store_kit import Owner, Owners, StoreTests


async def step(owner: Owner, id: str, step: Step, reason: str = "") -> StepResult:
    change = CallStep(owner.fence, owner.id(id), step, reason)
    [result] = await owner.store.change_calls([change])
    return result


async def move(owner: Owner, id: str, step: OutboxStep, reason: str = "") -> StepResult:
    change = OutboxChange(owner.fence, owner.id(id), step, reason)
    [result] = await owner.store.change_outbox([change])
    return result


def other_than(call: ReliableCall, what: str) -> ReliableCall:
    if what == "arguments":
        return replace(call, digest=b"another digest")
    if what == "method":
        return replace(call, method="subtract")
    if what == "type":
        return replace(call, object=call.object._replace(type="thing"))
    return replace(call, object=call.object._replace(id=call.object.id.upper()))


class CallTests(StoreTests):
    async def test_a_call_is_recorded_as_it_was_meant(self, owners: Owners) -> None:
        owner = await owners.owner()
        call = replace(owner.call("c"), parent=owner.id("p"), arguments=Payload(b"\x00\xff"))
        [result] = await owner.store.accept([Acceptance(owner.fence, call)])
        assert result.verdict is Verdict.DONE and result.seq > 0 and result.stored is None
        row = await owner.row("c")
        assert row.call == call
        assert (row.slot, row.seq, row.status) == (owner.slot, result.seq, CallStatus.PENDING)
        assert (row.attempts, row.result, row.reason, row.finished_at) == (0, None, "", None)

        never = replace(owner.call("n"), expires_at=None, context=b"", principal="")
        await owner.store.accept([Acceptance(owner.fence, never)])
        assert (await owner.row("n")).call == never

    async def test_the_order_of_an_object_is_the_order_of_acceptance(self, owners: Owners) -> None:
        owner = await owners.owner()
        # Ids in another order than the calls: the order is not that of the locks.
        first = await owner.accept("z", "m", "a", "q")
        second = await owner.accept("b", "y")
        assert first + second == sorted({*first, *second})
        rows = await owner.store.pending_calls([owner.slot])
        assert [row.call.call_id for row in rows] == [owner.id(id) for id in "zmaqby"]
        pages: list[str] = []
        after = 0
        while page := await owner.store.pending_calls([owner.slot], after=after, limit=4):
            assert len(page) <= 4
            pages += [row.call.call_id for row in page]
            after = page[-1].seq
        assert pages == [owner.id(id) for id in "zmaqby"]

    async def test_the_order_goes_on_under_the_next_owner(self, owners: Owners) -> None:
        old = await owners.owner()
        [first] = await old.accept("c1")
        new = await (await owners.successor(old)).open()
        [second] = await new.accept("c2")
        assert second > first
        rows = await new.store.pending_calls([new.slot])
        assert [row.seq for row in rows] == [first, second]

    async def test_an_object_has_one_accept_in_flight(self, owners: Owners) -> None:
        owner = await owners.owner()
        results = await asyncio.gather(
            owner.accept("c1"), owner.accept("c2"), return_exceptions=True
        )
        assert isinstance(results[0], list)
        assert isinstance(results[1], list | ValueError)

    async def test_a_repeated_call_id_learns_the_stored_outcome(self, owners: Owners) -> None:
        owner = await owners.owner()
        [seq] = await owner.accept("c")
        again = Acceptance(owner.fence, owner.call("c"))
        [known] = await owner.store.accept([again])
        assert (known.verdict, known.seq) == (Verdict.KNOWN, seq)
        assert known.stored == await owner.row("c")
        await owner.commit(
            b"1", outcomes=(Outcome(owner.id("c"), CallStatus.SUCCESS, Payload(b"5")),)
        )
        [known] = await owner.store.accept([again])
        assert known.stored is not None
        assert (known.stored.status, known.stored.result) == (CallStatus.SUCCESS, Payload(b"5"))
        assert len(await owner.store.pending_calls([owner.slot])) == 0

    @pytest.mark.parametrize("what", ["arguments", "method", "type", "id"])
    async def test_L06_a_call_id_used_for_something_else_is_a_conflict(
        self, owners: Owners, what: str
    ) -> None:
        owner = await owners.owner()
        await owner.accept("c")
        await owner.commit(
            b"1", outcomes=(Outcome(owner.id("c"), CallStatus.SUCCESS, Payload(b"secret")),)
        )
        other = other_than(owner.call("c"), what)
        [result] = await owner.store.accept([Acceptance(owner.fence, other)])
        assert (result.verdict, result.stored, result.seq) == (Verdict.CONFLICT, None, 0)
        assert "secret" not in result.message
        assert (await owner.row("c")).call == owner.call("c")

    async def test_the_same_id_twice_in_one_batch_is_one_call(self, owners: Owners) -> None:
        owner = await owners.owner()
        calls = [
            Acceptance(owner.fence, owner.call("c")),
            Acceptance(owner.fence, owner.call("c")),
            Acceptance(owner.fence, other_than(owner.call("c"), "arguments")),
        ]
        results = await owner.store.accept(calls)
        verdicts = [result.verdict for result in results]
        assert verdicts == [Verdict.DONE, Verdict.KNOWN, Verdict.CONFLICT]
        assert len(await owner.store.pending_calls([owner.slot])) == 1

    async def test_one_id_at_two_owners_at_once_is_one_call(self, owners: Owners) -> None:
        for n in range(4):
            a, b = await owners.owner(), await owners.owner()
            ids = [f"{n}-{k}" for k in range(8)]
            one = [Acceptance(a.fence, a.call(id)) for id in ids]
            two = [Acceptance(b.fence, replace(a.call(id), object=b.object())) for id in ids]
            results = await asyncio.gather(a.store.accept(one), b.store.accept(two[::-1]))
            for first, second in zip(results[0], results[1][::-1], strict=True):
                assert {first.verdict, second.verdict} == {Verdict.DONE, Verdict.CONFLICT}

    async def test_what_was_never_accepted_is_not_found(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.accept("c")
        found = await owner.store.get_calls([owner.id("c"), owner.id("absent")])
        assert list(found) == [owner.id("c")]

    # ---- cancelling

    async def test_a_cancelled_unknown_id_can_never_run(self, owners: Owners) -> None:
        owner = await owners.owner()
        blind = ReliableCall(owner.id("c"), owner.object(), "", Payload(b""), b"")
        [done] = await owner.store.accept([Acceptance(owner.fence, blind, "cancelled")])
        assert (done.verdict, done.seq) == (Verdict.DONE, 0)
        [known] = await owner.store.accept([Acceptance(owner.fence, owner.call("c"))])
        assert known.verdict is Verdict.KNOWN and known.stored is not None
        assert known.stored.status is CallStatus.SKIPPED
        assert (known.stored.reason, known.stored.seq) == ("cancelled", 0)
        assert known.stored.finished_at is not None
        assert await owner.store.pending_calls([owner.slot]) == []
        with pytest.raises(ValueError, match="digest"):
            await owner.store.accept([Acceptance(owner.fence, blind)])

    async def test_cancelling_meets_the_call_that_is_there(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.accept("c")
        blind = ReliableCall(owner.id("c"), owner.object(), "", Payload(b""), b"")
        [known] = await owner.store.accept([Acceptance(owner.fence, blind, "cancelled")])
        assert known.verdict is Verdict.KNOWN and known.stored is not None
        assert known.stored.status is CallStatus.PENDING
        assert (await step(owner, "c", Step.SKIP, "cancelled")).verdict is Verdict.DONE
        row = await owner.row("c")
        assert (row.status, row.reason) == (CallStatus.SKIPPED, "cancelled")
        foreign = replace(blind, object=owner.object("p"))
        [conflict] = await owner.store.accept([Acceptance(owner.fence, foreign, "cancelled")])
        assert conflict.verdict is Verdict.CONFLICT

    # ---- attempts and parking

    async def test_L20_attempts_are_counted_and_survive_their_owner(self, owners: Owners) -> None:
        old = await owners.owner()
        [seq] = await old.accept("c")
        assert await step(old, "c", Step.ATTEMPT) == StepResult(Verdict.DONE, 1, seq)
        new = await (await owners.successor(old)).open()
        assert await step(new, "c", Step.ATTEMPT) == StepResult(Verdict.DONE, 2, seq)
        [row] = await new.store.pending_calls([new.slot])
        assert row.attempts == 2

    async def test_a_parked_call_leaves_the_order_and_returns_at_its_end(
        self, owners: Owners
    ) -> None:
        owner = await owners.owner()
        _, _, third = await owner.accept("c1", "c2", "c3")
        await step(owner, "c1", Step.ATTEMPT)
        assert (await step(owner, "c1", Step.PARK, "killed its node")).verdict is Verdict.DONE
        rows = await owner.store.pending_calls([owner.slot])
        assert [row.call.call_id for row in rows] == [owner.id("c2"), owner.id("c3")]
        [parked] = await owner.store.parked_calls([owner.slot])
        assert (parked.call.call_id, parked.reason) == (owner.id("c1"), "killed its node")
        assert parked.attempts == 1 and parked.finished_at is None
        result = await owner.commit(
            b"1", outcomes=(Outcome(owner.id("c1"), CallStatus.SUCCESS, Payload(b"")),)
        )
        assert result.verdict is Verdict.NOT_PENDING

        retried = await step(owner, "c1", Step.RETRY)
        assert retried.verdict is Verdict.DONE and retried.seq > third
        assert retried.attempts == 0
        rows = await owner.store.pending_calls([owner.slot])
        assert [row.call.call_id for row in rows] == [owner.id(id) for id in ("c2", "c3", "c1")]
        assert await owner.store.parked_calls([owner.slot]) == []

    async def test_calls_are_retried_in_the_order_of_the_steps(self, owners: Owners) -> None:
        owner = await owners.owner()
        names = ["z", "b", "y", "a", "c"]
        await owner.accept(*sorted(names))
        for name in names:
            await step(owner, name, Step.PARK, "killed its node")
        steps = [CallStep(owner.fence, owner.id(name), Step.RETRY) for name in names]
        results = await owner.store.change_calls(steps)
        rows = await owner.store.pending_calls([owner.slot])
        assert [row.call.call_id for row in rows] == [owner.id(name) for name in names]
        assert [result.seq for result in results] == [row.seq for row in rows]

    async def test_a_pending_call_is_given_new_attempts_in_its_place(self, owners: Owners) -> None:
        owner = await owners.owner()
        first, _ = await owner.accept("c1", "c2")
        await step(owner, "c1", Step.ATTEMPT)
        assert await step(owner, "c1", Step.RESET) == StepResult(Verdict.DONE, 0, first)
        rows = await owner.store.pending_calls([owner.slot])
        assert [(row.call.call_id, row.attempts) for row in rows] == [
            (owner.id("c1"), 0),
            (owner.id("c2"), 0),
        ]
        await step(owner, "c1", Step.PARK, "r")
        assert (await step(owner, "c1", Step.RESET)).verdict is Verdict.NOT_PENDING

    async def test_parked_calls_come_in_pages_by_id(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.accept("c", "a", "B", "b")
        for id in "caBb":
            await step(owner, id, Step.PARK, "r")
        found: list[str] = []
        while page := await owner.store.parked_calls(
            [owner.slot], after=found[-1] if found else "", limit=3
        ):
            found += [row.call.call_id for row in page]
        assert found == [owner.id(id) for id in "Babc"]

    async def test_finished_rows_never_change(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.accept("c")
        await owner.commit(outcomes=(Outcome(owner.id("c"), CallStatus.FAILED, Payload(b"w")),))
        before = await owner.row("c")
        for each in Step:
            assert (await step(owner, "c", each, "r")).verdict is Verdict.NOT_PENDING
        assert await owner.row("c") == before
        assert (await step(owner, "absent", Step.SKIP)).verdict is Verdict.NOT_PENDING

    async def test_L03_a_call_that_is_cancelled_while_it_commits_ends_once(
        self, owners: Owners
    ) -> None:
        owner, beside = await owners.owner(), await owners.store()
        for version in range(8):
            id = f"c{version}"
            await owner.accept(id)
            outcome = Outcome(owner.id(id), CallStatus.SUCCESS, Payload(b"r"))
            commit = owner.commit_of(b"s", version=version, outcomes=(outcome,))
            cancel = CallStep(owner.fence, owner.id(id), Step.SKIP, "cancelled")
            [committed], [cancelled] = await asyncio.gather(
                owner.store.commit([commit]), beside.change_calls([cancel])
            )
            status = (await owner.row(id)).status
            if cancelled.verdict is Verdict.DONE:
                assert (committed.verdict, status) == (Verdict.NOT_PENDING, CallStatus.SKIPPED)
                assert (await owner.commit(b"s", version=version)).verdict is Verdict.DONE
            else:
                assert (committed.verdict, status) == (Verdict.DONE, CallStatus.SUCCESS)

    async def test_a_step_needs_its_status_and_its_slot(self, owners: Owners) -> None:
        owner, stranger = await owners.owner(), await owners.owner()
        await owner.accept("c")
        assert (await step(owner, "c", Step.RETRY)).verdict is Verdict.NOT_PENDING
        foreign = CallStep(stranger.fence, owner.id("c"), Step.SKIP, "r")
        assert (await owner.store.change_calls([foreign]))[0].verdict is Verdict.NOT_PENDING
        with pytest.raises(ValueError, match="reason"):
            await step(owner, "c", Step.PARK)
        await step(owner, "c", Step.PARK, "r")
        assert (await step(owner, "c", Step.ATTEMPT)).verdict is Verdict.NOT_PENDING
        assert (await step(owner, "c", Step.PARK, "r")).verdict is Verdict.NOT_PENDING
        assert (await step(owner, "c", Step.SKIP, "dead")).verdict is Verdict.DONE

    # ---- the outbox

    async def test_the_outbox_keeps_the_order_of_its_sender(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.commit(b"1", outbox=tuple(owner.call(id) for id in "zay"))
        await owner.commit(b"2", version=1, outbox=(owner.call("b"),))
        rows = await owner.store.outbox([owner.slot])
        assert [row.call.call_id for row in rows] == [owner.id(id) for id in "zayb"]
        assert [row.position for row in rows] == sorted({row.position for row in rows})
        page = await owner.store.outbox([owner.slot], after=rows[1].position, limit=1)
        assert page == [rows[2]]

    async def test_a_delivered_row_goes_and_a_parked_one_stays(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.commit(b"1", outbox=tuple(owner.call(id) for id in "abc"))
        assert (await move(owner, "a", OutboxStep.DELIVERED)).verdict is Verdict.DONE
        assert (await move(owner, "a", OutboxStep.DELIVERED)).verdict is Verdict.DONE
        assert (await move(owner, "a", OutboxStep.PARK, "r")).verdict is Verdict.NOT_PENDING
        assert (await move(owner, "b", OutboxStep.PARK, "no such type")).verdict is Verdict.DONE
        assert [r.call.call_id for r in await owner.store.outbox([owner.slot])] == [owner.id("c")]
        [parked] = await owner.store.outbox([owner.slot], parked=True)
        assert (parked.call, parked.parked) == (owner.call("b"), "no such type")
        assert (await move(owner, "b", OutboxStep.RETRY)).verdict is Verdict.DONE
        rows = await owner.store.outbox([owner.slot])
        assert [row.call.call_id for row in rows] == [owner.id("b"), owner.id("c")]

    async def test_the_census_counts_what_is_live(self, owners: Owners) -> None:
        store = await owners.new_store()
        await store.migrate()
        owner = await owners.owner(store)
        await owner.accept("a", "b", "c")
        await step(owner, "a", Step.PARK, "r")
        await owner.commit(
            b"1",
            outcomes=(Outcome(owner.id("b"), CallStatus.SUCCESS, Payload(b"")),),
            outbox=(owner.call("x"), owner.call("y")),
        )
        await move(owner, "x", OutboxStep.PARK, "r")
        census = await store.census()
        assert (census.pending_calls, census.delayed_calls, census.parked_calls) == (1, 0, 1)
        assert (census.outbox_rows, census.parked_outbox_rows) == (1, 1)

    async def test_queues_and_outcomes_are_counted_by_type(self, owners: Owners) -> None:
        store = await owners.new_store()
        await store.migrate()
        assert not await store.live_calls() and not await store.longest_queues(10)
        owner = await owners.owner(store)
        await owner.accept("a", "b", "c", object="long")
        await owner.accept("d", object="Long")
        other = replace(owner.call("e"), object=ObjectId("Other", owner.id("e")))
        gone = replace(owner.call("f"), object=ObjectId("Other", owner.id("f")))
        for acceptance in (
            Acceptance(owner.fence, other),
            Acceptance(owner.fence, gone, skip="cancelled"),
        ):
            [result] = await store.accept([acceptance])
            assert result.verdict is Verdict.DONE
        await step(owner, "e", Step.PARK, "r")
        outcome = Outcome(owner.id("a"), CallStatus.SUCCESS, Payload(b""))
        await owner.commit(b"1", id="long", outcomes=(outcome,))

        live = await store.live_calls()
        assert [(one.type, one.pending, one.delayed, one.parked) for one in live] == [
            ("Other", 0, 0, 1),
            ("Thing", 3, 0, 0),
        ]
        assert live[0].oldest_pending_s == 0 <= live[1].oldest_pending_s < 60
        queues = await store.longest_queues(10)
        assert [(queue.object, queue.pending) for queue in queues] == [
            (owner.object("long"), 2),
            (owner.object("Long"), 1),
        ]
        assert all(0 <= queue.oldest_s < 60 for queue in queues)
        assert [queue.pending for queue in await store.longest_queues(1)] == [2]
        finished = await store.finished_calls()
        assert [(one.type, one.success, one.failed, one.skipped) for one in finished] == [
            ("Other", 0, 0, 1),
            ("Thing", 1, 0, 0),
        ]
        for limit in (0, MAX_PAGE + 1):
            with pytest.raises(ValueError, match="limit"):
                await store.longest_queues(limit)

    async def test_a_closed_store_says_so(self, owners: Owners) -> None:
        store = await owners.store()
        owner = await owners.owner(store)
        await store.close()
        with pytest.raises(StorageUnavailable, match="closed"):
            await owner.commit(b"1")
        await store.close()
