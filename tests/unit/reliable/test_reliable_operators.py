"""Operators cancel and retry calls: in step with the order of the object, and in the audit log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from objects_kit import make_call, turns_of_the_loop
from reliable_kit import ReliableNode, reliable

import goverse
from goverse.aio.runtime import Runtime
from goverse.call import Verb
from goverse.config.settings import LimitSettings
from goverse.errors import (
    Conflict,
    DeadlineExceeded,
    Executed,
    FailedPrecondition,
    NotFound,
    NotOwner,
    Unavailable,
)
from goverse.ids import Epoch, ObjectId
from goverse.reliable.interventions import Changed, Wish, decode_changed
from goverse.reliable.requests import understand
from goverse.sharding import slot_of
from goverse.storage.api import OutcomeUnknown, StorageUnavailable
from goverse.storage.memory import MemoryStore
from goverse.storage.values import (
    Acceptance,
    CallStatus,
    CallStep,
    Fence,
    Payload,
    ReliableCall,
    Step,
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
    async def slow(self, amount: int = 1) -> int:
        began.append(amount)
        await may_end.wait()
        self.balance += amount
        self.log.append(amount)
        return self.balance

    @goverse.method(read_only=True)
    async def history(self) -> list[int]:
        return self.log

    @goverse.method
    async def astray(self, kind: str) -> str:
        return goverse.issue(goverse.get(kind, "b").deposit(amount=1))

    @goverse.method
    async def pay(self, to: str, amount: int) -> str:
        return goverse.issue(goverse.get(Account, to).deposit(amount=amount))


class Blocking(Account, on_parked="block"):
    pass


began: list[int] = []
may_end: asyncio.Event


@pytest.fixture(autouse=True)
async def fresh() -> None:
    global may_end
    began.clear()
    may_end = asyncio.Event()


@pytest.fixture
def acts(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str, list[str]]]]:
    """What the audit log has: actions, by whom, upon which calls."""
    caplog.set_level(logging.INFO, "goverse.audit")

    def found() -> list[tuple[str, str, list[str]]]:
        return [
            (record.action, record.by, record.call_ids)  # type: ignore[attr-defined]
            for record in caplog.records
            if record.name == "goverse.audit"
        ]

    return found


async def ask(
    node: ReliableNode,
    verb: Verb,
    call_id: str,
    *,
    type: str = "Account",
    id: str = "a",
    timeout_s: float = 5.0,
    **wish: Any,
) -> Changed:
    call = make_call(type, id, "", timeout_s=timeout_s, call_id=call_id, verb=verb)
    call.payload = msgspec.msgpack.encode(Wish(**wish))
    call.principal = "ops"
    return decode_changed((await node.catalog.invoke(call)).payload)


async def cancel(node: ReliableNode, call_id: str, **more: Any) -> Changed:
    return await ask(node, Verb.CANCEL, call_id, **more)


async def retry(node: ReliableNode, call_id: str, **more: Any) -> Changed:
    return await ask(node, Verb.RETRY, call_id, **more)


async def status(node: ReliableNode, call_id: str) -> CallStatus | None:
    row = await node.row(call_id)
    return row.status if row is not None else None


async def left_behind(
    store: MemoryStore, *calls: tuple[str, str, int], park: tuple[str, ...] = (), type: str = ""
) -> None:
    """Calls of object a that their owner has accepted, who is no more: id, method, amount."""
    client = store.connect()
    slot = slot_of("a")
    await client.raise_fence([slot], OLD, "dead", 1)
    fence = Fence(slot, OLD, 1)
    for call_id, method, amount in calls:
        call = ReliableCall(
            call_id,
            ObjectId(type or "Account", "a"),
            method,
            Payload(b"\x81\xa6amount" + bytes([amount])),
            call_id.encode(),
        )
        (result,) = await client.accept([Acceptance(fence, call)])
        assert result.verdict is Verdict.DONE
    for call_id in park:
        (step,) = await client.change_calls([CallStep(fence, call_id, Step.PARK, "killed")])
        assert step.verdict is Verdict.DONE


# ---- cancel


async def test_a_call_behind_another_is_cancelled_at_once(acts: Any) -> None:
    async with reliable(Account) as node:
        first = node.do("first", "Account", "a", "slow", amount=1)
        await eventually(lambda: began)
        second = node.do("second", "Account", "a", "deposit", amount=2)
        third = node.do("third", "Account", "a", "deposit", amount=4)
        await eventually(lambda: node.told.seen.count("accepted") == 3)
        found = await cancel(node, "second", reason="typed wrongly")
        assert found == Changed("skipped", "deposit", True, "cancelled: typed wrongly")
        with pytest.raises(FailedPrecondition, match="cancelled: typed wrongly") as skipped:
            await second
        assert skipped.value.executed is Executed.NO
        may_end.set()
        assert (await first, await third) == (1, 5)
        again = await cancel(node, "second")
        assert (again.status, again.changed) == ("skipped", False)
        assert acts() == [("call_cancelled", "ops", ["second"])]


async def test_a_running_turn_wins_and_the_answer_says_so(acts: Any) -> None:
    async with reliable(Account) as node:
        call = node.do("c", "Account", "a", "slow", amount=3)
        await eventually(lambda: began)
        cancelling = asyncio.ensure_future(cancel(node, "c"))
        await turns_of_the_loop(20)
        assert not cancelling.done()
        may_end.set()
        found = await cancelling
        assert (found.status, found.changed) == ("success", False)
        assert await call == 3
        assert acts() == [("call_not_cancelled", "ops", ["c"])]


async def test_a_turn_that_leaves_no_outcome_does_not_begin_again() -> None:
    async with reliable(Account) as node:
        call = node.do("c", "Account", "a", "slow", amount=3)
        await eventually(lambda: began)
        cancelling = asyncio.ensure_future(cancel(node, "c"))
        await turns_of_the_loop(20)
        for turn in next(iter(node.catalog._activations.values())).turns.values():
            turn.stop(Unavailable("interrupted"))
        assert (await cancelling).status == "skipped"
        with pytest.raises(FailedPrecondition, match="cancelled"):
            await call
        may_end.set()
        assert began == [3] and await node.get(Account, "a").history() == []


async def test_a_cancellation_that_nobody_waits_for_any_more_still_stands() -> None:
    async with reliable(Account) as node:
        call = node.do("c", "Account", "a", "slow", amount=3)
        await eventually(lambda: began)
        with pytest.raises(DeadlineExceeded, match="ask again") as late:
            await cancel(node, "c", timeout_s=0.05)
        assert late.value.executed is Executed.UNKNOWN
        for turn in next(iter(node.catalog._activations.values())).turns.values():
            turn.stop(Unavailable("interrupted"))
        with pytest.raises(FailedPrecondition, match="cancelled"):
            await call


async def test_an_unknown_call_is_recorded_as_skipped_and_can_never_run(acts: Any) -> None:
    async with reliable(Account) as node:
        found = await cancel(node, "c")
        assert (found.status, found.changed) == ("skipped", True)
        with pytest.raises(FailedPrecondition, match="cancelled"):
            await node.do("c", "Account", "a", "deposit")
        assert await node.get(Account, "a").history() == []
        with pytest.raises(Conflict):
            await cancel(node, "c", id="b")
        assert acts() == [("call_cancelled", "ops", ["c"])]
        assert node.told.seen.count("accepted") == 0


async def test_a_call_that_arrives_while_it_is_cancelled_is_skipped_or_done() -> None:
    for lead in range(12):
        async with reliable(Account) as node:
            call = node.do("c", "Account", "a", "deposit")
            await turns_of_the_loop(lead)
            found = await cancel(node, "c")
            ran = await node.get(Account, "a").history()
            if found.status == "skipped":
                with pytest.raises(FailedPrecondition, match="cancelled"):
                    await call
                assert ran == []
            else:
                assert (found.status, await call, ran) == ("success", 1, [1])
            assert await status(node, "c") is CallStatus(found.status)


async def test_a_parked_call_is_cancelled_and_who_waits_for_it_is_told() -> None:
    store = MemoryStore(Runtime())
    await left_behind(store, ("c", "deposit", 5), park=("c",))
    async with reliable(Account, store=store, epoch=NEW) as node:
        assert (await cancel(node, "c")).changed
        assert await status(node, "c") is CallStatus.SKIPPED
        assert node.reliability.snapshot().entries == 0


async def test_cancelling_when_the_store_is_away_changes_nothing() -> None:
    async with reliable(Account) as node:
        first = node.do("first", "Account", "a", "slow", amount=1)
        await eventually(lambda: began)
        second = node.do("second", "Account", "a", "deposit", amount=2)
        await eventually(lambda: node.told.seen.count("accepted") == 2)
        change = node.client.change_calls

        async def away(steps: Any) -> Any:
            raise StorageUnavailable("away")

        node.client.change_calls = away
        with pytest.raises(Unavailable, match="ask again") as unknown:
            await cancel(node, "second")
        assert unknown.value.executed is Executed.UNKNOWN
        node.client.change_calls = change
        # It was asked for, and stands: it is skipped where its turn would have been.
        may_end.set()
        assert await first == 1
        with pytest.raises(FailedPrecondition, match="cancelled"):
            await second


@pytest.mark.parametrize("written", [False, True])
async def test_a_cancellation_whose_answer_is_lost_is_settled(written: bool) -> None:
    async with reliable(Account) as node:
        first = node.do("first", "Account", "a", "slow", amount=1)
        await eventually(lambda: began)
        second = node.do("second", "Account", "a", "deposit", amount=2)
        await eventually(lambda: node.told.seen.count("accepted") == 2)
        change = node.client.change_calls

        async def lossy(steps: Any) -> Any:
            node.client.change_calls = change
            if written:
                await change(steps)
            raise OutcomeUnknown("lost")

        node.client.change_calls = lossy
        with pytest.raises(Unavailable):
            await cancel(node, "second")
        may_end.set()
        assert await first == 1
        with pytest.raises(FailedPrecondition, match="cancelled"):
            await second
        assert (await cancel(node, "second")).status == "skipped"
        assert await node.do("third", "Account", "a", "deposit", amount=4) == 5


async def test_a_shard_that_leaves_while_a_call_is_cancelled_says_so() -> None:
    async with reliable(Account) as node:
        first = node.do("first", "Account", "a", "slow", amount=1)
        await eventually(lambda: began)
        second = node.do("second", "Account", "a", "deposit", amount=2)
        await eventually(lambda: node.told.seen.count("accepted") == 2)
        change, asked, answer = node.client.change_calls, asyncio.Event(), asyncio.Event()

        async def slow(steps: Any) -> Any:
            asked.set()
            await answer.wait()
            return await change(steps)

        node.client.change_calls = slow
        cancelling = asyncio.ensure_future(cancel(node, "second"))
        await asked.wait()
        node.catalog.shards.discard_all("moved")
        answer.set()
        with pytest.raises(NotOwner):
            await cancelling
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert all(isinstance(one, goverse.GoverseError | NotOwner) for one in outcomes)


async def test_a_call_is_cancelled_while_the_rows_of_its_order_are_read_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with reliable(Account) as node:
        first = node.do("first", "Account", "a", "slow", amount=1)
        await eventually(lambda: began)
        second = node.do("second", "Account", "a", "deposit", amount=2)
        third = node.do("third", "Account", "a", "deposit", amount=4)
        await eventually(lambda: node.told.seen.count("accepted") == 3)
        get, asked, answer = node.client.get_calls, asyncio.Event(), asyncio.Event()

        async def slow(call_ids: Any) -> Any:
            if len(call_ids) == 2:
                asked.set()
                await answer.wait()
            return await get(call_ids)

        node.client.get_calls = slow
        shard = node.catalog.open_shard_of(make_call("Account", "a", "", call_id="x"))
        assert shard is not None
        order = node.reliability._unfinished.order_of(shard, ObjectId("Account", "a"))
        assert order is not None
        order.doubtful = True
        may_end.set()
        await asked.wait()
        assert (await cancel(node, "third")).status == "skipped"
        answer.set()
        assert (await first, await second) == (1, 3)
        with pytest.raises(FailedPrecondition, match="cancelled"):
            await third
        assert "tried again" not in caplog.text


async def test_the_order_goes_on_behind_a_cancelled_head() -> None:
    """The head waits in the mailbox behind a plain call, and is not begun."""
    async with reliable(Account) as node:
        plain = node.send(make_call("Account", "a", "slow", amount=1))
        await eventually(lambda: began)
        head = node.do("head", "Account", "a", "deposit", amount=2)
        behind = node.do("behind", "Account", "a", "deposit", amount=4)
        await eventually(lambda: node.told.seen.count("accepted") == 2)
        cancelling = asyncio.ensure_future(cancel(node, "head"))
        await turns_of_the_loop(20)
        may_end.set()
        await plain
        assert (await cancelling).status == "skipped"
        with pytest.raises(FailedPrecondition):
            await head
        assert await behind == 5


# ---- retry


async def test_a_parked_call_is_retried_at_the_end_of_its_order(acts: Any) -> None:
    store = MemoryStore(Runtime())
    await left_behind(store, ("bad", "deposit", 1), ("good", "deposit", 2), park=("bad",))
    async with reliable(Account, store=store, epoch=NEW) as node:
        assert await eventually_history(node, [2])
        found = await retry(node, "bad")
        assert found == Changed("pending", "deposit", True)
        assert await eventually_history(node, [2, 1])
        row = await node.row("bad")
        assert row is not None and row.status is CallStatus.SUCCESS and row.attempts == 0
        again = await retry(node, "bad")
        assert (again.status, again.changed) == ("success", False)
        assert acts() == [("call_retried", "ops", ["bad"])]
        with pytest.raises(NotFound, match="cleaned up"):
            await retry(node, "absent")
        with pytest.raises(Conflict):
            await retry(node, "bad", id="b")


async def eventually_history(node: ReliableNode, wanted: list[int]) -> bool:
    async def there() -> bool:
        return bool(await node.get(Account, "a").history() == wanted)

    await eventually(there)
    return True


async def test_who_repeats_a_parked_call_learns_its_outcome_once_it_is_retried() -> None:
    store = MemoryStore(Runtime())
    await left_behind(store, ("c", "deposit", 5), park=("c",))
    async with reliable(Account, store=store, epoch=NEW) as node:
        call = make_call("Account", "a", "deposit", call_id="c", amount=5)
        row = await node.row("c")
        assert row is not None
        # Its digest is that of whoever accepted it; here the row was made by hand.
        stored = node.client._tables._calls
        wanted, _ = understand(call, node.catalog.arrival, node.reliability._delays.clock)
        stored["c"] = replace(row, call=wanted)
        waiting = node.do("c", "Account", "a", "deposit", amount=5)
        await eventually(lambda: node.reliability.snapshot().entries == 1)
        assert (await retry(node, "c")).changed
        assert await waiting == 5


async def test_nothing_runs_before_a_call_that_is_being_retried() -> None:
    """What is accepted behind its new place has to wait until it is there: it would be taken for
    the first of its order after a crash."""
    store = MemoryStore(Runtime())
    await left_behind(store, ("bad", "deposit", 1), park=("bad",))
    async with reliable(Account, store=store, epoch=NEW) as node:
        change, asked, answer = node.client.change_calls, asyncio.Event(), asyncio.Event()

        async def slow(steps: Any) -> Any:
            results = await change(steps)
            asked.set()
            await answer.wait()
            return results

        node.client.change_calls = slow
        retrying = asyncio.ensure_future(retry(node, "bad"))
        await asked.wait()
        later = node.do("later", "Account", "a", "deposit", amount=2)
        await eventually(lambda: node.told.seen.count("accepted") == 1)
        await turns_of_the_loop(20)
        assert not later.done() and await node.get(Account, "a").history() == []
        answer.set()
        assert (await retrying).changed and await later == 3
        assert await node.get(Account, "a").history() == [1, 2]


@pytest.mark.parametrize("written", [False, True])
async def test_a_retry_whose_answer_is_lost_is_settled(written: bool) -> None:
    store = MemoryStore(Runtime())
    await left_behind(store, ("bad", "deposit", 1), park=("bad",))
    async with reliable(Account, store=store, epoch=NEW) as node:
        change = node.client.change_calls

        async def lossy(steps: Any) -> Any:
            node.client.change_calls = change
            if written:
                await change(steps)
            raise OutcomeUnknown("lost")

        node.client.change_calls = lossy
        if written:
            assert (await retry(node, "bad")).changed
        else:
            with pytest.raises(Unavailable):
                await retry(node, "bad")
            assert node.reliability.snapshot().entries == 0
            assert await status(node, "bad") is CallStatus.PARKED
            assert (await retry(node, "bad")).changed
        assert await eventually_history(node, [1])


async def test_a_call_that_is_not_parked_is_left_alone(acts: Any) -> None:
    async with reliable(Account) as node:
        call = node.do("c", "Account", "a", "slow", amount=1)
        await eventually(lambda: began)
        found = await retry(node, "c")
        assert (found.status, found.changed) == ("pending", False) and "not parked" in found.message
        may_end.set()
        assert await call == 1 and acts() == []


async def blocked(node: ReliableNode) -> None:
    await eventually(lambda: "parked" in node.told.seen)
    assert await status(node, "after") is CallStatus.PENDING


async def a_blocked_order(store: MemoryStore) -> LimitSettings:
    """Of Blocking/a, whose first call has ended a process once too often."""
    calls = (("poison", "slow", 2), ("after", "deposit", 4))
    await left_behind(store, *calls, type="Blocking")
    limits = LimitSettings(max_call_attempts=1)
    async with reliable(Blocking, store=store, epoch=NEW, limits=limits, released=False):
        await eventually(lambda: began)
    began.clear()
    return limits


async def test_L20_a_call_that_holds_up_its_object_is_retried_in_its_place() -> None:
    store = MemoryStore(Runtime())
    limits = await a_blocked_order(store)
    after = Epoch(1, 300)
    async with reliable(Blocking, store=store, epoch=after, limits=limits, released=False) as node:
        await blocked(node)
        found = await retry(node, "poison", type="Blocking")
        assert (found.status, found.changed) == ("pending", True)
        await eventually(lambda: began)
        row = await node.row("poison")
        assert row is not None and row.attempts == 1
        may_end.set()
        await eventually(lambda: node.told.seen.count("success") == 2)
        assert await node.get(Blocking, "a").history() == [2, 4]


async def test_L20_a_call_that_holds_up_its_object_is_cancelled_and_the_others_go_on() -> None:
    store = MemoryStore(Runtime())
    limits = await a_blocked_order(store)
    after = Epoch(1, 300)
    async with reliable(Blocking, store=store, epoch=after, limits=limits, released=False) as node:
        await blocked(node)
        assert (await cancel(node, "poison", type="Blocking")).status == "skipped"
        await eventually(lambda: "success" in node.told.seen)
        assert await node.get(Blocking, "a").history() == [4] and not began


# ---- deliveries


async def test_a_parked_delivery_is_delivered_again(acts: Any) -> None:
    store = MemoryStore(Runtime())
    async with reliable(Account, store=store, epoch=OLD) as node:
        child = await node.get(Account, "a").astray("Blocking")
        await eventually(lambda: "delivery parked" in node.told.seen)
        await eventually(lambda: len(node.reliability._outbox) == 0)
        with pytest.raises(NotFound, match="may have arrived"):
            await retry(node, "absent", delivery=True)
        with pytest.raises(Conflict):
            await retry(node, child, id="b", delivery=True)
        assert acts() == []
    async with reliable(Account, Blocking, store=store, epoch=NEW) as node:
        # The class is there now; the row waits for an operator all the same.
        await turns_of_the_loop(20)
        assert await node.row(child) is None
        assert (await retry(node, child, delivery=True)).changed
        await eventually(lambda: "success" in node.told.seen)
        assert await node.get(Blocking, "b").history() == [1]
        await eventually(lambda: len(node.reliability._outbox) == 0)
        assert not await node.store.connect().list_outbox(parked=True)
        assert not await node.store.connect().list_outbox(parked=False)
        assert acts() == [("delivery_retried", "ops", [child])]


async def test_a_cancelled_delivery_never_runs() -> None:
    """Its id is recorded at its target, where it arrives some time."""
    async with reliable(Account) as node:
        gate = asyncio.Event()

        async def later(call: Any) -> Any:
            if call.verb is Verb.ENQUEUE:
                await gate.wait()
            return await node.catalog.invoke(call)

        node.route = later
        child = await node.get(Account, "a").pay("b", 5)
        assert (await cancel(node, child, id="b")).status == "skipped"
        gate.set()
        await eventually(lambda: "delivered" in node.told.seen)
        assert await node.get(Account, "b").history() == []
        await eventually(lambda: len(node.reliability._outbox) == 0)
        assert not await node.store.connect().list_outbox(parked=False)


async def test_a_row_that_came_in_below_a_page_is_found_in_the_next_pass() -> None:
    """Positions are drawn before their commits: one that was missed while the first of several
    pages was read was forgotten when the second was asked for."""
    async with reliable(Account) as node:
        outbox = node.reliability._outbox
        shard = next(one for one in outbox._shards if one.opening is not None)
        rows = outbox._shards[shard]
        pages = iter([(7, True), (None, False), (None, False)])
        asked: list[int] = []

        async def page(slots: Any, cursor: int) -> Any:
            asked.append(cursor)
            following, missed = next(pages)
            rows.missed = rows.missed or missed
            if following:
                rows.cursor = following
            return type("Page", (), {"rows": (), "cursor": following})

        node.reliability._ledger.outbox_rows = page
        rows.behind, rows.cursor = True, 0
        outbox._read_on(shard)
        await eventually(lambda: not rows.behind)
        assert asked == [0, 7, 0]


# ---- a commit whose answer is lost, and what else happens to its call's row


def before_it_is_looked_for(node: ReliableNode, then: Callable[[Any], None]) -> None:
    """``then`` is done to the tables when a commit's answer was lost, before it is looked for."""
    load = node.client.load

    async def loading(objects: Any) -> Any:
        then(node.client._tables)
        return await load(objects)

    node.client.load = loading


