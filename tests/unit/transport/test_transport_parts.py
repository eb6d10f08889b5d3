"""The parts of a link that need no link: outbox, expiry, heartbeat."""

from __future__ import annotations

import asyncio
import math
import types
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest

from goverse.transport.carrier import Sink
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
from tests.support.links import MAX_MESSAGE
from tests.support.virtual import virtual


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


def test_whoever_empties_the_outbox_is_woken_once() -> None:
    outbox = box()
    woken: list[str] = []
    outbox.when_ready(lambda: woken.append("first"))
    assert woken == []
    outbox.put(Item(1))
    outbox.put(Item(2))
    assert woken == ["first"]
    outbox.when_ready(lambda: woken.append("at once"))
    assert woken == ["first", "at once"]
    taken(outbox)
    outbox.stream(Stream(1, Of.CALL, b"aaaa"))
    outbox.when_ready(lambda: woken.append("for a chunk"))
    assert woken == ["first", "at once", "for a chunk"]
    taken(outbox)
    outbox.when_ready(lambda: woken.append("never"))
    outbox.close()
    outbox.put(Item(3))
    outbox.put_control(PingFrame())
    outbox.when_ready(lambda: woken.append("never"))
    assert (outbox.items, outbox.controls) == ([], 0)
    assert woken == ["first", "at once", "for a chunk"]


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


@virtual
async def test_time_in_which_the_process_stood_still_is_no_silence_of_the_peer() -> None:
    loop: Any = asyncio.get_running_loop()
    awake_s = loop.time()
    silence: list[float] = []
    beat = Heartbeat(
        interval_s=1,
        timeout_s=3,
        send=lambda: None,
        on_silence=lambda reason: silence.append(loop.time() - awake_s),
    )

    def stand_still() -> None:
        nonlocal awake_s
        loop._now += 0.9
        awake_s += 0.9
        loop.call_later(1, stand_still)

    loop.call_later(0.999, stand_still)
    beat.start()
    await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=30)
    assert len(silence) == 1
    assert 3 < silence[0] < 5
    beat.stop()


# -- pump ---------------------------------------------------------------------------------------


class Scripted:
    """A carrier that keeps what it is given, and blocks when it is told to."""

    peer = "scripted"

    def __init__(self, *arrived: bytes) -> None:
        self.arrived = arrived
        self.blocked = False
        self.written: list[list[Frame]] = []

    def attach(self, sink: Sink) -> None:
        for message in self.arrived:
            sink.on_message(message)

    def write(self, message: bytes) -> None:
        self.written.append(decode(message, max_bytes=1_000))

    async def receive(self) -> bytes:
        raise AssertionError

    async def send(self, message: bytes) -> None:
        raise AssertionError

    def abort(self, reason: str) -> None:
        raise AssertionError


class Pumped:
    """A pump, and everything around it."""

    def __init__(self, *arrived: bytes, outbox: Outbox | None = None) -> None:
        self.carrier = Scripted(*arrived)
        self.outbox = outbox or box()
        self.ends: list[str] = []
        self.seen: list[Frame] = []
        self.may_send = True
        beat = Heartbeat(interval_s=9, timeout_s=9, send=lambda: None, on_silence=self.ends.append)
        self.pump = Pump(
            self.carrier,
            self.outbox,
            beat,
            may_send=lambda: self.may_send,
            take=self.take,
            end=self.ends.append,
        )

    def start(self) -> None:
        self.pump.start(max_bytes=100, skip_unknown=False)

    def take(self, frames: list[Frame]) -> None:
        self.seen.extend(frames)


@types.coroutine
def next_pass() -> Generator[None, None, None]:
    """Let everything run that is due in this pass of the loop."""
    yield


@virtual
async def test_what_a_carrier_still_had_is_ignored() -> None:
    message = encode([CancelFrame(1)])
    pumped = Pumped(message, message, message)

    def take(frames: list[Frame]) -> None:
        pumped.seen.extend(frames)
        pumped.pump.stop()

    pumped.pump._take = take
    pumped.start()
    assert pumped.seen == [CancelFrame(1)]
    assert (pumped.pump.messages_received, pumped.ends) == (1, [])


@virtual
async def test_what_gathers_in_one_pass_goes_as_one_message() -> None:
    pumped = Pumped()
    pumped.start()
    for number in (1, 2, 3):
        pumped.outbox.put(Item(number))
    assert pumped.carrier.written == []
    await next_pass()
    assert pumped.carrier.written == [[CancelFrame(1), CancelFrame(2), CancelFrame(3)]]
    pumped.outbox.put(Item(4))
    await next_pass()
    assert pumped.carrier.written[1:] == [[CancelFrame(4)]]
    assert pumped.pump.messages_sent == 2


@virtual
async def test_what_gathers_while_the_carrier_is_blocked_goes_as_one_message() -> None:
    pumped = Pumped()
    pumped.start()
    pumped.carrier.blocked = True
    for number in (1, 2, 3):
        pumped.outbox.put(Item(number))
        await next_pass()
    assert pumped.carrier.written == []
    assert len(pumped.outbox.items) == 3
    pumped.carrier.blocked = False
    pumped.pump.on_writable()
    pumped.pump.on_writable()
    await next_pass()
    await next_pass()
    assert pumped.carrier.written == [[CancelFrame(1), CancelFrame(2), CancelFrame(3)]]
    pumped.outbox.put(Item(4))  # nobody has forgotten to listen
    await next_pass()
    assert pumped.carrier.written[1:] == [[CancelFrame(4)]]


@virtual
async def test_one_message_per_pass_however_much_there_is() -> None:
    pumped = Pumped()
    pumped.start()
    for number in range(1, 2 * MAX_BATCH_FRAMES + 2):
        pumped.outbox.put(Item(number))
    for count in (1, 2, 3, 3):
        await next_pass()
        assert len(pumped.carrier.written) == count
    assert [len(frames) for frames in pumped.carrier.written] == [64, 64, 1]


@virtual
async def test_a_carrier_that_blocks_in_between_is_waited_for() -> None:
    pumped = Pumped()
    pumped.start()
    for number in range(1, MAX_BATCH_FRAMES + 2):
        pumped.outbox.put(Item(number))
    await next_pass()
    pumped.carrier.blocked = True
    await next_pass()
    await next_pass()
    assert len(pumped.carrier.written) == 1
    pumped.carrier.blocked = False
    pumped.pump.on_writable()
    await next_pass()
    assert len(pumped.carrier.written) == 2


@virtual
async def test_the_lease_is_asked_immediately_before_every_write() -> None:
    pumped = Pumped()
    pumped.start()
    pumped.outbox.put(Item(1))
    pumped.may_send = False
    await next_pass()
    assert pumped.carrier.written == []
    assert len(pumped.outbox.items) == 1  # not taken, and so never sent
    assert "lease" in pumped.ends[0]


@virtual
async def test_an_item_that_fails_ends_the_link_and_not_the_loop() -> None:
    pumped = Pumped()
    pumped.start()

    class Broken(Item):
        def frame(self, now: float) -> Frame | None:
            raise RuntimeError("out of order")

    pumped.outbox.put(Broken(1))
    await next_pass()
    assert "out of order" in pumped.ends[0]


@virtual
async def test_what_was_queued_before_the_start_is_sent() -> None:
    pumped = Pumped()
    pumped.outbox.put(Item(1))
    await next_pass()
    assert pumped.carrier.written == []
    pumped.start()
    await next_pass()
    assert pumped.carrier.written == [[CancelFrame(1)]]
