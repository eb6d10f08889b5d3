"""Ids that databases like to confuse, and sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from goverse.ids import ObjectId
from goverse.storage.values import (
    Acceptance,
    CallStatus,
    CallStep,
    ObjectCommit,
    Outcome,
    Payload,
    State,
    Step,
    Verdict,
)
from goverse.testing.conformance.store_kit import Owners, StoreTests

#: Different objects, all of them.
IDS = (
    "id",
    "ID",
    "Id",
    "id ",
    " id",
    "id  ",
    "\u00e9",  # one code point
    "e\u0301",  # the same to the eye, in two
    "e",
    "ß",
    "ss",
    "ﬀ",
    "ff",
    "İ",
    "i",
    "ı",
    "😀",
    "😁",
    "👩‍👩‍👧",
    "👩",
    "\u200bid",
    "\ufeffid",
    "id\u00a0",
    "％",
    "%",
    "_",
    "'; DROP TABLE goverse_objects; --",
    '"; DELETE FROM goverse_objects; --',
    "\\",
    "\\'",
    "$1",
    "%s",
    "{}",
    ":id",
    "?",
    "NULL",
    "0",
    "00",
    "0.0",
    "-0",
    "1e1",
    "10",
    "🏳️‍🌈" * 20,
    "x" * 512,
    "x" * 511,
    "\U0010ffff",
    "\ud7ff",
    "\ue000",
)


class IdTests(StoreTests):
    async def test_ids_are_compared_byte_by_byte(self, owners: Owners) -> None:
        assert len({id.encode() for id in IDS}) == len(IDS)
        owner = await owners.owner()
        names = [ObjectId(f"T{owner.slot}", id) for id in IDS]
        batch = [ObjectCommit(owner.fence, name, 0, State(name.id.encode())) for name in names]
        assert all(result.verdict is Verdict.DONE for result in await owner.store.commit(batch))
        other = await owners.store()
        found = await other.load(names)
        assert {name: stored.state for name, stored in found.items()} == {
            name: State(name.id.encode()) for name in names
        }
        upper = [name._replace(type=name.type.lower()) for name in names]
        assert await other.load(upper) == {}

    async def test_call_ids_are_compared_byte_by_byte(self, owners: Owners) -> None:
        owner = await owners.owner()
        calls = []
        for id in IDS:
            call = owner.call(id)
            calls.append(Acceptance(owner.fence, call))
        results = await owner.store.accept(calls)
        assert all(result.verdict is Verdict.DONE for result in results)
        assert [result.seq for result in results] == sorted({result.seq for result in results})
        found = await owner.store.get_calls([owner.id(id) for id in IDS])
        assert {row.call.call_id for row in found.values()} == {owner.id(id) for id in IDS}
        outcome = Outcome(owner.id("id"), CallStatus.SUCCESS, Payload(b"'; --"), "'\"\\ %s")
        await owner.commit(b"1", outcomes=(outcome,))
        for id in ("ID", "id ", "Id"):
            assert (await owner.row(id)).status is CallStatus.PENDING
        assert (await owner.row("id")).reason == "'\"\\ %s"

    async def test_pages_go_by_bytes_where_ids_begin_alike(self, owners: Owners) -> None:
        """Ids that begin with each other, and ids that differ beyond what a key can hold."""
        owner = await owners.owner()
        ids = ["a" * n for n in range(1, 13)] + ["x" * 900 + end for end in "qpzab"]
        ids += ["\u00e9", "a\u00e9", "a~"]
        calls = [Acceptance(owner.fence, owner.call(id)) for id in reversed(ids)]
        assert all(result.verdict is Verdict.DONE for result in await owner.store.accept(calls))
        parking = [CallStep(owner.fence, owner.id(id), Step.PARK, "r") for id in ids]
        await owner.store.change_calls(parking)
        found: list[str] = []
        while page := await owner.store.parked_calls(
            [owner.slot], after=found[-1] if found else "", limit=3
        ):
            found += [row.call.call_id for row in page]
        assert found == sorted((owner.id(id) for id in ids), key=str.encode)

    @pytest.mark.parametrize(
        ("id", "message"),
        [
            ("a\0b", "control character"),
            ("", "empty"),
            ("a\nb", "control character"),
            ("\ud800", "surrogate"),
            ("x" * 513, "longer than 512 bytes"),
        ],
    )
    async def test_what_is_no_id_is_refused_with_a_clear_error(
        self, owners: Owners, id: str, message: str
    ) -> None:
        owner = await owners.owner()
        bad = ObjectId("Thing", id)
        good = owner.commit_of(b"1", id="good")
        with pytest.raises(ValueError, match=message):
            await owner.store.commit([good, ObjectCommit(owner.fence, bad, 0, State(b""))])
        with pytest.raises(ValueError, match=message):
            await owner.store.load([bad])
        assert await owner.stored("good") is None

    @pytest.mark.parametrize("call_id", ["a\0b", "", "\ud800", "x" * 1025])
    async def test_what_is_no_call_id_is_refused(self, owners: Owners, call_id: str) -> None:
        owner = await owners.owner()
        with pytest.raises(ValueError, match="call id"):
            await owner.store.get_calls([call_id])
        with pytest.raises(ValueError, match="call id"):
            call = replace(owner.call("c"), call_id=call_id)
            await owner.store.accept([Acceptance(owner.fence, call)])

    async def test_NUL_is_refused_wherever_text_is(self, owners: Owners) -> None:
        owner = await owners.owner()
        await owner.accept("c")
        with pytest.raises(ValueError, match=r"reason.*NUL"):
            await owner.commit(outcomes=(Outcome(owner.id("c"), CallStatus.SKIPPED, None, "a\0b"),))
        # Bytes may hold anything.
        assert (await owner.commit(b"\0\0", version=0)).verdict is Verdict.DONE
        assert await owner.state() == b"\0\0"

    @pytest.mark.parametrize("mebibytes", [1, 10])
    async def test_large_states_are_kept_whole(self, owners: Owners, mebibytes: int) -> None:
        owner = await owners.owner()
        # No pattern that a database could compress.
        state = b"".join(n.to_bytes(4, "big") for n in range(mebibytes * 262_144))
        await owner.accept("c")
        result = state[: 1024 * 1024]
        outcome = Outcome(owner.id("c"), CallStatus.SUCCESS, Payload(result))
        batch = [owner.commit_of(state, id="big"), owner.commit_of(b"s", outcomes=(outcome,))]
        results = await owner.store.commit(batch)
        assert [result.verdict for result in results] == [Verdict.DONE, Verdict.DONE]
        assert await owner.state("big") == state
        assert (await owner.row("c")).result == Payload(result)

    async def test_a_batch_beyond_all_measure_is_refused(self, owners: Owners) -> None:
        owner = await owners.owner()
        batch = [owner.commit_of(b"1", id=f"{n}") for n in range(1025)]
        with pytest.raises(ValueError, match="1025 objects"):
            await owner.store.commit(batch)
        huge = bytes(300 * 1024 * 1024)
        with pytest.raises(ValueError, match="bytes"):
            await owner.commit(huge)
        for limit in (0, 10_001):
            with pytest.raises(ValueError, match="limit"):
                await owner.store.pending_calls([1], limit=limit)
