"""Objects: versions, batches, deletions, all or none."""

from __future__ import annotations

import asyncio

import pytest

from goverse.storage.values import (
    Act,
    CallStatus,
    CallStep,
    ObjectCommit,
    Outcome,
    Payload,
    State,
    Step,
    Verdict,
)
from goverse.testing.conformance.store_kit import Owner, Owners, StoreTests


def success(owner: Owner, id: str, result: bytes = b"r") -> Outcome:
    return Outcome(owner.id(id), CallStatus.SUCCESS, Payload(result))


class CommitTests(StoreTests):
    async def test_what_was_committed_is_loaded_in_another_process(self, owners: Owners) -> None:
        owner = await owners.owner()
        state = State(b"\x00\xff state", schema=3)
        [result] = await owner.store.commit([ObjectCommit(owner.fence, owner.object(), 0, state)])
        assert (result.verdict, result.version) == (Verdict.DONE, 1)
        other = await owners.store()
        found = await other.load([owner.object(), owner.object("absent")])
        assert list(found) == [owner.object()]
        assert (found[owner.object()].version, found[owner.object()].state) == (1, state)

    async def test_a_commit_states_the_version_that_it_replaces(self, owners: Owners) -> None:
        owner = await owners.owner()
        assert (await owner.commit(b"1", version=1)).verdict is Verdict.VERSION
        assert await owner.stored() is None
        assert (await owner.commit(b"1", version=0)).version == 1
        assert (await owner.commit(b"x", version=0)).verdict is Verdict.VERSION
        assert (await owner.commit(b"2", version=1)).version == 2
        assert (await owner.commit(b"x", version=1)).verdict is Verdict.VERSION
        assert (await owner.commit(b"x", version=3)).verdict is Verdict.VERSION
        assert await owner.state() == b"2"

    async def test_a_commit_without_a_state_raises_the_version_too(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.accept("c1", "c2")
        result = await owner.commit(outcomes=(success(owner, "c1"),))
        assert result.version == 1
        stored = await owner.stored()
        assert stored is not None and (stored.version, stored.state) == (1, None)
        assert (await owner.commit(b"s", version=1)).version == 2
        assert (await owner.commit(version=2, outcomes=(success(owner, "c2"),))).version == 3
        assert await owner.state() == b"s"

    async def test_an_empty_state_is_a_state(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.commit(b"")
        assert await owner.state() == b""

    async def test_a_batch_has_a_result_for_each_object(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.commit(b"1", id="b")
        results = await owner.store.commit(
            [
                owner.commit_of(b"1", id="c"),
                owner.commit_of(b"1", id="b"),
                owner.commit_of(b"1", id="a"),
                owner.commit_of(Act.DELETE, id="d"),
            ]
        )
        verdicts = [result.verdict for result in results]
        assert verdicts == [Verdict.DONE, Verdict.VERSION, Verdict.DONE, Verdict.DONE]
        assert [result.version for result in results] == [1, 0, 1, 0]
        assert await owner.store.commit([]) == []

    async def test_L01_state_outcomes_and_outbox_are_written_all_or_none(
        self, owners: Owners
    ) -> None:
        owner = await owners.owner()
        await owner.accept("c1", "c2")
        child = owner.call("child", object="other")
        done = await owner.commit(b"1", outcomes=(success(owner, "c1"),), outbox=(child,))
        assert done.verdict is Verdict.DONE
        row = await owner.row("c1")
        assert (row.status, row.result) == (CallStatus.SUCCESS, Payload(b"r"))
        assert row.finished_at is not None and row.finished_at >= row.created_at > 1e9
        [sent] = await owner.store.outbox([owner.slot])
        assert (sent.call, sent.sender, sent.parked) == (child, owner.object(), "")

        refused = await owner.commit(
            b"2", version=7, outcomes=(success(owner, "c2"),), outbox=(owner.call("child2"),)
        )
        assert refused.verdict is Verdict.VERSION
        assert (await owner.row("c2")).status is CallStatus.PENDING
        assert len(await owner.store.outbox([owner.slot])) == 1

    async def test_an_object_refused_by_version_takes_its_outcome_with_it(
        self, owners: Owners
    ) -> None:
        """The other objects of the batch are written."""
        owner = await owners.owner()
        await owner.accept("a1", object="a")
        await owner.accept("b1", object="b")
        results = await owner.store.commit(
            [
                owner.commit_of(b"1", id="a", version=5, outcomes=(success(owner, "a1"),)),
                owner.commit_of(b"1", id="b", outcomes=(success(owner, "b1"),)),
            ]
        )
        assert [result.verdict for result in results] == [Verdict.VERSION, Verdict.DONE]
        assert (await owner.row("a1")).status is CallStatus.PENDING
        assert (await owner.row("b1")).status is CallStatus.SUCCESS

    async def test_L03_a_call_is_finished_once(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.accept("c1", "c2")
        first = success(owner, "c1", b"first")
        assert (await owner.commit(b"1", outcomes=(first,))).verdict is Verdict.DONE
        again = (success(owner, "c2"), success(owner, "c1", b"second"))
        result = await owner.commit(b"2", version=1, outcomes=again)
        assert result.verdict is Verdict.NOT_PENDING
        assert await owner.state() == b"1"
        assert (await owner.row("c1")).result == Payload(b"first")
        assert (await owner.row("c2")).status is CallStatus.PENDING
        unknown = await owner.commit(b"2", version=1, outcomes=(success(owner, "absent"),))
        assert unknown.verdict is Verdict.NOT_PENDING

    async def test_a_commit_finishes_calls_of_its_own_object_only(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.accept("c1", object="another")
        result = await owner.commit(b"1", outcomes=(success(owner, "c1"),))
        assert result.verdict is Verdict.NOT_PENDING
        assert (await owner.row("c1")).status is CallStatus.PENDING

    async def test_failed_and_skipped_are_outcomes_too(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.accept("c1", "c2", "c3")
        outcomes = (
            Outcome(owner.id("c1"), CallStatus.FAILED, Payload(b"why")),
            Outcome(owner.id("c2"), CallStatus.SKIPPED, None, "expired"),
            Outcome(owner.id("c3"), CallStatus.SUCCESS, Payload(b"")),
        )
        await owner.commit(outcomes=outcomes)
        c1, c2, c3 = [await owner.row(id) for id in ("c1", "c2", "c3")]
        assert (c1.status, c1.result) == (CallStatus.FAILED, Payload(b"why"))
        assert (c2.status, c2.result, c2.reason) == (CallStatus.SKIPPED, None, "expired")
        assert (c3.status, c3.result) == (CallStatus.SUCCESS, Payload(b""))

    # ---- deleting

    async def test_L09_a_deletion_takes_unfinished_calls_along(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.accept("done", "deleting", "waiting", "parked")
        await owner.accept("neighbour", object="p")
        await owner.store.change_calls(
            [CallStep(owner.fence, owner.id("parked"), Step.PARK, "crashed")]
        )
        await owner.commit(b"1", outcomes=(success(owner, "done"),))
        result = await owner.commit(
            Act.DELETE, version=1, outcomes=(success(owner, "deleting"),), outbox=(owner.call("x"),)
        )
        assert (result.verdict, result.version) == (Verdict.DONE, 0)
        assert await owner.stored() is None
        statuses = {
            id: (await owner.row(id)).status
            for id in ("done", "deleting", "waiting", "parked", "neighbour")
        }
        assert statuses == {
            "done": CallStatus.SUCCESS,
            "deleting": CallStatus.SUCCESS,
            "waiting": CallStatus.SKIPPED,
            "parked": CallStatus.SKIPPED,
            "neighbour": CallStatus.PENDING,
        }
        assert (await owner.row("waiting")).reason == "deleted"
        assert len(await owner.store.outbox([owner.slot])) == 1
        assert (await owner.commit(b"again")).version == 1

    async def test_L09_deleting_what_was_never_saved_succeeds(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.accept("waiting")
        assert (await owner.commit(Act.DELETE)).verdict is Verdict.DONE
        assert (await owner.row("waiting")).status is CallStatus.SKIPPED
        await owner.commit(b"1")
        assert (await owner.commit(Act.DELETE)).verdict is Verdict.VERSION
        assert (await owner.commit(Act.DELETE, version=2)).verdict is Verdict.VERSION
        assert await owner.state() == b"1"

    # ---- order and concurrency

    async def test_an_object_has_one_commit_in_flight(self, owners: Owners) -> None:
        owner = await owners.owner()
        results = await asyncio.gather(
            owner.commit(b"1"), owner.commit(b"2"), return_exceptions=True
        )
        first, second = results
        if isinstance(second, ValueError):
            assert "under way" in str(second)
        else:  # the first was over before the second began
            assert second.verdict is Verdict.VERSION  # type: ignore[union-attr]
        assert not isinstance(first, BaseException) and first.verdict is Verdict.DONE
        assert owner.store.snapshot().in_flight == 0
        assert (await owner.commit(b"2", version=1)).version == 2

    async def test_two_clients_of_one_owner_cannot_both_replace_a_version(
        self, owners: Owners
    ) -> None:
        owner, store = await owners.owner(), await owners.store()
        for version in range(5):
            results = await asyncio.gather(
                owner.store.commit([owner.commit_of(b"a", version=version)]),
                store.commit([owner.commit_of(b"b", version=version)]),
            )
            verdicts = [result.verdict.value for [result] in results]
            assert sorted(verdicts) == ["done", "version"]

    async def test_batches_of_many_clients_go_side_by_side(self, owners: Owners) -> None:
        """The same slots, other objects, in other orders: nobody is refused, nothing hangs."""
        owner = await owners.owner()
        clients = [await owners.store() for _ in range(3)]
        for version in range(5):
            batches = []
            for c in range(3):
                ids = [f"{c}-{n}" for n in range(30)]
                ordered = ids if c % 2 else ids[::-1]
                batches.append([owner.commit_of(b"x", version=version, id=id) for id in ordered])
            done = await asyncio.gather(
                *(client.commit(batch) for client, batch in zip(clients, batches, strict=True))
            )
            assert all(result.verdict is Verdict.DONE for batch in done for result in batch)

    # ---- what is no batch

    async def test_a_name_stands_once_in_a_batch(self, owners: Owners) -> None:
        owner = await owners.owner()
        with pytest.raises(ValueError, match="twice"):
            await owner.store.commit([owner.commit_of(b"1"), owner.commit_of(b"2")])
        await owner.accept("c")
        twice = (success(owner, "c"), success(owner, "c"))
        with pytest.raises(ValueError, match="twice"):
            await owner.commit(b"1", outcomes=twice)
        with pytest.raises(ValueError, match="cannot be pending"):
            await owner.commit(b"1", outcomes=(Outcome(owner.id("c"), CallStatus.PENDING),))
        assert await owner.stored() is None

    async def test_the_poisoned_object_of_a_batch_is_refused_alone(self, owners: Owners) -> None:
        """Its child has an id that is taken; 63 others are committed."""
        owner = await owners.owner()
        await owner.commit(b"1", id="taken", outbox=(owner.call("same"),))
        batch = [
            owner.commit_of(b"1", id=f"{n}", outbox=(owner.call("same" if n == 17 else f"k{n}"),))
            for n in range(64)
        ]
        results = await owner.store.commit(batch)
        refused = [n for n, result in enumerate(results) if result.verdict is not Verdict.DONE]
        assert refused == [17] and results[17].verdict is Verdict.REFUSED
        assert results[17].message
        assert await owner.stored("17") is None and await owner.state("18") == b"1"
        assert len(await owner.store.outbox([owner.slot])) == 64
