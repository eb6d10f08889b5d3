"""How links end: broken, aborted, silent, closed in order; and what callers are told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from goverse.call import Call, Reply
from goverse.config.settings import LimitSettings
from goverse.errors import DeadlineExceeded, Executed, LinkBroken
from goverse.transport.link import Link
from goverse.transport.wire import (
    CallFrame,
    CancelFrame,
    ChunkFrame,
    ErrorFrame,
    GoodbyeFrame,
    HelloFrame,
    Of,
    PingFrame,
    ReplyFrame,
    Stage,
    decode,
)
from tests.support.eventually import eventually
from tests.support.forwarding import both_ways
from tests.support.links import MAX_MESSAGE, Held, Pair, Target, call, call_frame, pair, raw_pair
from tests.support.virtual import virtual

way = both_ways(Link, targets=(Target,))


async def begin(ends: Pair, count: int = 1) -> list[asyncio.Task[Reply]]:
    before = len(ends.far_target.calls)
    tasks = [asyncio.create_task(ends.near.invoke(call())) for _ in range(count)]
    await eventually(lambda: len(ends.far_target.calls) == before + count)
    return tasks


# -- what was sent and what was not -------------------------------------------------------------


@virtual
async def test_a_call_on_a_link_that_has_ended_was_not_sent() -> None:
    ends = await pair()
    ends.near.abort("test")
    with pytest.raises(LinkBroken, match="test") as caught:
        await ends.near.invoke(call())
    assert caught.value.sent is False
    assert caught.value.executed is Executed.NO


@virtual
async def test_a_call_that_was_passed_to_the_carrier_was_sent() -> None:
    ends = await pair(Held())
    (task,) = await begin(ends)
    ends.hub.kill("far")
    with pytest.raises(LinkBroken) as caught:
        await task
    assert caught.value.sent is True
    assert caught.value.executed is Executed.UNKNOWN
    await ends.rest()


@virtual
async def test_a_call_in_the_hands_of_a_carrier_that_breaks_was_sent() -> None:
    """The write was begun and did not end: whether it arrived is not known."""
    link, peer, _ = await raw_pair()
    peer.valve.shut()
    task = asyncio.create_task(link.invoke(call()))
    await eventually(lambda: link.snapshot().queued_frames == 0 and peer.valve.sent)
    peer.carrier.abort("gone")
    with pytest.raises(LinkBroken) as caught:
        await task
    assert caught.value.sent is True
    assert link.snapshot().at_rest


@virtual
async def test_a_call_that_was_queued_was_not_sent() -> None:
    link, peer, _ = await raw_pair()
    peer.valve.shut()
    first = asyncio.create_task(link.invoke(call(b"1")))
    await eventually(lambda: len(peer.valve.sent) == 2)  # our hello, and the call
    second = asyncio.create_task(link.invoke(call(b"2")))
    await eventually(lambda: link.snapshot().queued_frames == 1)
    link.abort("test")
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [isinstance(one, LinkBroken) and one.sent for one in outcomes] == [True, False]
    assert b"".join(peer.valve.sent).count(b"Counter") == 1
    assert link.snapshot().at_rest


@virtual
async def test_what_arrives_after_abort_is_ignored() -> None:
    target = Target()
    link, peer, hub = await raw_pair(target)
    task = asyncio.create_task(link.invoke(call()))
    sent = await peer.next_of(CallFrame)
    hub.set_policy(lambda source, target: 0.1)
    await peer.send(ReplyFrame(sent.number, b"late", sent.codec), call_frame(1))
    link.abort("test")  # both are on their way
    with pytest.raises(LinkBroken):
        await task
    assert await link.wait_closed() == "test"
    assert target.calls == []


@virtual
async def test_served_calls_are_cancelled_when_the_link_ends() -> None:
    held = Held()
    ends = await pair(held)
    tasks = await begin(ends, 3)
    ends.near.abort("test")
    await asyncio.gather(*tasks, return_exceptions=True)
    await ends.far.wait_closed()
    assert held.cancelled == 3
    await ends.rest()


@virtual
async def test_callbacks_hear_of_the_end_once() -> None:
    ends = await pair()
    heard: list[Any] = []
    ends.near.add_close_callback(heard.append)
    ends.near.abort("one")
    ends.near.abort("two")
    assert heard == [ends.near]
    ends.near.add_close_callback(heard.append)
    assert heard == [ends.near, ends.near]
    assert await ends.near.wait_closed() == "one"
    assert "one" in await ends.far.wait_closed()


# -- the term -----------------------------------------------------------------------------------


@virtual
async def test_a_result_queued_when_the_lease_ends_is_never_sent() -> None:
    """As in a process that is paused between the end of a turn and the sending of its reply."""
    term = ["valid"]
    held = Held()
    ends = await pair(held, far_options={"term": lambda: term[0]})
    (task,) = await begin(ends)
    sent = ends.far.snapshot().messages_sent
    term[0] = "lost"
    held.free.set()
    with pytest.raises(LinkBroken) as caught:
        await task
    assert caught.value.sent is True
    assert "lease" in await ends.far.wait_closed()
    assert ends.far.snapshot().messages_sent == sent
    await ends.rest()


@virtual
async def test_a_call_queued_when_the_lease_ends_was_not_sent() -> None:
    term = ["valid"]
    ends = await pair(near_options={"term": lambda: term[0]})
    term[0] = "lost"
    with pytest.raises(LinkBroken) as caught:
        await ends.near.invoke(call())
    assert caught.value.sent is False
    assert ends.far_target.calls == []


# -- heartbeats ---------------------------------------------------------------------------------


@virtual
async def test_an_idle_link_lives() -> None:
    ends = await pair()
    await asyncio.wait([asyncio.ensure_future(ends.near.wait_closed())], timeout=60)
    assert ends.near.snapshot().state == ends.far.snapshot().state == "open"
    assert ends.near.snapshot().silent_s <= 1.1
    await ends.near.invoke(call())
    ends.near.abort("done")


@virtual
async def test_a_busy_link_sends_no_pings() -> None:
    link, peer, _ = await raw_pair()
    loop = asyncio.get_running_loop()
    end = loop.time() + 10
    pings = 0

    async def count() -> None:
        nonlocal pings
        while True:
            frame = await peer.next()
            pings += isinstance(frame, PingFrame)
            if isinstance(frame, CallFrame):
                await peer.send(ReplyFrame(frame.number, b"", frame.codec))

    counting = asyncio.create_task(count())
    while loop.time() < end:
        await link.invoke(call())
        await asyncio.wait([counting], timeout=0.3)
    assert pings == 0
    counting.cancel()
    link.abort("done")


@virtual
async def test_a_cut_link_is_noticed_by_both_sides() -> None:
    """No sign of the end ever arrives."""
    ends = await pair(Held())
    (task,) = await begin(ends)
    loop = asyncio.get_running_loop()
    began = loop.time()
    ends.hub.set_policy(lambda source, target: None)
    with pytest.raises(LinkBroken, match="nothing was heard for 3 s") as caught:
        await task
    assert caught.value.sent is True
    assert loop.time() - began <= 4.1
    await ends.far.wait_closed()
    assert loop.time() - began <= 4.1
    await ends.rest()


@virtual
async def test_a_link_cut_in_one_direction_ends() -> None:
    ends = await pair()
    ends.hub.set_policy(lambda source, target: None if source == "near" else 0.0)
    assert "nothing was heard" in await ends.far.wait_closed()
    assert "nothing was heard" in await ends.near.wait_closed()


@virtual
async def test_a_short_cut_loses_nothing() -> None:
    ends = await pair()
    ends.hub.set_policy(lambda source, target: None)
    task = asyncio.create_task(ends.near.invoke(call(b"through")))
    await asyncio.wait([task], timeout=1.5)
    ends.hub.set_policy(None)
    assert (await task).payload == b"through"
    await ends.rest()


@virtual
async def test_a_process_that_stood_still_does_not_blame_its_peer() -> None:
    ends = await pair()
    loop: Any = asyncio.get_running_loop()
    await ends.near.invoke(call())
    loop._now += 30  # everybody stood still, as when the machine was suspended
    assert await ends.near.invoke(call(b"on")) == Reply(b"on")
    await ends.rest()


# -- orderly ends -------------------------------------------------------------------------------


@virtual
async def test_goodbye_ends_new_calls_and_not_those_under_way() -> None:
    held = Held()
    ends = await pair(held)
    (task,) = await begin(ends)
    ends.far.goodbye()
    ends.far.goodbye()
    await eventually(lambda: not ends.near.takes_calls)
    assert ends.far.takes_calls
    with pytest.raises(LinkBroken, match="closing") as caught:
        await ends.near.invoke(call())
    assert caught.value.sent is False
    # Who said goodbye may still call: its running turns wait for that.
    assert await ends.far.invoke(call(b"back")) == Reply(b"back")
    held.free.set()
    await task
    await ends.rest()
    assert ends.near.snapshot().state == "closing"


@virtual
async def test_close_waits_for_calls_in_both_directions() -> None:
    near, far = Held(), Held()
    ends = await pair(far, near_target=near)
    out = await begin(ends, 3)
    back = asyncio.create_task(ends.far.invoke(call(b"back")))
    await eventually(lambda: len(near.calls) == 1)
    closing = asyncio.create_task(ends.far.close(10))
    await asyncio.wait([closing], timeout=1)
    assert not closing.done()
    far.free.set()
    await asyncio.gather(*out)
    await asyncio.wait([closing], timeout=1)
    assert not closing.done()
    near.free.set()
    assert (await back).payload == b"back"
    await closing
    assert await ends.far.wait_closed() == "closed"
    assert await ends.near.wait_closed() == "the peer closed it"
    await ends.rest()


@virtual
async def test_a_call_that_crosses_the_goodbye_is_answered() -> None:
    """Closing waits until the peer has understood: no call that was sent before is lost."""
    ends = await pair()
    ends.hub.set_policy(lambda source, target: 0.5)
    closing = asyncio.create_task(ends.far.close(10))
    await eventually(lambda: ends.far.snapshot().state == "closing")
    crossing = [asyncio.create_task(ends.near.invoke(call(b"%d" % n))) for n in range(5)]
    assert [(await task).payload for task in crossing] == [b"0", b"1", b"2", b"3", b"4"]
    await closing
    await ends.rest()


@virtual
async def test_both_sides_close_at_the_same_time() -> None:
    held = Held()
    ends = await pair(held)
    tasks = await begin(ends, 2)
    closings = [asyncio.create_task(link.close(10)) for link in (ends.near, ends.far)]
    held.free.set()
    await asyncio.gather(*tasks, *closings)
    assert await ends.near.wait_closed() in ("closed", "the peer closed it")
    await ends.rest()


@virtual
async def test_close_does_not_wait_for_ever() -> None:
    ends = await pair(Held())
    (task,) = await begin(ends)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await ends.far.close(2)
    assert loop.time() - began == pytest.approx(2, abs=0.1)
    with pytest.raises(LinkBroken) as caught:
        await task
    assert caught.value.sent is True
    await ends.far.close(2)  # again: nothing to do
    await ends.rest()


@virtual
async def test_a_closing_that_is_cancelled_ends_the_link() -> None:
    ends = await pair(Held())
    (task,) = await begin(ends)
    closing = asyncio.create_task(ends.far.close(20))
    await eventually(lambda: not ends.near.takes_calls)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(LinkBroken):
        await task
    await ends.rest()


@virtual
async def test_a_large_reply_under_way_is_delivered_before_the_end() -> None:
    big = bytes(3_000_000)

    async def behave(call: Call) -> Reply:
        return Reply(big)

    ends = await pair(Target(behave))
    task = asyncio.create_task(ends.near.invoke(call()))
    closing = asyncio.create_task(ends.far.close(10))
    assert (await task).payload == big
    await closing


# -- what a peer must not do --------------------------------------------------------------------


BAD = [
    ([call_frame(1), call_frame(1)], "began twice"),
    ([call_frame(0)], "out of range"),
    ([call_frame(-5)], "out of range"),
    ([HelloFrame(1, (), "node", "x", "1")], "second hello"),
    ([ReplyFrame(1, b"", 0, -1)], "announces -1"),  # type: ignore[arg-type]
    ([ErrorFrame(0, "overloaded", "too many links", "no")], "refused the link: too many links"),
    ([GoodbyeFrame(Stage.END)], "closed it"),
]


@pytest.mark.parametrize(("frames", "reason"), BAD)
def test_what_makes_no_sense_ends_the_link(frames: Any, reason: str) -> None:
    @virtual
    async def body() -> None:
        held = Held()
        link, peer, _ = await raw_pair(held)
        task = asyncio.create_task(link.invoke(call()))
        await peer.next_of(CallFrame)
        await peer.send(*frames)
        assert reason in await link.wait_closed()
        with pytest.raises(LinkBroken):
            await task
        assert link.snapshot().at_rest
        assert not held.calls or held.cancelled == len(held.calls)

    body()


@virtual
async def test_answers_to_calls_that_were_never_made_are_ignored() -> None:
    link, peer, _ = await raw_pair()
    await peer.send(
        ReplyFrame(7, b"x", 0),  # type: ignore[arg-type]
        ErrorFrame(8, "not_found", "", "no"),
        CancelFrame(9),
        ChunkFrame(10, Of.CALL, b"x"),
        ChunkFrame(11, Of.REPLY, b"x"),
        ReplyFrame(12, b"", 0, 100),  # type: ignore[arg-type]
    )
    await peer.send(call_frame(1, b"still"))
    assert (await peer.next_of(ReplyFrame)).payload == b"still"
    assert link.snapshot().at_rest


@virtual
async def test_an_answer_to_a_call_that_was_not_sent_ends_the_link() -> None:
    """Otherwise a peer that guesses numbers could answer a call that is executed later."""
    for answer in (ReplyFrame(1, b"", 0), ErrorFrame(1, "not_found", "", "no")):  # type: ignore[arg-type]
        link, peer, _ = await raw_pair()
        peer.valve.shut()
        link.goodbye()
        await eventually(lambda valve=peer.valve: len(valve.sent) == 2)
        task = asyncio.create_task(link.invoke(call()))
        await eventually(lambda link=link: link.snapshot().queued_frames == 1)
        await peer.send(answer)
        with pytest.raises(LinkBroken) as caught:
            await task
        assert caught.value.sent is False
        assert "was not sent" in await link.wait_closed()


@virtual
async def test_a_second_answer_is_ignored() -> None:
    link, peer, _ = await raw_pair()
    task = asyncio.create_task(link.invoke(call()))
    sent = await peer.next_of(CallFrame)
    await peer.send(
        ReplyFrame(sent.number, b"one", sent.codec),
        ReplyFrame(sent.number, b"two", sent.codec),
        ErrorFrame(sent.number, "not_found", "", "no"),
    )
    assert (await task).payload == b"one"
    assert link.snapshot().state == "open"
    assert link.snapshot().at_rest


@virtual
async def test_a_crash_of_our_own_ends_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    link, peer, _ = await raw_pair()
    monkeypatch.setattr("goverse.transport.pump.decode", None)
    await peer.send(PingFrame())
    assert "failed" in await link.wait_closed()


@virtual
async def test_messages_of_any_size_stay_within_their_limit() -> None:
    limits = replace(LimitSettings(), max_batch_bytes=10_000, max_chunk_bytes=4_000)
    link, peer, _ = await raw_pair(limits=limits)
    peer.valve.shut()
    sizes = [100, 3_000, 3_900, 50_000, 10, 3_500, 9_000, 0, 3_999, 4_000, 4_001]
    tasks = [asyncio.create_task(link.invoke(call(bytes(size), timeout_s=2))) for size in sizes]
    await eventually(lambda: link.snapshot().waiting_calls == len(sizes))
    peer.valve.open()
    for task in tasks:
        with pytest.raises(DeadlineExceeded):
            await task
    batches = [decode(message, max_bytes=MAX_MESSAGE) for message in peer.valve.sent[1:]]
    assert max(map(len, peer.valve.sent)) <= 10_000 + 4_100
    assert sum(isinstance(frame, CallFrame) for batch in batches for frame in batch) == len(sizes)
    link.abort("done")
