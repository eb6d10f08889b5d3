"""Reliable calls as links bring them: begun where they are read, and run without a task."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from objects_kit import make_call, turns_of_the_loop, value_of
from reliable_kit import ReliableNode, reliable

import goverse
from goverse.call import OVER, Forwarded, Reply, Verb
from goverse.errors import Conflict, DeadlineExceeded, Executed, InvalidArgument, ObjectFailed
from goverse.objects import encoding
from goverse.reliable import answers
from goverse.reliable.outbox import Envelope
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
    async def slow_deposit(self, amount: int) -> int:
        gate = self.gate = asyncio.get_running_loop().create_future()
        await gate
        self.log.append(amount)
        return len(self.log)

    @goverse.method
    async def crash(self) -> None:
        self.balance += 1000
        raise ZeroDivisionError

    @goverse.method
    async def get_log(self) -> list[int]:
        return self.log


class Receiver:
    def __init__(self) -> None:
        self.told: list[Reply | Exception] = []

    def succeed(self, reply: Reply) -> None:
        self.told.append(reply)

    def fail(self, error: Exception) -> None:
        self.told.append(error)


class Sent(Receiver):
    """A forwarded call, and what its receiver was told."""

    def __init__(self, node: ReliableNode, call_id: str, method: str, **arguments: Any) -> None:
        super().__init__()
        timeout_s = arguments.pop("timeout_s", 5.0)
        call = make_call("Account", "a", method, timeout_s=timeout_s, call_id=call_id, **arguments)
        under_way = node.catalog.forward(call, self)
        assert under_way is not None, "it was declined"
        self.under_way: Forwarded = under_way

    async def value(self) -> Any:
        return value_of(await self.answer())

    async def answer(self) -> Any:
        await eventually(lambda: bool(self.told))
        [one] = self.told
        if isinstance(one, Exception):
            raise one
        return one


async def awake(node: ReliableNode) -> None:
    """An object that is active: the first call of one loads its state, and needs a task."""
    assert await Sent(node, "first", "deposit", amount=1).value() == 1


async def test_a_forwarded_call_is_told_once_its_outcome_is_stored():
    async with reliable(Account) as node:
        await awake(node)
        node.wire.plans = ["wait"]
        sent = Sent(node, "c1", "deposit", amount=5)
        await turns_of_the_loop(20)
        assert sent.told == []
        node.wire.gate.set()
        assert await sent.value() == 6
        assert (await node.row("c1")).status is CallStatus.SUCCESS


async def test_repetitions_share_one_effect_however_they_come():
    async with reliable(Account) as node:
        await awake(node)
        many = [Sent(node, "c1", "deposit", amount=5) for _ in range(3)]
        invoked = node.do("c1", "Account", "a", "deposit", amount=5)
        assert [await one.value() for one in many] == [6, 6, 6]
        assert await invoked == 6
        assert await Sent(node, "c1", "deposit", amount=5).value() == 6
        with pytest.raises(Conflict):
            Sent(node, "c2", "deposit", amount=1), Sent(node, "c2", "deposit", amount=2)


async def test_what_is_wrong_with_a_call_is_raised_where_it_is_read():
    async with reliable(Account) as node:
        with pytest.raises(InvalidArgument):
            Sent(node, "c1", "deposit", amount="much")
        assert node.reliability.snapshot().entries == 0


async def test_a_method_that_fails_in_place_fails_for_good_and_is_rolled_back():
    async with reliable(Account) as node:
        await awake(node)
        with pytest.raises(ObjectFailed) as failed:
            await Sent(node, "c1", "crash").answer()
        assert failed.value.executed is Executed.YES
        assert (await node.row("c1")).status is CallStatus.FAILED
        assert await Sent(node, "c2", "deposit", amount=1).value() == 2


async def test_calls_behind_one_that_waits_keep_their_order():
    async with reliable(Account) as node:
        await awake(node)
        slow = Sent(node, "c1", "slow_deposit", amount=10)
        behind = [Sent(node, f"b{n}", "deposit", amount=n) for n in range(20, 25)]
        instance = node.catalog._activations[("Account", "a")].instance
        await eventually(lambda: hasattr(instance, "gate"))
        await turns_of_the_loop(20)
        assert not any(one.told for one in behind)
        instance.gate.set_result(None)
        await slow.value()
        for one in behind:
            await one.value()
        log = value_of(await node.catalog.invoke(make_call("Account", "a", "get_log")))
        assert log == [1, 10, 20, 21, 22, 23, 24]


async def test_a_receiver_that_gave_up_is_told_nothing_and_the_call_goes_on():
    async with reliable(Account) as node:
        await awake(node)
        node.wire.plans = ["wait"]
        sent = Sent(node, "c1", "deposit", amount=5)
        await turns_of_the_loop(20)
        sent.under_way.cancel()
        sent.under_way.cancel()
        node.wire.gate.set()
        await eventually(lambda: node.reliability.snapshot().entries == 0)
        assert sent.told == []
        assert (await node.row("c1")).status is CallStatus.SUCCESS


async def test_given_up_before_it_was_sent_it_leaves_nothing():
    async with reliable(Account) as node:
        await awake(node)
        sent = Sent(node, "c1", "deposit", amount=5)
        sent.under_way.cancel()
        assert node.reliability.snapshot().entries == 0
        assert await Sent(node, "c2", "deposit", amount=1).value() == 2
        assert await node.row("c1") is None


async def test_at_its_deadline_a_receiver_learns_what_is_known():
    async with reliable(Account) as node:
        await awake(node)
        node.wire.plans = ["wait"]
        sent = Sent(node, "c1", "deposit", amount=5, timeout_s=0.1)
        with pytest.raises(DeadlineExceeded) as late:
            await sent.answer()
        assert late.value.executed is Executed.UNKNOWN
        assert late.value.details == {"call_id": "c1", "status": "unknown"}
        node.wire.gate.set()
        assert await Sent(node, "c1", "deposit", amount=5).value() == 6


async def test_turns_in_place_are_committed_together():
    async with reliable(Account) as node:
        await awake(node)
        before = node.wire.requests
        many = [Sent(node, f"c{n}", "deposit", amount=1) for n in range(100)]
        assert [await one.value() for one in many] == list(range(2, 102))
        assert node.wire.requests - before < 10


async def test_a_delivery_is_told_once_its_row_stands():
    async with reliable(Account) as node:
        await awake(node)
        envelope = msgspec.msgpack.encode(Envelope(encoding.encode({"amount": 7})))
        call = msgspec.structs.replace(
            make_call("Account", "a", "deposit", call_id="~1", verb=Verb.ENQUEUE), payload=envelope
        )
        receiver = Receiver()
        node.wire.plans = ["do", "wait"]
        assert node.catalog.forward(call, receiver) is not None
        await eventually(lambda: len(receiver.told) == 1)
        assert (await node.row("~1")).status is CallStatus.PENDING
        again = Receiver()
        assert node.catalog.forward(call, again) is OVER
        assert len(again.told) == 1
        node.wire.gate.set()
        await eventually(lambda: node.reliability.snapshot().entries == 0)
        assert await Sent(node, "c2", "deposit", amount=1).value() == 9


async def test_with_a_closed_shard_a_call_is_declined():
    async with reliable(Account) as node:
        node.catalog.shards.discard_all("the lease ended")
        call = make_call("Account", "a", "deposit", call_id="c1")
        assert node.catalog.forward(call, Receiver()) is None


async def test_a_result_that_cannot_be_told_to_one_caller_stops_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
):
    async with reliable(Account) as node:
        await awake(node)

        def reply_of(answer: Any, call: Any, method: Any) -> Reply:
            if call.call_id == "odd":
                raise ZeroDivisionError
            return answers.reply_of(answer, call, method)

        monkeypatch.setattr("goverse.reliable.service.reply_of", reply_of)
        odd = Sent(node, "odd", "deposit", amount=1)
        others = [Sent(node, f"c{n}", "deposit", amount=1) for n in range(5)]
        with pytest.raises(ZeroDivisionError):
            await odd.answer()
        assert [await one.value() for one in others] == [3, 4, 5, 6, 7]


class Stuck:
    """A catalog that runs no turn in place."""

    def __init__(self, catalog: Any) -> None:
        self._catalog = catalog

    def __getattr__(self, name: str) -> Any:
        return getattr(self._catalog, name)

    def run_recorded_in_place(self, turn: Any) -> bool:
        raise ZeroDivisionError


async def test_a_turn_that_cannot_be_made_in_place_is_left_to_the_task_of_its_order():
    async with reliable(Account) as node:
        await awake(node)
        node.reliability.bind(Stuck(node.catalog))
        many = [Sent(node, f"c{n}", "deposit", amount=1) for n in range(5)]
        assert [await one.value() for one in many] == [2, 3, 4, 5, 6]
