"""Calls that are begun in the middle of reading: their order, their limits, their ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goverse.call import OVER, Call, Forwarded, Receiver, Reply
from goverse.errors import DeadlineExceeded, Executed, LinkBroken, Overloaded
from goverse.testing.loop import run_virtual
from goverse.transport.wire import CallFrame, CancelFrame, ErrorFrame, ReplyFrame
from tests.support.eventually import eventually
from tests.support.forwarding import Told
from tests.support.links import call, call_frame, pair, raw_pair, small
from tests.support.virtual import virtual


@dataclass
class Choosy:
    """Answers what it is asked; takes at once what its payload does not say to decline."""

    begun: list[tuple[str, int]] = field(default_factory=list)
    forwarded: int = 0

    def forward(self, call: Call, receiver: Receiver) -> Forwarded | None:
        if call.payload[:1] == b"w":
            return None
        self.forwarded += 1
        self._begin(call)
        receiver.succeed(Reply(call.payload))
        return OVER

    async def invoke(self, call: Call) -> Reply:
        self._begin(call)
        return Reply(call.payload)

    def _begin(self, call: Call) -> None:
        self.begun.append((call.id, int(call.payload[1:])))


@dataclass
class Keeping:
    """Keeps the receivers of what was forwarded, and remembers what was cancelled."""

    receivers: list[Receiver] = field(default_factory=list)
    cancelled: int = 0

    def forward(self, call: Call, receiver: Receiver) -> Forwarded:
        self.receivers.append(receiver)
        return self

    async def invoke(self, call: Call) -> Reply:
        raise AssertionError("nothing was declined")

    def cancel(self) -> None:
        self.cancelled += 1


Asked = list[tuple[str, bool]]


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=6), max_size=5))
def test_calls_for_one_object_begin_in_the_order_of_their_arrival(messages: list[Asked]) -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> None:
        target = Choosy()
        link, peer, _ = await raw_pair(target)
        number = 0
        for message in messages:
            frames = []
            for id, waits in message:
                number += 1
                frame = call_frame(number, (b"w" if waits else b"f") + b"%d" % number)
                frame.id = id
                frames.append(frame)
            if frames:
                await peer.send(*frames)
        await eventually(lambda: len(target.begun) == number)
        for id in "abc":
            order = [number for name, number in target.begun if name == id]
            assert order == sorted(order)
        await eventually(lambda: link.snapshot().at_rest)
        assert not link._inbound._starting

    run_virtual(main)


@virtual
async def test_a_call_given_up_before_its_task_began_holds_nobody_back() -> None:
    target = Choosy()
    link, peer, _ = await raw_pair(target)
    await peer.send(call_frame(1, b"w1"), CancelFrame(1), call_frame(2, b"f2"))
    assert (await peer.next_of(ReplyFrame)).number == 2
    assert target.begun == [("i", 2)] and target.forwarded == 1
    await eventually(lambda: link.snapshot().at_rest)


@virtual
async def test_a_forwarded_call_of_the_peer_is_cancelled_and_then_told_nothing() -> None:
    target = Keeping()
    link, peer, _ = await raw_pair(target)
    await peer.send(call_frame(1), call_frame(2))
    await eventually(lambda: len(target.receivers) == 2)
    assert link.snapshot().served_calls == 2 and link.snapshot().running_tasks == 0
    await peer.send(CancelFrame(1))
    await eventually(lambda: target.cancelled == 1)
    target.receivers[0].succeed(Reply(b"too late"))
    target.receivers[1].succeed(Reply(b"in time"))
    assert (await peer.next_of(ReplyFrame)).number == 2
    await eventually(lambda: link.snapshot().at_rest)


@virtual
async def test_forwarded_calls_count_until_they_are_answered() -> None:
    target = Keeping()
    link, peer, _ = await raw_pair(target, limits=small)
    await peer.send(*(call_frame(number) for number in range(1, 6)))
    refused = await peer.next_of(ErrorFrame)
    assert (refused.number, refused.code) == (5, Overloaded.code)
    target.receivers[0].fail(KeyError("inside"))
    failed = await peer.next_of(ErrorFrame)
    assert (failed.code, failed.executed) == ("internal", "unknown")
    await peer.send(call_frame(6))
    await eventually(lambda: len(target.receivers) == 5)
    link.abort("over")
    assert target.cancelled == 4


@virtual
async def test_a_forwarded_call_that_forgets_its_deadline_is_ended() -> None:
    target = Keeping()
    link, peer, _ = await raw_pair(target)
    await peer.send(call_frame(1, remaining_ms=50))
    late = await peer.next_of(ErrorFrame)
    assert (late.code, late.executed) == (DeadlineExceeded.code, "unknown")
    assert target.cancelled == 1
    await eventually(lambda: link.snapshot().at_rest)


@virtual
async def test_a_receiver_hears_of_the_end_of_its_link_and_may_give_up_other_calls() -> None:
    ends = await pair(Keeping())
    first, second, unsent = Told(), Told(), Told()
    ends.near.forward(call(), first)
    slot = ends.near.forward(call(), second)
    await eventually(lambda: len(ends.far_target.receivers) == 2)
    ends.near.forward(call(), unsent)
    second.cancelled = True
    first.future.add_done_callback(lambda _: None)
    told = first.fail

    def fail(error: Exception) -> None:
        told(error)
        slot.cancel()

    first.fail = fail  # type: ignore[method-assign]
    ends.near.abort("cut")
    with pytest.raises(LinkBroken) as caught:
        await first.future
    assert caught.value.executed is Executed.UNKNOWN
    with pytest.raises(LinkBroken) as caught:
        await unsent.future
    assert caught.value.executed is Executed.NO
    assert not second.future.done()


@virtual
async def test_a_cancelled_slot_sends_a_cancel_only_if_its_call_had_left() -> None:
    link, peer, _ = await raw_pair()
    told = Told()
    told.cancelled = True
    link.forward(call(), told).cancel()
    slot = link.forward(call(b"2"), told)
    assert (await peer.next_of(CallFrame)).payload == b"2"
    slot.cancel()
    slot.cancel()
    assert (await peer.next_of(CancelFrame)).number == slot.number
    await eventually(lambda: link.snapshot().at_rest)
