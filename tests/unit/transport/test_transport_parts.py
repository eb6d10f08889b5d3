"""The parts of a link that need no link: outbox, expiry, heartbeat."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Any

import pytest

from goverse.transport.carrier import CarrierClosed
from goverse.transport.chunks import Stream
from goverse.transport.expiry import STEP_S, Expiry
from goverse.transport.heartbeat import Heartbeat
from goverse.transport.outbox import MAX_BATCH_FRAMES, Outbox
from goverse.transport.pump import Pump
from goverse.transport.wire import (
    CancelFrame,
    ChunkFrame,
    Frame,
    Of,
    PingFrame,
    decode,
    encode,
)
from tests.support.links import MAX_MESSAGE, virtual


class Item:
    def __init__(self, number: int, size: int = 10, *, dead: bool = False, bad: bool = False):
        self.number, self.size, self.dead, self.bad = number, size, dead, bad
        self.unfit_for: Exception | None = None

    def frame(self, now: float) -> Frame | None:
        if self.bad:
            return CancelFrame(1 << 70)
        return None if self.dead else CancelFrame(self.number)

    def unfit(self, error: Exception) -> Frame | None:
        self.unfit_for = error
        return PingFrame() if self.number else None


def box(max_batch_bytes: int = 1_000, max_chunk_bytes: int = 4) -> Outbox:
    return Outbox(max_batch_bytes=max_batch_bytes, max_chunk_bytes=max_chunk_bytes)


def taken(outbox: Outbox) -> list[Any]:
    message = outbox.take(0.0)
    return [] if message is None else list(decode(message, max_bytes=MAX_MESSAGE))


def numbers(frames: list[Any]) -> list[int]:
    return [frame.number for frame in frames]


def test_everything_queued_is_one_message() -> None:
    outbox = box()
    for number in range(10):
        outbox.put(Item(number, dead=number == 3))
    assert numbers(taken(outbox)) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert taken(outbox) == []


def test_a_message_has_limits_of_bytes_and_frames() -> None:
    outbox = box(100)
    for number in range(12):
        outbox.put(Item(number, 30))
    outbox.put(Item(99, 5_000))
    assert [numbers(taken(outbox)) for _ in range(5)] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
        [9, 10, 11],
        [99],
    ]
    for number in range(MAX_BATCH_FRAMES + 1):
        outbox.put(Item(number, 1))
    assert len(taken(outbox)) == MAX_BATCH_FRAMES
    assert numbers(taken(outbox)) == [MAX_BATCH_FRAMES]


def test_nothing_to_say_is_no_message() -> None:
    outbox = box()
    outbox.put(Item(1, dead=True))
    assert outbox.take(0.0) is None
    assert outbox.items == []


def test_controls_are_counted_while_they_wait() -> None:
    outbox = box(40)
    for number in range(5):
        outbox.put_control(CancelFrame(number))
        outbox.put(Item(number))
    counts = [outbox.controls]
    while taken(outbox):
        counts.append(outbox.controls)
    assert counts == [5, 4, 3, 2, 1, 0, 0][: len(counts)]


def test_streams_take_turns_one_piece_a_message() -> None:
    outbox = box()
    outbox.stream(Stream(1, Of.CALL, b"aaaabbbb"))
    outbox.stream(Stream(2, Of.REPLY, b"cccc"))
    outbox.stream(Stream(3, Of.CALL, b"dddd"))
    outbox.drop_stream(3, Of.REPLY)
    outbox.drop_stream(3, Of.CALL)
    outbox.drop_stream(3, Of.CALL)
    outbox.put(Item(7))
    assert taken(outbox) == [CancelFrame(7), ChunkFrame(1, Of.CALL, b"aaaa")]
    assert taken(outbox) == [ChunkFrame(2, Of.REPLY, b"cccc")]
    assert taken(outbox) == [ChunkFrame(1, Of.CALL, b"bbbb")]
    assert taken(outbox) == []


def test_a_frame_that_cannot_be_encoded_goes_alone() -> None:
    outbox = box()
    items = [Item(1), Item(0, bad=True), Item(5, bad=True), Item(2, dead=True), Item(3)]
    for item in items:
        outbox.put(item)
    outbox.stream(Stream(1, Of.CALL, b"aaaa"))
    assert taken(outbox) == [
        CancelFrame(1),
        PingFrame(),
        CancelFrame(3),
        ChunkFrame(1, Of.CALL, b"aaaa"),
    ]
    assert [item.unfit_for is not None for item in items] == [False, True, True, False, False]
    outbox.put(Item(0, bad=True))
    assert outbox.take(0.0) is None


@virtual
async def test_waiting_for_something_to_send() -> None:
    outbox = box()
    waiting = asyncio.create_task(outbox.wait())
    await asyncio.wait([waiting], timeout=1)
    assert not waiting.done()
    outbox.put(Item(1))
    outbox.put(Item(2))
    assert await waiting is True
    assert await outbox.wait() is True
    taken(outbox)
    waiting = asyncio.create_task(outbox.wait())
    await asyncio.wait([waiting], timeout=1)
    outbox.close()
    assert await waiting is False
    outbox.put(Item(3))
    outbox.put_control(PingFrame())
    assert (outbox.items, outbox.controls) == ([], 0)
    assert await outbox.wait() is False


# -- expiry -------------------------------------------------------------------------------------


@dataclass
class Entry:
    deadline: float


@virtual
async def test_deadlines_are_noticed_within_a_step_and_cost_no_timer_each() -> None:
    loop: Any = asyncio.get_running_loop()
    start = loop.time()
    table: dict[int, Entry] = {}
    expired: list[tuple[float, float]] = []

    def expire(entry: Entry) -> None:
        expired.append((entry.deadline - start, loop.time() - start))
        table.pop(next(key for key, value in table.items() if value is entry))

    expiry = Expiry(table, expire)
    for number, after_s in enumerate([5.0, 1.0, 1.001, 3.0, 0.0, 7.0]):
        table[number] = Entry(start + after_s)
        if table[number].deadline < expiry.next:
            expiry.expect(table[number].deadline)
    del table[5]  # ended in time: nothing to take back
    await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=10)
    assert [deadline for deadline, _ in expired] == pytest.approx([0.0, 1.0, 1.001, 3.0, 5.0])
    assert all(deadline <= now <= deadline + 2 * STEP_S for deadline, now in expired)
    assert expiry.next == math.inf
    table[9] = Entry(start + 99)
    expiry.expect(table[9].deadline)
    assert len([handle for handle in loop._scheduled if not handle.cancelled()]) == 1
    expiry.stop()
    assert not any(not handle.cancelled() for handle in loop._scheduled)
    assert not Entry(0).deadline < expiry.next


@virtual
async def test_an_expiry_that_ends_everything() -> None:
    loop: Any = asyncio.get_running_loop()
    table = {1: Entry(loop.time() + 1), 2: Entry(loop.time() + 9)}
    expiry = Expiry(table, lambda entry: expiry.stop())
    expiry.expect(table[1].deadline)
    await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=2)
    assert not any(not handle.cancelled() for handle in loop._scheduled)


# -- heartbeat ----------------------------------------------------------------------------------


@virtual
async def test_heartbeat() -> None:
    loop: Any = asyncio.get_running_loop()
    start = loop.time()
    pings: list[float] = []
    silence: list[tuple[float, str]] = []
    beat = Heartbeat(
        interval_s=1,
        timeout_s=3,
        send=lambda: pings.append(loop.time() - start),
        on_silence=lambda reason: silence.append((loop.time() - start, reason)),
    )
    beat.start()
    loop.call_later(1.5, beat.sent)
    loop.call_later(2.5, beat.heard)
    await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=20)
    assert pings == pytest.approx([1, 3, 4, 5])
    assert silence == [(pytest.approx(6), "nothing was heard for 3 s")]
    beat.stop()
    assert beat.silent_s == pytest.approx(17.5)


# -- pump ---------------------------------------------------------------------------------------


class Scripted:
    """A carrier that hands out messages, whatever happened before."""

    peer = "scripted"

    def __init__(self, *messages: bytes) -> None:
        self.messages = list(messages)

    async def receive(self) -> bytes:
        await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=1)
        if not self.messages:
            raise CarrierClosed("no more")
        return self.messages.pop(0)

    async def send(self, message: bytes) -> None:
        raise AssertionError

    def abort(self, reason: str) -> None:
        raise AssertionError


@virtual
async def test_what_a_carrier_still_had_is_ignored() -> None:
    seen: list[Any] = []
    ends: list[str] = []
    beat = Heartbeat(interval_s=9, timeout_s=9, send=lambda: None, on_silence=ends.append)
    message = encode([CancelFrame(1)])
    pump = Pump(
        Scripted(message, message, message),
        box(),
        beat,
        may_send=lambda: True,
        take=seen.extend,
        end=ends.append,
    )
    reading = asyncio.create_task(pump.read(max_bytes=100, skip_unknown=False))
    await asyncio.wait([reading], timeout=1.5)
    pump.stop()
    await reading
    assert seen == [CancelFrame(1)]
    assert (pump.messages_received, ends) == (1, [])
