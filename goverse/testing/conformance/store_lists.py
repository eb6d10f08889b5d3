"""What operators list, count and clean up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from goverse.storage.api import MAX_BATCH_ITEMS, MAX_PAGE, Store
from goverse.storage.listing import START, CallPosition, FinishedCount, ListedCall, finished_from
from goverse.storage.values import (
    Acceptance,
    Act,
    CallStatus,
    CallStep,
    OutboxChange,
    OutboxStep,
    Outcome,
    Payload,
    Step,
    Verdict,
)
from goverse.testing.conformance.store_kit import Owner, Owners, StoreTests

LATER = 3_000_000_000.0


async def listed(store: Store, status: CallStatus, limit: int = MAX_PAGE) -> list[ListedCall]:
    """All of one status, page by page."""
    found: list[ListedCall] = []
    after = START
    while page := await store.list_calls(status, after=after, limit=limit):
        assert len(page) <= limit
        found += page
        after = page[-1].position
    assert [one.position for one in found] == sorted({one.position for one in found})
    return found


async def counted(
    store: Store,
    status: CallStatus,
    before: float,
    *,
    after: CallPosition = START,
    limit: int = MAX_PAGE,
) -> tuple[int, int]:
    """Calls that would be deleted, and those that are spared, page by page."""
    calls = spared = 0
    position: CallPosition | None = after
    while position is not None:
        page = await store.count_finished(status, before, after=position, limit=limit)
        calls, spared = calls + page.calls, spared + page.spared
        position = page.last
    return calls, spared


def ids(owner: Owner, calls: Sequence[ListedCall]) -> list[str]:
    return [call.call_id.removeprefix(f"{owner.name}/") for call in calls]


class ListTests(StoreTests):
    """Whole ledgers are looked at, so each test has a store of its own."""

    @pytest.fixture
    async def store(self, owners: Owners) -> Store:
        store = await owners.new_store()
        await store.migrate()
        return store

    @pytest.fixture
    async def owner(self, owners: Owners, store: Store) -> Owner:
        return await owners.owner(store)

    async def finish(
        self, owner: Owner, *names: str, status: CallStatus, object: str = "o"
    ) -> None:
        """Accept calls of one object, and finish them in one commit."""
        await owner.accept(*names, object=object)
        stored = await owner.stored(object)
        outcomes = tuple(Outcome(owner.id(name), status, Payload(b"12345")) for name in names)
        result = await owner.commit(
            version=stored.version if stored else 0, id=object, outcomes=outcomes
        )
        assert result.verdict is Verdict.DONE

    async def finished_at(self, owner: Owner, name: str) -> float:
        moment = (await owner.row(name)).finished_at
        assert moment is not None
        return moment

    # ---- lists

    async def test_a_call_is_listed_as_its_row_stands(self, owner: Owner) -> None:
        [seq] = await owner.accept("c")
        await owner.store.change_calls([CallStep(owner.fence, owner.id("c"), Step.ATTEMPT)])
        [pending] = await owner.store.list_calls(CallStatus.PENDING)
        row = await owner.row("c")
        assert pending == ListedCall(
            call_id=row.call.call_id,
            object=row.call.object,
            method="add",
            slot=owner.slot,
            seq=seq,
            status=CallStatus.PENDING,
            attempts=1,
            reason="",
            principal="somebody",
            parent="",
            argument_bytes=4,
            result_bytes=0,
            created_at=row.created_at,
            expires_at=row.call.expires_at,
            finished_at=None,
            run_at=None,
        )
        outcome = Outcome(owner.id("c"), CallStatus.FAILED, Payload(b"12345"), "why")
        await owner.commit(b"1", outcomes=(outcome,))
        assert await owner.store.list_calls(CallStatus.PENDING) == []
        [failed] = await owner.store.list_calls(CallStatus.FAILED)
        assert failed == replace(
            pending,
            status=CallStatus.FAILED,
            reason="why",
            result_bytes=5,
            finished_at=await self.finished_at(owner, "c"),
        )

    async def test_live_calls_come_by_slot_in_pages(self, owners: Owners, owner: Owner) -> None:
        other = await owners.owner(owner.store)
        await other.accept("z", "a", "q")
        await owner.accept("y", "b", "x")
        for each, name in ((owner, "y"), (other, "q"), (owner, "b")):
            parking = CallStep(each.fence, each.id(name), Step.PARK, "killed its node")
            await each.store.change_calls([parking])
        for limit in (1, 2, MAX_PAGE):
            pending = await listed(owner.store, CallStatus.PENDING, limit)
            assert [call.slot for call in pending] == [owner.slot, other.slot, other.slot]
            assert ids(other, pending[1:]) == ["z", "a"]
            parked = await listed(owner.store, CallStatus.PARKED, limit)
            assert ids(owner, parked[:2]) == ["b", "y"] and ids(other, parked[2:]) == ["q"]
            assert {call.reason for call in parked} == {"killed its node"}
            assert await listed(owner.store, CallStatus.DELAYED, limit) == []
        behind = await owner.store.list_calls(
            CallStatus.PENDING, after=CallPosition(other.slot), limit=1
        )
        assert ids(other, behind) == ["z"]

    async def test_finished_calls_come_as_they_finished(self, owner: Owner) -> None:
        # Several at one moment, perhaps: they have an order all the same.
        await self.finish(owner, "z", "y", "x", status=CallStatus.SUCCESS)
        await self.finish(owner, "w", status=CallStatus.FAILED)
        await self.finish(owner, "b", "a", status=CallStatus.SUCCESS)
        for limit in (1, 2, MAX_PAGE):
            found = ids(owner, await listed(owner.store, CallStatus.SUCCESS, limit))
            assert (set(found[:3]), set(found[3:])) == ({"x", "y", "z"}, {"a", "b"})
            assert ids(owner, await listed(owner.store, CallStatus.FAILED, limit)) == ["w"]
        since = finished_from(await self.finished_at(owner, "b"))
        late = await owner.store.list_calls(CallStatus.SUCCESS, after=since)
        assert {"b"} <= set(ids(owner, late)) <= {"a", "b"}

    async def test_deliveries_are_listed_with_their_senders(self, owner: Owner) -> None:
        calls = tuple(owner.call(name, object="target") for name in "zay")
        await owner.commit(b"1", outbox=calls)
        await owner.store.change_outbox(
            [OutboxChange(owner.fence, owner.id("a"), OutboxStep.PARK, "no such method")]
        )
        waiting: list[ListedCall] = []
        while page := await owner.store.list_outbox(
            parked=False, after=waiting[-1].position if waiting else START, limit=1
        ):
            waiting += page
        assert ids(owner, waiting) == ["z", "y"]
        [parked] = await owner.store.list_outbox(parked=True)
        assert (parked.call_id, parked.reason) == (owner.id("a"), "no such method")
        assert (parked.sender, parked.object) == (owner.object(), owner.object("target"))
        assert (parked.status, waiting[0].status) == (CallStatus.PARKED, CallStatus.PENDING)
        assert (parked.argument_bytes, parked.result_bytes, parked.finished_at) == (4, 0, None)
        found = await owner.store.deliveries([owner.id("z"), owner.id("a"), owner.id("absent")])
        assert found == {owner.id("z"): waiting[0], owner.id("a"): parked}
        assert parked.slot == owner.slot and waiting[0].seq < parked.seq < waiting[1].seq

    # ---- cleanup

    async def test_cleanup_deletes_what_it_has_counted(self, owner: Owner) -> None:
        store = owner.store
        await self.finish(owner, "a", "b", "c", status=CallStatus.SUCCESS)
        await self.finish(owner, "d", status=CallStatus.FAILED)
        await self.finish(owner, "new", status=CallStatus.SUCCESS)
        await owner.accept("waits")
        before = await self.finished_at(owner, "new")
        for limit in (1, 2, 3, 4, MAX_PAGE):
            assert await counted(store, CallStatus.SUCCESS, before, limit=limit) == (3, 0)
            assert await counted(store, CallStatus.FAILED, before, limit=limit) == (1, 0)
            assert await counted(store, CallStatus.SKIPPED, before, limit=limit) == (0, 0)
        times = [await self.finished_at(owner, name) for name in "abc"]
        page = await store.count_finished(CallStatus.SUCCESS, before)
        assert page == FinishedCount(3, 0, min(times), max(times), None)

        everything = [owner.id(name) for name in ("d", "waits", "new", "a", "absent")]
        assert sorted(await store.delete_finished(everything, before)) == [
            owner.id("a"),
            owner.id("d"),
        ]
        assert await store.delete_finished(everything, before) == []
        left = await store.get_calls([owner.id(name) for name in ("a", "b", "d", "waits", "new")])
        assert sorted(left) == sorted(owner.id(name) for name in ("b", "waits", "new"))
        assert await counted(store, CallStatus.SUCCESS, LATER) == (3, 0)

    async def test_what_is_live_is_never_deleted(self, owner: Owner) -> None:
        await owner.accept("pending", "parked")
        parking = CallStep(owner.fence, owner.id("parked"), Step.PARK, "r")
        await owner.store.change_calls([parking])
        live = [owner.id("pending"), owner.id("parked")]
        assert await owner.store.delete_finished(live, LATER) == []
        assert len(await owner.store.get_calls(live)) == 2
        for status in (CallStatus.PENDING, CallStatus.DELAYED, CallStatus.PARKED):
            with pytest.raises(ValueError, match="not finished"):
                await owner.store.count_finished(status, LATER)

    @pytest.mark.parametrize("parked", [False, True])
    async def test_a_call_whose_delivery_still_stands_is_spared(
        self, owner: Owner, parked: bool
    ) -> None:
        """It would be delivered once more, to a target that does not know it any longer."""
        store = owner.store
        await owner.commit(b"1", outbox=(owner.call("c", object="target"),))
        await self.finish(owner, "c", "d", status=CallStatus.SUCCESS, object="target")
        if parked:
            await store.change_outbox(
                [OutboxChange(owner.fence, owner.id("c"), OutboxStep.PARK, "r")]
            )
        page = await store.count_finished(CallStatus.SUCCESS, LATER)
        moment = await self.finished_at(owner, "d")
        assert page == FinishedCount(1, 1, moment, moment, None)
        for limit in (1, 2):
            assert await counted(store, CallStatus.SUCCESS, LATER, limit=limit) == (1, 1)
        both = [owner.id("c"), owner.id("d")]
        assert await store.delete_finished(both, LATER) == [owner.id("d")]

        await store.change_outbox([OutboxChange(owner.fence, owner.id("c"), OutboxStep.DELIVERED)])
        assert await counted(store, CallStatus.SUCCESS, LATER) == (1, 0)
        assert await store.delete_finished(both, LATER) == [owner.id("c")]

    async def test_a_deleted_call_id_is_as_new(self, owner: Owner) -> None:
        await self.finish(owner, "c", status=CallStatus.SUCCESS)
        seq = (await owner.row("c")).seq
        assert await owner.store.delete_finished([owner.id("c")], LATER) == [owner.id("c")]
        [again] = await owner.accept("c")
        assert again > seq
        assert (await owner.row("c")).status is CallStatus.PENDING
        assert await owner.store.delete_finished([owner.id("c")], LATER) == []

    async def test_a_call_that_ran_again_since_is_not_the_one_that_was_meant(
        self, owner: Owner
    ) -> None:
        await self.finish(owner, "c", status=CallStatus.SUCCESS)
        before = await self.finished_at(owner, "c") + 0.000_001
        await owner.store.delete_finished([owner.id("c")], before)
        await self.finish(owner, "c", status=CallStatus.SUCCESS)
        assert await owner.store.delete_finished([owner.id("c")], before) == []
        assert (await owner.row("c")).status is CallStatus.SUCCESS

    async def test_two_that_clean_up_at_once_delete_each_call_once(self, owners: Owners) -> None:
        one, two = await owners.store(), await owners.store()
        owner = await owners.owner(one)
        names = [f"c{n}" for n in range(64)]
        await self.finish(owner, *names, status=CallStatus.SUCCESS)
        doomed = [owner.id(name) for name in names]
        first, second = await asyncio.gather(
            one.delete_finished(doomed, LATER), two.delete_finished(doomed[::-1], LATER)
        )
        assert sorted([*first, *second]) == sorted(doomed)

    async def test_a_call_that_is_repeated_while_it_is_deleted_is_known_or_new(
        self, owners: Owners
    ) -> None:
        cleaner = await owners.store()
        owner = await owners.owner()
        for n in range(8):
            name = f"c{n}"
            await self.finish(owner, name, status=CallStatus.SUCCESS)
            again = Acceptance(owner.fence, owner.call(name))
            [result], deleted = await asyncio.gather(
                owner.store.accept([again]), cleaner.delete_finished([owner.id(name)], LATER)
            )
            if result.verdict is Verdict.REFUSED:
                assert "cleaned up" in result.message
                [result] = await owner.store.accept([again])
            if result.verdict is Verdict.DONE:
                assert deleted == [owner.id(name)]
                assert (await owner.row(name)).status is CallStatus.PENDING
            else:
                # What it was told is what had happened.
                assert result.verdict is Verdict.KNOWN and result.stored is not None
                assert result.stored.status is CallStatus.SUCCESS

    async def test_calls_that_a_deletion_skipped_are_finished(self, owner: Owner) -> None:
        await owner.commit(b"1")
        await owner.accept("a", "b")
        await owner.commit(Act.DELETE, version=1)
        assert await counted(owner.store, CallStatus.SKIPPED, LATER) == (2, 0)
        skipped = await listed(owner.store, CallStatus.SKIPPED)
        assert {call.reason for call in skipped} == {"deleted"}
        deleted = await owner.store.delete_finished([call.call_id for call in skipped], LATER)
        assert len(deleted) == 2

    async def test_the_clock_is_the_one_that_stamps_rows(self, owner: Owner) -> None:
        earlier = await owner.store.now()
        await self.finish(owner, "c", status=CallStatus.SUCCESS)
        later = await owner.store.now()
        assert earlier <= await self.finished_at(owner, "c") <= later
        size = await owner.store.ledger_size()
        assert size.table_bytes is None or size.table_bytes > 0

    async def test_what_makes_no_sense_is_refused(self, store: Store) -> None:
        for limit in (0, MAX_PAGE + 1):
            with pytest.raises(ValueError, match="limit"):
                await store.list_calls(CallStatus.PENDING, limit=limit)
            with pytest.raises(ValueError, match="limit"):
                await store.list_outbox(parked=True, limit=limit)
            with pytest.raises(ValueError, match="limit"):
                await store.count_finished(CallStatus.SUCCESS, LATER, limit=limit)
        with pytest.raises(ValueError, match="position"):
            await store.list_calls(CallStatus.PENDING, after=CallPosition(-1))
        with pytest.raises(ValueError, match="before"):
            await store.count_finished(CallStatus.SUCCESS, -1.0)
        with pytest.raises(ValueError, match="twice"):
            await store.delete_finished(["a", "a"], LATER)
        with pytest.raises(ValueError, match="call ids"):
            await store.delete_finished([f"c{n}" for n in range(MAX_BATCH_ITEMS + 1)], LATER)
        assert await store.delete_finished([], LATER) == []