async def test_L07_a_commit_is_not_taken_for_written_because_its_call_was_skipped() -> None:
    async with reliable(Account) as node:
        assert await node.do("b", "Account", "a", "deposit") == 1
        node.wire.plans = ["do", "hold and lose the answer"]  # accept, commit

        def skip(tables: Any) -> None:
            row = tables._calls["c"]
            if not row.status.finished:
                tables._finish(replace(row, status=CallStatus.SKIPPED, reason="cancelled"), 1.0)

        before_it_is_looked_for(node, skip)
        with pytest.raises(FailedPrecondition, match="never run: cancelled"):
            await node.do("c", "Account", "a", "deposit", amount=7)
        assert await node.get(Account, "a").history() == [1]
        assert await node.do("d", "Account", "a", "deposit") == 2


async def test_L07_a_commit_is_taken_for_written_although_its_call_was_cleaned_up() -> None:
    async with reliable(Account) as node:
        assert await node.do("b", "Account", "a", "deposit") == 1
        node.wire.plans = ["do", "do and lose the answer"]  # accept, commit
        gone: list[Any] = []

        def clean_up(tables: Any) -> None:
            gone.extend(tables.listing.delete(["c"], 1e10))

        before_it_is_looked_for(node, clean_up)
        assert await node.do("c", "Account", "a", "deposit", amount=7) == 8
        assert gone == ["c"] and node.counted.reasons == ["unknown"]
        assert await node.get(Account, "a").history() == [1, 7]


# ---- what cannot be understood


async def test_what_is_no_wish_is_refused() -> None:
    async with reliable(Account) as node:
        call = make_call("Account", "a", "", call_id="c", verb=Verb.CANCEL)
        call.payload = b"\xc1"
        with pytest.raises(goverse.InvalidArgument, match="no wish"):
            await node.catalog.invoke(call)
