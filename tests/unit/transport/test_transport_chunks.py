"""Large payloads: in pieces, between which small calls pass, within limits, all or nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from goverse.call import Call, Codec, Reply, Verb
from goverse.config.settings import LimitSettings
from goverse.errors import DeadlineExceeded, Executed, LinkBroken, Overloaded, TooLarge
from goverse.transport.chunks import Assemblies, Stream
from goverse.transport.link import Link
from goverse.transport.wire import (
    CallFrame,
    CancelFrame,
    ChunkFrame,
    ErrorFrame,
    Of,
    ReplyFrame,
    WireError,
)
from tests.support.eventually import eventually
from tests.support.forwarding import both_ways
from tests.support.links import Held, Target, call, pair, raw_pair
from tests.support.virtual import virtual

way = both_ways(Link, targets=(Target,))

KB = 1024
limits = replace(
    LimitSettings(),
    max_chunk_bytes=4 * KB,
    max_batch_bytes=16 * KB,
    max_payload_bytes=256 * KB,
    max_inflight_bytes=512 * KB,
)


def pattern(size: int) -> bytes:
    return bytes(n * 7 % 251 for n in range(size))


def head(number: int, size: int) -> CallFrame:
    return CallFrame(number, 30_000, "T", "i", "m", b"", Codec.MSGPACK, Verb.CALL, size)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9])
def test_pieces_make_the_whole(size: int) -> None:
    payload = pattern(size)
    stream = Stream(1, Of.CALL, payload)
    parts: Assemblies[str] = Assemblies()
    parts.begin(1, "head", size)
    whole = None
    while whole is None:
        assert not stream.finished
        whole = parts.add(stream.next_chunk(2))
    assert stream.finished
    assert whole == ("head", payload)
    assert (parts.bytes, parts.parts) == (0, {})


@pytest.mark.parametrize("size", [4 * KB, 4 * KB + 1, 8 * KB, 100_000, 256 * KB])
def test_a_large_call_and_a_large_reply(size: int) -> None:
    @virtual
    async def body() -> None:
        ends = await pair(near_limits=limits, far_limits=limits)
        payload = pattern(size)
        assert (await ends.near.invoke(call(payload, codec=Codec.JSON))) == Reply(
            payload, Codec.JSON
        )
        assert ends.far_target.calls[0].payload == payload
        await ends.rest()

    body()


@virtual
async def test_many_at_once() -> None:
    ends = await pair(near_limits=limits, far_limits=limits)
    sizes = [1, 5_000, 50_000, 4_096, 4_097, 90_000, 0, 12_345]
    payloads = [pattern(size) for size in sizes]
    replies = await asyncio.gather(*(ends.near.invoke(call(one)) for one in payloads))
    assert [reply.payload for reply in replies] == payloads
    await ends.rest()


@virtual
async def test_small_calls_pass_between_the_pieces_of_large_ones() -> None:
    order: list[int] = []

    async def behave(call: Call) -> Reply:
        order.append(len(call.payload))
        return Reply(b"")

    ends = await pair(Target(behave), near_limits=limits, far_limits=limits)
    large = [asyncio.create_task(ends.near.invoke(call(pattern(200 * KB)))) for _ in range(2)]
    small = [asyncio.create_task(ends.near.invoke(call(bytes(n)))) for n in range(3)]
    await asyncio.gather(*large, *small)
    assert order == [0, 1, 2, 200 * KB, 200 * KB]
    await ends.rest()


@virtual
async def test_above_the_limit_nothing_is_sent() -> None:
    ends = await pair(near_limits=limits, far_limits=limits)
    with pytest.raises(TooLarge, match="262145 bytes, the limit is 262144") as caught:
        await ends.near.invoke(call(bytes(256 * KB + 1)))
    assert caught.value.executed is Executed.NO
    assert ends.far_target.calls == []
    await ends.rest()


@virtual
async def test_a_result_above_the_limit_says_that_the_call_was_executed() -> None:
    async def behave(call: Call) -> Reply:
        return Reply(bytes(256 * KB + 1))

    ends = await pair(Target(behave), near_limits=limits, far_limits=limits)
    with pytest.raises(TooLarge) as caught:
        await ends.near.invoke(call())
    assert caught.value.executed is Executed.YES
    await ends.rest()


@virtual
async def test_the_receiver_has_limits_of_its_own() -> None:
    """In both directions; what still arrives of the payload is ignored."""
    generous = replace(limits, max_payload_bytes=1 << 20, max_inflight_bytes=1 << 22)
    ends = await pair(near_limits=generous, far_limits=limits)
    with pytest.raises(TooLarge) as caught:
        await ends.near.invoke(call(bytes(500 * KB)))
    assert caught.value.executed is Executed.NO
    await ends.rest()

    async def behave(call: Call) -> Reply:
        return Reply(bytes(500 * KB))

    ends = await pair(Target(behave), near_limits=limits, far_limits=generous)
    with pytest.raises(TooLarge) as caught:
        await ends.near.invoke(call())
    assert caught.value.executed is Executed.YES
    assert await ends.far.invoke(call(b"on")) == Reply(b"on")
    await ends.rest()


@virtual
async def test_payloads_that_arrive_have_a_limit_together() -> None:
    link, peer, _ = await raw_pair(limits=limits)
    await peer.send(head(1, 250 * KB), head(2, 250 * KB), head(3, 250 * KB))
    refused = await peer.next_of(ErrorFrame)
    assert (refused.number, refused.code, refused.executed) == (3, "overloaded", "no")
    assert link.snapshot().assemblies == 2
    await peer.send(CancelFrame(1), CancelFrame(2))
    await eventually(lambda: link.snapshot().at_rest)


@virtual
async def test_results_that_arrive_have_a_limit_together() -> None:
    link, peer, _ = await raw_pair(limits=limits)
    tasks = [asyncio.create_task(link.invoke(call())) for _ in range(3)]
    for _ in range(3):
        sent = await peer.next_of(CallFrame)
        await peer.send(ReplyFrame(sent.number, b"", Codec.JSON, 250 * KB))
    with pytest.raises(Overloaded) as caught:
        await tasks[2]
    assert caught.value.executed is Executed.YES
    assert link.snapshot().assemblies == 2
    for task in tasks[:2]:
        task.cancel()
    await asyncio.wait(tasks)
    assert link.snapshot().at_rest


@virtual
async def test_an_unfinished_call_is_never_begun() -> None:
    """Cancelled, late, or on a link that broke."""
    target = Target()
    link, peer, hub = await raw_pair(target, limits=limits)
    await peer.send(head(1, 100), ChunkFrame(1, Of.CALL, bytes(99)), CancelFrame(1))
    await peer.send(ChunkFrame(1, Of.CALL, b"x"))
    short = head(2, 100)
    short.remaining_ms = 300
    await peer.send(short, ChunkFrame(2, Of.CALL, bytes(99)))
    late = await peer.next_of(ErrorFrame)
    assert (late.number, late.code, late.executed) == (2, "deadline_exceeded", "no")
    await peer.send(ChunkFrame(2, Of.CALL, b"x"))
    await peer.send(head(3, 100), ChunkFrame(3, Of.CALL, bytes(99)))
    await eventually(lambda: link.snapshot().assemblies == 1)
    hub.set_policy(lambda source, target: 0.1)
    await peer.send(ChunkFrame(3, Of.CALL, b"x"))
    link.abort("broken")  # with the last piece on its way
    await link.wait_closed()
    assert target.calls == []
    assert link.snapshot().at_rest


@virtual
async def test_a_broken_link_never_completes_a_reply() -> None:
    link, peer, hub = await raw_pair(limits=limits)
    task = asyncio.create_task(link.invoke(call()))
    sent = await peer.next_of(CallFrame)
    await peer.send(ReplyFrame(sent.number, b"", Codec.JSON, 10))
    await peer.send(ChunkFrame(sent.number, Of.REPLY, b"12345"))
    await eventually(lambda: link.snapshot().assemblies == 1)
    hub.set_policy(lambda source, target: 0.1)
    await peer.send(ChunkFrame(sent.number, Of.REPLY, b"67890"))
    link.abort("broken")  # with the last piece on its way
    with pytest.raises(LinkBroken):
        await task
    assert link.snapshot().at_rest


@virtual
async def test_a_cancelled_large_call_stops_being_sent() -> None:
    link, peer, _ = await raw_pair(limits=limits)
    task = asyncio.create_task(link.invoke(call(pattern(200 * KB))))
    first = await peer.next_of(CallFrame)
    assert first.size == 200 * KB
    peer.valve.shut()
    assert link.snapshot().streams == 1
    task.cancel()
    await asyncio.wait([task])
    assert link.snapshot().streams == 0
    peer.valve.open()
    await peer.next_of(CancelFrame)
    assert link.snapshot().at_rest


@virtual
async def test_a_cancelled_call_whose_large_reply_is_under_way() -> None:
    async def behave(call: Call) -> Reply:
        return Reply(pattern(200 * KB))

    link, peer, _ = await raw_pair(Target(behave), limits=limits)
    frame = head(1, 0)
    await peer.send(frame)
    reply = await peer.next_of(ReplyFrame)
    assert reply.size == 200 * KB
    peer.valve.shut()
    await peer.send(CancelFrame(1))
    await eventually(lambda: link.snapshot().streams == 0)
    peer.valve.open()
    await eventually(lambda: link.snapshot().at_rest)


@virtual
async def test_a_deadline_while_pieces_are_sent() -> None:
    ends = await pair(Held(), near_limits=limits, far_limits=limits)
    ends.hub.set_policy(lambda source, target: None)
    with pytest.raises(DeadlineExceeded):
        await ends.near.invoke(call(pattern(200 * KB), timeout_s=0.5))
    ends.hub.set_policy(None)
    await ends.rest()
    assert ends.far_target.calls == []


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([head(1, -1)], "announces -1 bytes"),
        ([head(1, 10), head(1, 10)], "began twice"),
        ([head(1, 10), ChunkFrame(1, Of.CALL, bytes(11))], "11 bytes of 10"),
        ([head(1, 10), ChunkFrame(1, Of.CALL, b"")], "0 bytes of 10"),
        (
            [CallFrame(1, 9, "T", "i", "m", b"x", Codec.JSON, Verb.CALL, 10)],
            "announces 10 bytes",
        ),
    ],
)
def test_pieces_that_do_not_fit_end_the_link(frames: Any, reason: str) -> None:
    @virtual
    async def body() -> None:
        target = Target()
        link, peer, _ = await raw_pair(target, limits=limits)
        await peer.send(*frames)
        assert reason in await link.wait_closed()
        assert target.calls == []
        assert link.snapshot().at_rest

    body()


def test_a_payload_that_began_twice() -> None:
    parts: Assemblies[None] = Assemblies()
    parts.begin(1, None, 5)
    with pytest.raises(WireError):
        parts.begin(1, None, 5)
    parts.clear()
    assert (parts.bytes, parts.parts) == (0, {})
