"""Fences, clusters and the schema."""

from __future__ import annotations

import asyncio

import pytest

from goverse.ids import NUM_SLOTS, Epoch
from goverse.storage.api import HigherEpoch, StoreRefused
from goverse.storage.values import (
    Acceptance,
    CallStep,
    Fence,
    OutboxChange,
    OutboxStep,
    Step,
    Verdict,
)
from goverse.testing.conformance.store_kit import Owner, Owners, StoreTests, fresh_epoch


class FenceTests(StoreTests):
    async def test_L02_nothing_of_a_former_owner_is_written(self, owners: Owners) -> None:
        old = await owners.owner()
        await old.commit(b"1", outbox=(old.call("child"),))
        await old.accept("c1")
        new = await (await owners.successor(old)).open()

        assert (await old.commit(b"2", version=1)).verdict is Verdict.FENCED
        accepted = await old.store.accept([Acceptance(old.fence, old.call("c2"))])
        assert accepted[0].verdict is Verdict.FENCED
        known = await old.store.accept([Acceptance(old.fence, old.call("c1"))])
        assert known[0].verdict is Verdict.FENCED and known[0].stored is None
        for step in Step:
            [result] = await old.store.change_calls([CallStep(old.fence, old.id("c1"), step, "r")])
            assert result.verdict is Verdict.FENCED
        for move in OutboxStep:
            change = OutboxChange(old.fence, old.id("child"), move, "r")
            assert (await old.store.change_outbox([change]))[0].verdict is Verdict.FENCED

        assert await new.state() == b"1"
        assert (await new.row("c1")).attempts == 0
        assert len(await new.store.outbox([new.slot])) == 1
        assert (await new.commit(b"2", version=1)).version == 2
        assert old.store.snapshot().fenced >= 3

    @pytest.mark.parametrize("change", ["higher", "lower", "generation", "opening", "no row"])
    async def test_a_fence_must_be_equal(self, owners: Owners, change: str) -> None:
        owner = await owners.owner()
        revision = owner.epoch.revision
        stated = {
            "higher": owner.fence._replace(epoch=Epoch(1, revision + 1)),
            "lower": owner.fence._replace(epoch=Epoch(1, revision - 1)),
            "generation": owner.fence._replace(epoch=Epoch(2, revision)),
            "opening": owner.fence._replace(opening=2),
            "no row": owner.fence._replace(slot=NUM_SLOTS + 1_000_000),
        }[change]
        [result] = await owner.store.commit([owner.commit_of(b"1")._replace(fence=stated)])
        assert result.verdict is Verdict.FENCED
        [accepted] = await owner.store.accept([Acceptance(stated, owner.call("c"))])
        assert accepted.verdict is Verdict.FENCED
        assert await owner.stored() is None
        assert await owner.store.get_calls([owner.id("c")]) == {}

    async def test_a_slot_that_nobody_raised_takes_nothing(self, owners: Owners) -> None:
        owner = await owners.owner()
        untouched = Fence(NUM_SLOTS - 1, Epoch(0, 0), 1)
        [result] = await owner.store.commit([owner.commit_of(b"1")._replace(fence=untouched)])
        assert result.verdict is Verdict.FENCED

    async def test_a_lower_epoch_raises_nothing(self, owners: Owners) -> None:
        first = await owners.owner()
        second = await (await owners.successor(first)).open()
        with pytest.raises(HigherEpoch) as caught:
            await first.open()
        assert caught.value.epoch == second.epoch
        assert (caught.value.slot, caught.value.incarnation) == (first.slot, "second")
        assert (await second.commit(b"1")).verdict is Verdict.DONE

    async def test_the_same_epoch_in_another_incarnation_is_another_history(
        self, owners: Owners
    ) -> None:
        owner = await owners.owner()
        twin = Owner(owner.store, owner.slot, owner.epoch, "another", opening=7)
        with pytest.raises(HigherEpoch):
            await twin.open()
        assert (await owner.commit(b"1")).verdict is Verdict.DONE

    async def test_a_higher_generation_wins_over_a_higher_revision(self, owners: Owners) -> None:
        owner = await owners.owner()
        later = Owner(owner.store, owner.slot, Epoch(owner.epoch.generation + 1, 1), "later")
        await later.open()
        assert (await owner.commit(b"1")).verdict is Verdict.FENCED
        assert await owner.store.highest_epoch() >= later.epoch

    async def test_an_opening_is_used_once(self, owners: Owners) -> None:
        owner = await owners.owner()
        with pytest.raises(ValueError, match="used before"):
            await owner.store.raise_fence([owner.slot], owner.epoch, owner.incarnation, 1)
        before = owner.fence
        await owner.open()
        [result] = await owner.store.commit([owner.commit_of(b"1")._replace(fence=before)])
        assert result.verdict is Verdict.FENCED
        assert (await owner.commit(b"1")).verdict is Verdict.DONE

    async def test_raising_many_slots_says_the_highest_that_stands(self, owners: Owners) -> None:
        owner = await owners.owner()
        other = Owner(owner.store, 60_000, fresh_epoch()._replace(generation=2), "other")
        await other.open()
        with pytest.raises(HigherEpoch) as caught:
            await owner.store.raise_fence(range(59_990, 60_010), fresh_epoch(), "first", 1)
        assert (caught.value.slot, caught.value.epoch) == (60_000, other.epoch)

    async def test_every_slot_can_be_raised(self, owners: Owners) -> None:
        store = await owners.new_store()
        await store.migrate()
        await store.raise_fence(range(NUM_SLOTS), Epoch(1, 5), "all", 1)
        with pytest.raises(HigherEpoch):
            await store.raise_fence(range(NUM_SLOTS), Epoch(1, 4), "all", 2)
        assert await store.highest_epoch() == Epoch(1, 5)

    async def test_a_node_has_a_slot_of_its_own_for_ever(self, owners: Owners) -> None:
        store, other = await owners.store(), await owners.store()
        numbers = await asyncio.gather(*(s.node_slot("n-x") for s in (store, other, store)))
        assert len(set(numbers)) == 1 and numbers[0] >= NUM_SLOTS
        assert await store.node_slot("N-x") != numbers[0]
        owner = await Owner(store, numbers[0], fresh_epoch(), "first").open()
        assert (await owner.commit(b"1")).verdict is Verdict.DONE

    async def test_one_fence_of_a_batch_may_fall_alone(self, owners: Owners) -> None:
        store = await owners.store()
        a, b = await owners.owner(store), await owners.owner(store)
        await (await owners.successor(a)).open()
        results = await store.commit([a.commit_of(b"1"), b.commit_of(b"1")])
        assert [result.verdict for result in results] == [Verdict.FENCED, Verdict.DONE]

    async def test_raising_and_committing_at_once_leave_one_truth(self, owners: Owners) -> None:
        """However a commit and a raise meet, what the new owner reads is final."""
        for _ in range(8):
            old = await owners.owner()
            new = await owners.successor(old)

            async def take_over(new: Owner = new) -> bytes | None:
                await new.open()
                return await new.state()

            result, seen = await asyncio.gather(old.commit(b"1"), take_over())
            assert (result.verdict is Verdict.DONE) == (seen == b"1")
            assert await new.state() == seen

    # ---- clusters

    async def test_a_store_belongs_to_one_cluster_until_it_is_adopted(self, owners: Owners) -> None:
        store = await owners.new_store()
        await store.migrate()
        assert await store.cluster_id() == ""
        await store.claim_cluster("one")
        await store.claim_cluster("one")
        with pytest.raises(StoreRefused, match=r"belongs to the cluster one.*db adopt"):
            await store.claim_cluster("two")
        old = await Owner(store, 7, Epoch(3, 50), "old").open()
        assert (await old.commit(b"1")).verdict is Verdict.DONE

        await store.adopt("two")
        await store.claim_cluster("two")
        assert await store.cluster_id() == "two"
        assert (await old.commit(b"2", version=1)).verdict is Verdict.FENCED
        with pytest.raises(HigherEpoch):
            await old.open()
        with pytest.raises(HigherEpoch) as caught:
            await Owner(store, 7, Epoch(1, 900), "new").open()
        assert caught.value.epoch == Epoch(3, 50)
        new = await Owner(store, 7, Epoch(4, 1), "new", name=old.name).open()
        assert (await new.commit(b"2", version=1)).verdict is Verdict.DONE

    # ---- the schema

    async def test_migrating_twice_changes_nothing(self, owners: Owners) -> None:
        store = await owners.new_store()
        await store.migrate()
        assert await store.migrate() == ()
        status = await store.schema_status()
        assert status.current and status.pending == ()
        await store.check()

    async def test_what_cannot_be_a_raise_is_said_at_once(self, owners: Owners) -> None:
        store = await owners.store()
        for slots, incarnation, opening, message in (
            ([-1], "x", 1, "slot -1"),
            ([1], "", 1, "incarnation"),
            ([1], "a\0b", 1, "NUL"),
            ([1], "x", 0, "opening"),
            ([2**31], "x", 1, "slot 2147483648"),
            ([1], "x", 2**63, "opening"),
        ):
            with pytest.raises(ValueError, match=message):
                await store.raise_fence(slots, fresh_epoch(), incarnation, opening)
