"""Reliable calls from one object to another: part of their turn, delivered once and in order."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from objects_kit import make_call, turns_of_the_loop
from reliable_kit import reliable

import goverse
from goverse.aio.runtime import Runtime
from goverse.call import Call, Verb
from goverse.config.settings import LimitSettings
from goverse.errors import (
    Conflict,
    Executed,
    FailedPrecondition,
    Fenced,
    LinkBroken,
    NotFound,
    Unavailable,
)
from goverse.ids import Epoch
from goverse.storage.api import OutcomeUnknown, StorageUnavailable
from goverse.storage.memory import MemoryStore
from goverse.storage.values import CallStatus
from tests.support.eventually import eventually


class Account(goverse.Object, durability="acknowledged"):
    balance: int = 0
    log: list[int] = []

    @goverse.method
    async def deposit(self, amount: int) -> int:
        self.balance += amount
        self.log.append(amount)
        return self.balance

    @goverse.method
    async def transfer(self, to: str, amount: int) -> str:
        self.balance -= amount
        return goverse.issue(goverse.get(Account, to).deposit(amount=amount))

    @goverse.method
    async def spread(self, to: list[str]) -> list[str]:
        return [goverse.issue(goverse.get(Account, name).deposit(n)) for n, name in enumerate(to)]

    @goverse.method
    async def transfer_and_fail(self, to: str) -> None:
        goverse.issue(goverse.get(Account, to).deposit(5))
        raise goverse.ApplicationError("no", "on purpose")

    @goverse.method
    async def chain(self, names: list[str]) -> None:
        self.balance += 1
        if names:
            goverse.issue(goverse.get(Account, names[0]).chain(names[1:]))

    @goverse.method
    async def astray(self, kind: str, method: str) -> str:
        return goverse.issue(getattr(goverse.get(kind, "b"), method)(amount=1))

    @goverse.method(read_only=True)
    async def peek(self) -> None:
        goverse.issue(goverse.get(Account, "b").deposit(1))

    @goverse.method(read_only=True)
    async def history(self) -> list[int]:
        return self.log

    @goverse.method
    async def await_one(self) -> None:
        await goverse.options(goverse.get(Account, "b"), call_id="mine").deposit(1)

    @goverse.method
    async def issue_wrongly(self, how: str) -> None:
        other = goverse.get(Account, "b")
        if how == "value":
            goverse.issue(5)  # type: ignore[arg-type]
        elif how == "coroutine":
            coro = turns_of_the_loop(1)
            try:
                goverse.issue(coro)
            finally:
                coro.close()
        elif how == "call id":
            goverse.issue(goverse.options(other, call_id="mine").deposit(1))
        elif how == "volatile":
            goverse.issue(goverse.get(Volatile, "v").start("b"))
        elif how == "arguments":
            goverse.issue(other.deposit(other=1))  # type: ignore[call-arg]


#: What happens in the middle of `Late.pass_on`.
_meanwhile: list[Callable[[], None]] = []


class Late(goverse.Object, durability="acknowledged"):
    @goverse.method
    async def pass_on(self) -> None:
        _meanwhile.pop()()
        goverse.issue(goverse.get(Account, "b").deposit(1))


class Lazy(goverse.Object, durability="interval", commit_interval_s=3600.0):
    value: int = 0

    @goverse.method
    async def start(self, to: str) -> str:
        self.value += 1
        return goverse.issue(goverse.get(Account, to).deposit(1))


class Volatile(goverse.Object):
    @goverse.method
    async def start(self, to: str) -> str:
        return goverse.issue(goverse.get(Account, to).deposit(1))


def delivered(node: Any) -> int:
    return node.told.seen.count("delivered")


async def rows(node: Any, *, parked: bool = False) -> list[Any]:
    return list(await node.store.connect().outbox(range(65_536), parked=parked))


async def done(node: Any) -> None:
    """Return once nothing of the outbox is left anywhere, and nothing is pending."""
    await eventually(lambda: len(node.reliability._outbox) == 0)
    await eventually(lambda: node.reliability.snapshot().entries == 0)


async def test_a_call_that_is_issued_takes_effect_once_and_its_row_goes():
    async with reliable(Account) as node:
        child = await node.do("t", "Account", "a", "transfer", to="b", amount=5)
        assert child.startswith("~") and len(child) == 33
        await done(node)
        assert await node.get(Account, "b").history() == [5]
        row = await node.row(child)
        assert row.status is CallStatus.SUCCESS and row.call.parent == "t"
        assert await rows(node) == []
        # The same transfer again: known, with the same child.
        assert await node.do("t", "Account", "a", "transfer", to="b", amount=5) == child
        await done(node)
        assert await node.get(Account, "b").history() == [5]


async def test_plain_turns_issue_too_and_each_has_children_of_its_own():
    async with reliable(Account) as node:
        first = await node.get(Account, "a").transfer("b", 1)
        second = await node.get(Account, "a").transfer("b", 2)
        assert first != second
        await done(node)
        assert await node.get(Account, "b").history() == [1, 2]


async def test_a_failed_turn_issues_nothing():
    async with reliable(Account) as node:
        for call_id in ("f", ""):
            with pytest.raises(goverse.ApplicationError):
                if call_id:
                    await node.do("f", "Account", "a", "transfer_and_fail", to="b")
                else:
                    await node.get(Account, "a").transfer_and_fail("b")
        await done(node)
        assert await node.get(Account, "b").history() == []
        assert delivered(node) == 0 and await rows(node) == []


async def test_an_interval_class_commits_what_it_issues_before_it_replies():
    async with reliable(Account, Lazy) as node:
        node.wire.plans = ["do", "wait"]  # load, commit
        call = node.call("Lazy", "l", "start", to="b")
        await eventually(lambda: not node.wire.plans)
        assert not call.done()
        node.wire.gate.set()
        await call
        await done(node)
        assert await node.get(Account, "b").history() == [1]


async def test_calls_between_two_objects_arrive_in_order():
    async with reliable(Account) as node:
        number = itertools.count()

        async def unevenly(call: Call) -> Any:
            await turns_of_the_loop(5 * (next(number) % 3))
            return await node.catalog.invoke(call)

        node.route = unevenly
        for n in range(60):
            await node.get(Account, "a").transfer("b", n)
        await node.get(Account, "a").spread(["b"] * 40 + ["c"] * 40)
        await done(node)
        assert await node.get(Account, "b").history() == [*range(60), *range(40)]
        assert await node.get(Account, "c").history() == list(range(40, 80))


async def test_past_the_bound_rows_wait_in_the_store_and_keep_their_order():
    async with reliable(Account, limits=LimitSettings(max_reliable_calls=8)) as node:
        for n in range(10):
            await node.get(Account, "a").spread(["b"] * 10)
            assert len(node.reliability._outbox) <= 8 + 500, n
        await done(node)
        await eventually(lambda: delivered(node) >= 100)
        await done(node)
        assert await node.get(Account, "b").history() == list(range(10)) * 10
        assert await rows(node) == []


async def test_rows_of_a_former_owner_are_delivered_although_nobody_calls():
    store = MemoryStore(Runtime())

    async def nobody(call: Call) -> Any:
        raise Unavailable("nobody is there")

    async with reliable(Account, store=store, epoch=Epoch(1, 100)) as old:
        old.route = nobody
        for n in range(20):
            await old.do(f"t{n}", "Account", "a", "transfer", to=f"b{n % 2}", amount=n)
        assert len(await rows(old)) == 20
        old.catalog.shards.discard_all("killed")
    async with reliable(Account, store=store, epoch=Epoch(1, 200)) as node:
        await eventually(lambda: delivered(node) == 20)
        await done(node)
        assert await node.get(Account, "b0").history() == list(range(0, 20, 2))
        assert await node.get(Account, "b1").history() == list(range(1, 20, 2))
        assert await rows(node) == []


async def test_L27_shards_whose_outbox_cannot_be_read_are_told_of_in_one_line(caplog, monkeypatch):
    """There was a line for each shard, at each attempt."""
    tries = 0

    async def away(*args: Any, **kwargs: Any) -> Any:
        nonlocal tries
        tries += 1
        raise StorageUnavailable("away")

    async with reliable(Account) as node:
        began = time.monotonic()
        with monkeypatch.context() as cut:
            cut.setattr(node.client, "outbox", away)
            opening = asyncio.create_task(node.reopen(Epoch(1, 200)))
            await eventually(lambda: tries >= 3)
        told = [line for line in caplog.messages if "the outbox cannot be read" in line]
        assert 1 <= len(told) <= 1 + time.monotonic() - began
        await opening


async def test_a_delivery_whose_answer_is_lost_is_repeated_and_known():
    async with reliable(Account) as node:
        losses = [True, True]

        async def lossy(call: Call) -> Any:
            reply = await node.catalog.invoke(call)
            if call.verb is Verb.ENQUEUE and losses:
                losses.pop()
                raise LinkBroken("gone", sent=True)
            return reply

        node.route = lossy
        await node.get(Account, "a").transfer("b", 5)
        await eventually(lambda: delivered(node) == 1)
        await done(node)
        assert await node.get(Account, "b").history() == [5]
        assert "repeated" in node.told.seen


async def test_L02_what_is_issued_after_the_lease_is_no_failure_of_the_application(caplog):
    """It was logged as one, with a traceback, each time a node came back from a long pause."""
    async with reliable(Account, Late) as node:
        _meanwhile.append(lambda: None)
        await node.get(Late, "a").pass_on()  # so that it is active, and runs in place
        await done(node)

        def end() -> None:
            node.facts.lease = False

        _meanwhile.append(end)
        with pytest.raises(Fenced) as caught:
            await node.get(Late, "a").pass_on()
        assert caught.value.executed is Executed.UNKNOWN
        assert "raised" not in caplog.text
        node.facts.lease = True
        assert await node.get(Account, "b").history() == [1]


async def test_a_delivery_that_ends_with_an_unexpected_exception_is_repeated():
    async with reliable(Account) as node:
        faults = [ValueError("a fault of the way there")]

        async def faulty(call: Call) -> Any:
            if call.verb is Verb.ENQUEUE and faults:
                raise faults.pop()
            return await node.catalog.invoke(call)

        node.route = faulty
        for n in range(3):
            await node.get(Account, "a").transfer("b", n)
        await done(node)
        assert await node.get(Account, "b").history() == [0, 1, 2]


async def test_an_acknowledgement_whose_answer_is_lost_is_repeated():
    async with reliable(Account) as node:
        change = node.client.change_outbox
        losses = ["before", "after"]

        async def lossy(changes: Any) -> Any:
            plan = losses.pop(0) if losses else ""
            if plan == "before":
                raise OutcomeUnknown("lost")
            results = await change(changes)
            if plan:
                raise OutcomeUnknown("lost")
            return results

        node.client.change_outbox = lossy
        await node.get(Account, "a").transfer("b", 5)
        await done(node)
        assert not losses and await rows(node) == []
        assert await node.get(Account, "b").history() == [5]


async def test_a_row_that_is_acknowledged_while_its_shard_leaves_is_counted_once():
    async with reliable(Account) as node:
        change = node.client.change_outbox
        asked, answer = asyncio.Event(), asyncio.Event()

        async def slow(changes: Any) -> Any:
            results = await change(changes)
            asked.set()
            await answer.wait()
            return results

        node.client.change_outbox = slow
        await node.get(Account, "a").transfer("b", 5)
        await asked.wait()
        assert node.reliability.snapshot().outbox == 1
        node.catalog.shards.discard_all("moved")
        answer.set()
        await turns_of_the_loop(20)
        assert node.reliability.snapshot().outbox == 0


@pytest.mark.parametrize(("kind", "method"), [("Nobody", "deposit"), ("Account", "nothing")])
async def test_what_is_refused_for_good_is_parked_and_those_behind_it_go_on(kind, method):
    async with reliable(Account) as node:
        child = await node.get(Account, "a").astray(kind, method)
        await node.get(Account, "a").transfer("b", 5)
        await done(node)
        (row,) = await rows(node, parked=True)
        assert row.call.call_id == child and "not_found" in row.parked
        assert node.told.seen.count("delivery parked") == 1
        assert await node.get(Account, "b").history() == [5]


async def test_children_of_children_reach_their_end():
    async with reliable(Account) as node:
        names = [f"n{n}" for n in range(30)]
        await node.get(Account, "start").chain(names)
        await eventually(lambda: delivered(node) == 30)
        await done(node)
        assert (await node.stored("Account", "n29")).version == 1


async def test_awaiting_a_reliable_call_in_a_turn_is_refused_at_once():
    async with reliable(Account) as node:
        with pytest.raises(goverse.ObjectFailed) as failed:
            await node.get(Account, "a").await_one()
        assert failed.value.details["cause"] == "failed_precondition"
        assert await node.row("mine") is None


async def test_where_nothing_can_be_issued_it_says_why():
    async with reliable(Account, Volatile) as node:
        wrong = {
            "value": "TypeError",
            "coroutine": "TypeError",
            "call id": "ValueError",
            "volatile": "FailedPrecondition",
            "arguments": "TypeError",
        }
        for how, name in wrong.items():
            with pytest.raises(goverse.ObjectFailed) as failed:
                await node.get(Account, "a").issue_wrongly(how)
            assert failed.value.details["type"] == name, how
        for call in [node.get(Account, "a").peek(), node.get(Volatile, "v").start("b")]:
            with pytest.raises(goverse.ObjectFailed) as failed:
                await call
            assert failed.value.details["cause"] == "failed_precondition"
        with pytest.raises(FailedPrecondition, match="belongs into a turn"):
            goverse.issue(node.get(Account, "a").deposit(1))


async def test_a_child_of_a_cleaned_up_parent_is_not_the_child_of_its_repetition():
    async with reliable(Account) as node:
        first = await node.do("t", "Account", "a", "transfer", to="b", amount=5)
        await done(node)
        del node.client._tables._calls["t"]  # cleaned up: the id may execute again
        second = await node.do("t", "Account", "a", "transfer", to="b", amount=5)
        await done(node)
        assert second != first
        assert await node.get(Account, "b").history() == [5, 5]


async def test_a_client_that_guessed_a_childs_id_would_meet_a_conflict():
    async with reliable(Account) as node:
        child = await node.get(Account, "a").transfer("b", 5)
        await done(node)
        with pytest.raises(Conflict):
            await node.do(child, "Account", "c", "deposit", amount=9)


async def test_a_look_up_tells_what_is_known():
    async with reliable(Account) as node:
        from goverse.call import Codec, look_up

        async def ask(call_id: str) -> Any:
            import msgspec

            call = look_up(call_id, asyncio.get_running_loop().time() + 5, Codec.JSON)
            return msgspec.json.decode((await node.catalog.invoke(call)).payload)

        await node.do("t", "Account", "a", "deposit", amount=5)
        assert (await ask("t"))["status"] == "success" and (await ask("t"))["result"] == 5
        with pytest.raises(goverse.ApplicationError):
            await node.do("f", "Account", "a", "transfer_and_fail", to="b")
        told = await ask("f")
        assert told["status"] == "failed" and told["error"]["code"] == "no"
        with pytest.raises(NotFound, match="not to say that it never ran"):
            await ask("nothing")
        assert make_call("Account", "a", "deposit").call_id == ""
