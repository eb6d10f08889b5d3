"""A call with a call id takes effect once, whatever becomes of its callers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from objects_kit import make_call, turns_of_the_loop
from reliable_kit import reliable

import goverse
from goverse.call import ChainEntry, Codec, Verb
from goverse.config.settings import LimitSettings
from goverse.errors import (
    Conflict,
    DeadlineExceeded,
    Executed,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ObjectFailed,
    Overloaded,
    TooLarge,
    Unavailable,
)
from goverse.ids import Epoch
from goverse.storage.values import CallStatus
from tests.support.eventually import eventually


class Account(goverse.Object, durability="acknowledged"):
    balance: int = 0
    log: list[int] = []

    @goverse.method
    async def deposit(self, amount: int = 1) -> int:
        self.balance += amount
        self.log.append(amount)
        return self.balance

    @goverse.method
    async def refuse(self) -> None:
        self.balance += 1000
        raise goverse.ApplicationError("broke", "not enough", {"missing": 5})

    @goverse.method
    async def crash(self) -> None:
        self.balance += 1000
        raise ZeroDivisionError

    @goverse.method
    async def odd(self) -> Any:
        self.balance += 1000
        return object()

    @goverse.method
    async def grow(self, size: int) -> int:
        self.log = [2**40] * size
        return size

    @goverse.method
    async def wide(self, size: int) -> bytes:
        self.balance += 1000
        return b"x" * size

    @goverse.method(timeout_s=0.1)
    async def slow(self) -> int:
        self.balance += 1
        attempts.append(1)
        if len(attempts) < 3:
            await asyncio.Event().wait()
        return self.balance

    @goverse.method
    async def wait(self) -> int:
        await gate().wait()
        self.balance += 1
        return self.balance

    @goverse.method(read_only=True)
    async def get(self) -> int:
        return self.balance

    @goverse.method(read_only=True)
    async def history(self) -> list[int]:
        return self.log


class Volatile(goverse.Object):
    value: int = 0

    @goverse.method
    async def add(self) -> int:
        self.value += 1
        return self.value


class Stateless(goverse.Object, durability="acknowledged"):
    @goverse.method
    async def ping(self, text: str) -> str:
        attempts.append(1)
        return text


attempts: list[int] = []
_gates: list[asyncio.Event] = []


def gate() -> asyncio.Event:
    if not _gates:
        _gates.append(asyncio.Event())
    return _gates[0]


@pytest.fixture(autouse=True)
def fresh():
    attempts.clear()
    _gates.clear()


async def test_repeated_it_takes_effect_once_and_gives_the_same_result():
    async with reliable(Account) as node:
        assert await node.do("c1", "Account", "a", "deposit", amount=5) == 5
        assert await node.do("c2", "Account", "a", "deposit", amount=2) == 7
        assert await node.do("c1", "Account", "a", "deposit", amount=5) == 5
        assert await node.get(Account, "a").get() == 7
        row = await node.row("c1")
        assert row.status is CallStatus.SUCCESS and row.finished_at is not None
        assert node.told.seen.count("repeated") == 1
        assert node.reliability.snapshot().entries == 0


async def test_defaults_are_part_of_the_arguments():
    async with reliable(Account) as node:
        assert await node.do("c", "Account", "a", "deposit") == 1
        assert await node.do("c", "Account", "a", "deposit", amount=1) == 1
        assert await node.do("c", "Account", "a", "deposit", codec=Codec.JSON, amount=1) == 1


async def test_L06_an_id_used_for_something_else_is_a_conflict():
    async with reliable(Account) as node:
        assert await node.do("c", "Account", "a", "deposit", amount=5) == 5
        for other in [
            node.do("c", "Account", "a", "deposit", amount=6),
            node.do("c", "Account", "b", "deposit", amount=5),
            node.do("c", "Account", "a", "get"),
        ]:
            with pytest.raises(Conflict) as conflict:
                await other
            assert conflict.value.executed is Executed.NO
        # And while the first is still running.
        first = node.do("d", "Account", "a", "wait")
        await eventually(lambda: node.reliability.snapshot().entries == 1)
        with pytest.raises(Conflict):
            await node.do("d", "Account", "a", "deposit")
        gate().set()
        assert await first == 6


async def test_errors_of_the_method_are_kept_and_raised_again():
    async with reliable(Account) as node:
        for _ in range(2):
            with pytest.raises(goverse.ApplicationError) as refused:
                await node.do("r", "Account", "a", "refuse")
            assert (refused.value.code, refused.value.message) == ("broke", "not enough")
            assert refused.value.details == {"missing": 5}
            assert refused.value.executed is Executed.YES
            with pytest.raises(ObjectFailed) as failed:
                await node.do("z", "Account", "a", "crash")
            assert failed.value.executed is Executed.YES
            assert failed.value.details["type"] == "ZeroDivisionError"
        assert await node.get(Account, "a").get() == 0
        assert (await node.row("r")).status is CallStatus.FAILED


async def test_L08_a_result_that_cannot_be_encoded_is_a_failure_without_effect():
    async with reliable(Account, limits=LimitSettings(max_payload_bytes=1000)) as node:
        for _ in range(2):
            with pytest.raises(ObjectFailed, match="cannot be encoded"):
                await node.do("odd", "Account", "a", "odd")
            with pytest.raises(TooLarge, match="max_payload"):
                await node.do("wide", "Account", "a", "wide", size=2000)
        assert await node.get(Account, "a").get() == 0
        assert await node.do("next", "Account", "a", "deposit") == 1
        assert (await node.row("odd")).status is CallStatus.FAILED


async def test_L08_a_state_that_is_too_large_is_a_failure_and_nothing_is_stuck():
    async with reliable(Account, limits=LimitSettings(max_state_bytes=1000)) as node:
        for _ in range(2):
            with pytest.raises(TooLarge, match="max_state_bytes"):
                await node.do("grow", "Account", "a", "grow", size=500)
        assert await node.do("next", "Account", "a", "deposit", amount=3) == 3
        assert await node.get(Account, "a").history() == [3]


async def test_what_cannot_be_run_here_leaves_no_row():
    async with reliable(Account, Volatile) as node:
        cases = [
            ("Account", "nope", {}, NotFound),
            ("Nobody", "x", {}, NotFound),
            ("Account", "deposit", {"amount": "much"}, InvalidArgument),
            ("Account", "deposit", {"other": 1}, InvalidArgument),
            ("Volatile", "add", {}, FailedPrecondition),
        ]
        for type_name, method, arguments, error in cases:
            with pytest.raises(error) as refused:
                await node.do("c", type_name, "a", method, **arguments)
            assert refused.value.executed is Executed.NO
        with pytest.raises(FailedPrecondition, match='durability="acknowledged"'):
            await node.do("c", "Volatile", "a", "add")
        with pytest.raises(InvalidArgument, match="control character"):
            await node.do("c\0", "Account", "a", "deposit")
        with pytest.raises(InvalidArgument, match="longer than 1024"):
            await node.do("c" * 1025, "Account", "a", "deposit")
        with pytest.raises(InvalidArgument, match="a call of a method"):
            call = make_call("Account", "a", "", verb=Verb.DELETE, call_id="c")
            await node.catalog.invoke(call)
        chain = (ChainEntry("Account", "b", Epoch(1, 1), 1),)
        with pytest.raises(FailedPrecondition, match=r"goverse\.issue"):
            await node.catalog.invoke(
                make_call("Account", "a", "deposit", chain=chain, call_id="c")
            )
        assert await node.row("c") is None


async def test_a_class_without_state_can_be_durable_for_its_calls():
    async with reliable(Stateless) as node:
        assert await node.do("c", "Stateless", "a", "ping", text="hello") == "hello"
        assert await node.do("c", "Stateless", "a", "ping", text="hello") == "hello"
        assert len(attempts) == 1


async def test_sql_and_odd_text_in_ids_is_only_text():
    async with reliable(Account) as node:
        for call_id in ["'; drop table goverse_objects; --", "ü\U0001f600", " x "]:
            assert await node.do(call_id, "Account", call_id, "deposit") == 1
            assert await node.do(call_id, "Account", call_id, "deposit") == 1


async def test_a_caller_who_gives_up_changes_nothing_and_repetitions_wait_for_the_same():
    async with reliable(Account) as node:
        first = node.do("c", "Account", "a", "wait")
        second = node.do("c", "Account", "a", "wait", timeout_s=0.05)
        third = node.do("c", "Account", "a", "wait")
        await eventually(
            lambda: node.catalog.census.objects() and node.catalog.census.objects()[0].running
        )
        first.cancel()
        with pytest.raises(DeadlineExceeded) as late:
            await second
        assert late.value.executed is Executed.UNKNOWN
        gate().set()
        assert await third == 1
        assert await node.do("c", "Account", "a", "wait") == 1


async def test_L36_a_call_that_nobody_waits_for_any_more_runs_to_its_end():
    async with reliable(Account) as node:
        call = node.do("c", "Account", "a", "wait")
        await eventually(
            lambda: node.catalog.census.objects() and node.catalog.census.objects()[0].running
        )
        call.cancel()
        await eventually(call.done)
        gate().set()
        await eventually(lambda: "success" in node.told.seen)
        assert await node.do("c", "Account", "a", "wait") == 1


async def test_a_call_that_is_given_up_before_it_was_sent_leaves_nothing():
    async with reliable(Account) as node:
        node.wire.plans = ["wait"]
        first = node.do("first", "Account", "a", "deposit")
        await eventually(lambda: not node.wire.plans)
        second = node.do("second", "Account", "a", "deposit")
        await eventually(lambda: node.reliability.snapshot().accepting == 1)
        second.cancel()
        await eventually(lambda: node.reliability.snapshot().accepting == 0)
        node.wire.gate.set()
        assert await first == 1
        assert await node.row("second") is None
        assert node.reliability.snapshot().entries == 0


async def test_an_interrupted_turn_leaves_the_call_pending_and_it_is_run_again():
    async with reliable(Account) as node:
        call = node.do("c", "Account", "a", "slow")
        behind = node.do("d", "Account", "a", "deposit")
        assert await call == 1
        assert await behind == 2  # and nothing has overtaken it
        assert len(attempts) == 3


async def test_calls_of_one_object_run_in_the_order_of_their_accepts():
    async with reliable(Account) as node:
        calls = [node.do(f"c{n}", "Account", "a", "deposit", amount=n) for n in range(300)]
        await asyncio.gather(*calls)
        assert await node.get(Account, "a").history() == list(range(300))
        rows = [await node.row(f"c{n}") for n in range(300)]
        assert [row.seq for row in rows] == sorted(row.seq for row in rows)
        assert node.reliability.snapshot().entries == 0


async def test_accepts_and_commits_of_many_calls_share_transactions():
    async with reliable(Account) as node:
        before = node.wire.requests
        calls = [node.do(f"c{n}", "Account", f"a{n}", "deposit") for n in range(200)]
        assert await asyncio.gather(*calls) == [1] * 200
        assert node.wire.requests - before < 60


async def test_no_batch_has_more_than_half_of_the_calls_under_way(
    monkeypatch: pytest.MonkeyPatch,
):
    """So that the node has one half while the store has the other."""
    async with reliable(Account) as node:
        batches: list[tuple[int, int]] = []
        accept = node.client.accept

        async def noted(acceptances: Any) -> Any:
            batches.append((len(acceptances), node.reliability.snapshot().entries))
            return await accept(acceptances)

        monkeypatch.setattr(node.client, "accept", noted)
        calls = [node.do(f"c{n}", "Account", f"a{n}", "deposit") for n in range(200)]
        await asyncio.gather(*calls)
        assert sum(size for size, _ in batches) == 200
        assert batches[0] == (100, 200)
        assert all(size <= max(16, under_way // 2) for size, under_way in batches)


async def test_L01_state_and_outcome_are_in_one_commit():
    async with reliable(Account) as node:
        assert await node.do("c", "Account", "a", "deposit") == 1
        assert node.counted.batches == [1]
        stored = await node.stored("Account", "a")
        assert stored.version == 1


async def test_L07_an_accept_whose_answer_is_lost_is_not_reported_as_never_executed():
    for plan in ["do and lose the answer", "hold and lose the answer"]:
        async with reliable(Account) as node:
            node.wire.plans = [plan]
            assert await node.do("c", "Account", "a", "deposit") == 1
            node.wire.deliver()  # late: the old transaction comes after all
            assert await node.do("c", "Account", "a", "deposit") == 1
            assert await node.get(Account, "a").get() == 1
            assert (await node.row("c")).status is CallStatus.SUCCESS


async def test_L07_a_commit_whose_answer_is_lost_is_settled_before_anybody_is_told():
    for plan in ["do and lose the answer", "hold and lose the answer"]:
        async with reliable(Account) as node:
            node.wire.plans = ["do", "do", plan]  # accept, load, commit
            assert await node.do("c", "Account", "a", "deposit") == 1
            node.wire.deliver()
            assert await node.do("d", "Account", "a", "deposit") == 2
            assert await node.get(Account, "a").history() == [1, 1]


def late_after(node: Any, read: str, then: Callable[[], Any] = lambda: None) -> None:
    """What is held on the wire comes to the tables right after ``read`` has been answered, when
    its sender believes that it knows what became of it."""
    method = getattr(node.client, read)

    async def answered(*arguments: Any) -> Any:
        found = await method(*arguments)
        node.wire.deliver()
        then()
        return found

    setattr(node.client, read, answered)


async def test_L07_a_commit_that_comes_after_it_was_looked_for_changes_nothing():
    async with reliable(Account) as node:
        assert await node.do("b", "Account", "a", "deposit") == 1
        node.wire.plans = ["do", "hold and lose the answer"]  # accept, commit
        late_after(node, "get_calls")
        assert await node.do("c", "Account", "a", "deposit") == 2
        assert not node.wire.held
        assert node.counted.reasons == ["unknown"], "it was written after all"
        assert (await node.row("c")).status is CallStatus.SUCCESS, "nothing was written"
        assert await node.get(Account, "a").history() == [1, 1]


async def test_L07_an_accept_that_comes_after_it_was_looked_for_makes_no_row():
    async with reliable(Account) as node:
        node.wire.plans = ["hold and lose the answer"]
        seen = []
        late_after(node, "get_calls", lambda: seen.append(node.client._tables.get_calls(["c"])))
        assert await node.do("c", "Account", "a", "deposit") == 1
        assert seen == [{}], "it was written after all"


async def test_a_call_whose_accept_was_lost_is_not_overtaken_by_one_that_came_later():
    async with reliable(Account) as node:
        node.wire.plans = ["hold and lose the answer", "wait"]  # accept, raise
        first = node.do("c", "Account", "a", "deposit", amount=1)
        await eventually(lambda: not node.wire.plans)
        second = node.do("d", "Account", "a", "deposit", amount=2)
        await turns_of_the_loop(5)
        node.wire.gate.set()
        assert (await first, await second) == (1, 3)
        assert await node.get(Account, "a").history() == [1, 2]


async def test_while_the_store_is_away_calls_fail_at_once_and_can_be_repeated():
    async with reliable(Account) as node:
        node.wire.away = True
        with pytest.raises(Unavailable) as away:
            await node.do("c", "Account", "a", "deposit")
        assert away.value.executed is Executed.NO
        node.wire.away = False
        assert await node.do("c", "Account", "a", "deposit") == 1


async def test_the_number_of_calls_under_way_is_limited():
    async with reliable(Account, limits=LimitSettings(max_reliable_calls=3)) as node:
        calls = [node.do(f"c{n}", "Account", "a", "wait") for n in range(3)]
        await eventually(lambda: node.reliability.snapshot().entries == 3)
        limits = {limit.name: limit for limit in node.reliability.limits()}
        assert (limits["reliable.calls"].used, limits["reliable.calls"].most) == (3, 3)
        with pytest.raises(Overloaded, match="max_reliable_calls") as full:
            await node.do("d", "Account", "a", "deposit")
        assert full.value.executed is Executed.NO
        gate().set()
        assert await asyncio.gather(*calls) == [1, 2, 3]
        assert await node.do("d", "Account", "a", "deposit") == 4
        assert not any(limit.used for limit in node.reliability.limits())


async def test_the_bytes_of_calls_under_way_are_limited():
    async with reliable(Account, limits=LimitSettings(max_reliable_bytes=1)) as node:
        first = node.do("c", "Account", "a", "wait")
        await eventually(lambda: node.reliability.snapshot().entries == 1)
        with pytest.raises(Overloaded, match="max_reliable_bytes") as full:
            await node.do("d", "Account", "a", "deposit")
        assert full.value.executed is Executed.NO
        gate().set()
        assert await first == 1
        assert await node.do("d", "Account", "a", "deposit") == 2
        assert node.reliability.snapshot().bytes == 0


async def test_without_a_store_a_call_id_is_refused():
    from objects_kit import running

    async with running(Volatile) as node:
        with pytest.raises(FailedPrecondition, match=r"storage\.url"):
            await node.catalog.invoke(make_call("Volatile", "a", "add", call_id="c"))


async def test_plain_calls_go_on_beside_reliable_ones():
    async with reliable(Account) as node:
        calls: list[Any] = []
        for n in range(50):
            calls.append(node.do(f"c{n}", "Account", "a", "deposit"))
            calls.append(node.call("Account", "a", "deposit"))
            await turns_of_the_loop(1)
        await asyncio.gather(*calls)
        assert await node.get(Account, "a").get() == 100
