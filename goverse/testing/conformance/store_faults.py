"""Answers that are lost, and writes that come late."""

from __future__ import annotations

import asyncio

import pytest

from goverse.storage.api import HigherEpoch, OutcomeUnknown, StorageUnavailable
from goverse.storage.values import Acceptance, CallStatus, Outcome, Payload, Verdict
from goverse.testing.conformance.store_kit import Owner, Owners, StoreTests, WriteGate


class FaultTests(StoreTests):
    async def gated_owner(self, owners: Owners) -> tuple[Owner, WriteGate]:
        """An owner whose writes can be held up; everything else goes another way."""
        store, gate = await owners.gated()
        owner = await owners.owner(store)
        # What is held up later is then the write itself and no first preparation of it.
        await owner.commit(b"", id="first")
        await owner.accept("first", object="first")
        return owner, gate

    async def test_L07_a_commit_whose_answer_is_lost_is_found_after_raising(
        self, owners: Owners
    ) -> None:
        owner, gate = await self.gated_owner(owners)
        await owner.accept("c")
        gate.lose_answers()
        with pytest.raises(OutcomeUnknown):
            await owner.commit(
                b"1", outcomes=(Outcome(owner.id("c"), CallStatus.SUCCESS, Payload(b"r")),)
            )
        gate.heal()
        assert owner.store.snapshot().unknown == 1
        await owner.open()
        stored = await owner.stored()
        assert stored is not None and stored.version == 1
        assert (await owner.row("c")).status is CallStatus.SUCCESS
        assert (await owner.commit(b"2", version=1)).version == 2

    async def test_a_commit_that_is_delivered_late_is_shut_out(self, owners: Owners) -> None:
        owner, gate = await self.gated_owner(owners)
        await owner.accept("c")
        gate.hold()
        with pytest.raises(OutcomeUnknown):
            await owner.commit(
                b"late", outcomes=(Outcome(owner.id("c"), CallStatus.SUCCESS, Payload(b"r")),)
            )
        direct = Owner(await owners.store(), owner.slot, owner.epoch, owner.incarnation, 1)
        direct.name = owner.name
        await direct.open()
        assert await direct.stored() is None
        await gate.release()
        assert await direct.stored() is None
        assert (await direct.row("c")).status is CallStatus.PENDING
        assert (await direct.commit(b"1")).verdict is Verdict.DONE

    async def test_L07_an_accept_that_is_delivered_late_is_shut_out(self, owners: Owners) -> None:
        owner, gate = await self.gated_owner(owners)
        gate.hold()
        with pytest.raises(OutcomeUnknown):
            await owner.accept("c")
        direct = Owner(await owners.store(), owner.slot, owner.epoch, owner.incarnation, 1)
        direct.name = owner.name
        await direct.open()
        assert await direct.store.get_calls([owner.id("c")]) == {}
        await gate.release()
        assert await direct.store.get_calls([owner.id("c")]) == {}
        await direct.accept("c")

    async def test_an_accept_whose_answer_is_lost_is_found_after_raising(
        self, owners: Owners
    ) -> None:
        owner, gate = await self.gated_owner(owners)
        gate.lose_answers()
        with pytest.raises(OutcomeUnknown):
            await owner.accept("c1", "c2")
        gate.heal()
        await owner.open()
        rows = await owner.store.pending_calls([owner.slot])
        assert [row.call.call_id for row in rows][1:] == [owner.id("c1"), owner.id("c2")]
        [known] = await owner.store.accept([Acceptance(owner.fence, owner.call("c1"))])
        assert known.verdict is Verdict.KNOWN

    async def test_a_raise_that_is_delivered_late_takes_nothing_away(self, owners: Owners) -> None:
        owner, gate = await self.gated_owner(owners)
        gate.hold()
        with pytest.raises((OutcomeUnknown, StorageUnavailable)):
            await owner.open()
        direct = Owner(await owners.store(), owner.slot, owner.epoch, owner.incarnation, 2)
        direct.name = owner.name
        await direct.open()
        await gate.release()
        assert (await direct.commit(b"1")).verdict is Verdict.DONE

    async def test_a_late_raise_of_a_former_owner_takes_nothing_away(self, owners: Owners) -> None:
        owner, gate = await self.gated_owner(owners)
        gate.hold()
        with pytest.raises((OutcomeUnknown, StorageUnavailable)):
            await owner.open()
        new = await (await owners.successor(owner)).open()
        await gate.release()
        assert (await new.commit(b"1")).verdict is Verdict.DONE
        gate.heal()
        with pytest.raises(HigherEpoch):
            await owner.open()

    async def test_a_cancelled_wait_leaves_the_client_whole(self, owners: Owners) -> None:
        owner, gate = await self.gated_owner(owners)
        gate.hold()
        waiting = asyncio.ensure_future(owner.commit(b"1"))
        await asyncio.wait([waiting], timeout=0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        gate.heal()
        await owner.open()
        stored = await owner.stored()
        version = stored.version if stored else 0
        assert (await owner.commit(b"2", version=version)).verdict is Verdict.DONE
