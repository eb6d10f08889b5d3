"""A TCP carrier by itself, on a transport that a test plays: flow control, ends, their order."""

from __future__ import annotations

import asyncio
import random
import types
from collections.abc import Generator

import pytest

from goverse.transport.carrier import MAX_GREETING_BYTES, CarrierClosed
from goverse.transport.framing import Splitter, last_record, record
from goverse.transport.tcp_carrier import LINGER_S, MAX_UNREAD_BYTES, TcpCarrier
from tests.support.played import Played
from tests.support.virtual import virtual

LIMIT = 3_000_000


@types.coroutine
def next_pass() -> Generator[None, None, None]:
    """Let everything run that is due in this pass of the loop."""
    yield


class Heard:
    """A sink that keeps what it hears."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.ends: list[str] = []
        self.writable = 0

    def on_message(self, message: bytes) -> None:
        assert not self.ends
        self.messages.append(message)

    def on_writable(self) -> None:
        self.writable += 1

    def on_end(self, reason: str) -> None:
        self.ends.append(reason)


def opened() -> tuple[TcpCarrier, Played, list[TcpCarrier]]:
    transport = Played()
    gone: list[TcpCarrier] = []
    carrier = TcpCarrier(transport, "peer:1", max_bytes=LIMIT, on_gone=gone.append)
    return carrier, transport, gone


def written(transport: Played) -> tuple[list[bytes], str | None]:
    splitter, found = Splitter(), []
    splitter.feed(transport.written)
    while (message := splitter.next(LIMIT)) is not None:
        found.append(message)
    return found, splitter.reason


@pytest.mark.parametrize("seed", range(25))
def test_everything_arrives_whatever_the_pieces_and_nothing_stalls(seed: int) -> None:
    """Reading is paused when too much waits, and goes on however that ends."""

    @virtual
    async def body() -> None:
        source = random.Random(seed)
        carrier, transport, _ = opened()
        heard = Heard()
        carrier.attach(heard)
        sizes = [0, 7, 900, 70_000, MAX_UNREAD_BYTES - 4, MAX_UNREAD_BYTES, 700_000]
        sent = [source.randbytes(source.choice(sizes)) for _ in range(30)]
        stream = b"".join(map(record, sent))
        at = 0
        while at < len(stream):
            size = source.choice([1, 5, 4_000, 256_000, 256_000])
            transport.arriving.append(stream[at : at + size])
            at += size
        most = 0
        for _ in range(3 * len(transport.arriving) + 100):
            for _ in range(source.randint(0, 3)):
                if not transport.paused and transport.arriving:
                    carrier.data_received(transport.arriving.pop(0))
            most = max(most, carrier._splitter.waiting_bytes)
            await next_pass()
        assert transport.arriving == []
        assert heard.messages == sent, f"seed {seed}"
        assert not transport.paused
        assert most <= MAX_UNREAD_BYTES + 700_004 + 2 * 256_000
        carrier.abort("done")

    body()


@virtual
async def test_one_message_is_handed_over_per_pass() -> None:
    carrier, _, _ = opened()
    heard = Heard()
    carrier.attach(heard)
    carrier.data_received(b"".join(map(record, [b"1", b"2", b"3"])))
    for count in (1, 2, 3, 3):
        assert len(heard.messages) == count
        await next_pass()
    carrier.abort("done")


@virtual
async def test_what_waits_is_handed_over_before_an_orderly_end() -> None:
    for end in ("eof", "lost", "last record"):
        carrier, _, _ = opened()
        heard = Heard()
        carrier.attach(heard)
        stream = record(b"1") + record(b"2") + record(b"3")
        carrier.data_received(stream + (last_record("bye") if end == "last record" else b""))
        if end == "eof":
            carrier.eof_received()
        elif end == "lost":
            carrier.connection_lost(None)
        for _ in range(5):
            await next_pass()
        assert heard.messages == [b"1", b"2", b"3"]
        assert len(heard.ends) == 1
        assert heard.ends[0] == "bye" or end != "last record"


@virtual
async def test_nothing_is_handed_over_after_abort() -> None:
    carrier, _, _ = opened()
    heard = Heard()
    carrier.attach(heard)
    carrier.data_received(record(b"1") + record(b"2"))
    carrier.abort("enough")
    assert heard.ends == []  # never from within
    carrier.data_received(record(b"3"))
    for _ in range(3):
        await next_pass()
    assert heard.messages == [b"1"]
    assert heard.ends == ["enough"]


@virtual
async def test_an_end_is_told_once_and_lingers_no_longer_than_it_may() -> None:
    carrier, transport, gone = opened()
    heard = Heard()
    carrier.attach(heard)
    carrier.write(b"x")
    carrier.abort("enough")
    carrier.abort("again")
    carrier.write(b"too late")
    assert written(transport) == ([b"x"], "enough")
    assert transport.ended_writing
    assert not transport.closed  # the other side reads the reason first
    loop = asyncio.get_running_loop()
    began = loop.time()
    await carrier.gone
    assert loop.time() - began == pytest.approx(LINGER_S)
    assert (transport.closed, gone, heard.ends) == ("abort", [carrier], ["enough"])


@virtual
async def test_whoever_reads_nothing_is_not_waited_for() -> None:
    carrier, transport, _ = opened()
    transport.unsent = 1_000
    carrier.abort("enough")
    assert transport.closed == "abort"
    await carrier.gone


@virtual
async def test_back_pressure_is_seen_and_ends_are_not_slept_through() -> None:
    carrier, _, _ = opened()
    carrier.pause_writing()
    assert carrier.blocked
    sending = asyncio.create_task(carrier.send(b"x"))
    await next_pass()
    assert not sending.done()
    carrier.resume_writing()
    await sending
    carrier.pause_writing()
    sending = asyncio.create_task(carrier.send(b"y"))
    receiving = asyncio.create_task(carrier.receive())
    await next_pass()
    carrier.connection_lost(ConnectionResetError("reset"))
    for task in (sending, receiving):
        with pytest.raises(CarrierClosed, match="broke: reset"):
            await task
    heard = Heard()
    carrier.attach(heard)
    await next_pass()
    assert heard.ends == ["the connection broke: reset"]
    assert heard.writable == 0


@virtual
async def test_a_sink_hears_that_it_may_write_again() -> None:
    carrier, _, _ = opened()
    heard = Heard()
    carrier.attach(heard)
    carrier.resume_writing()
    assert heard.writable == 0
    carrier.pause_writing()
    carrier.resume_writing()
    assert heard.writable == 1
    carrier.abort("done")


@virtual
async def test_a_greeting_is_read_and_no_more_until_somebody_attaches() -> None:
    """A stranger fills no memory by talking on, and what it says behind its hello is not lost."""
    carrier, transport, _ = opened()
    big = bytes(2 * MAX_GREETING_BYTES)
    transport.arriving = [record(b"hello") + record(big), record(b"more")]
    transport.deliver()
    assert transport.paused
    assert await carrier.receive() == b"hello"
    assert transport.paused
    heard = Heard()
    carrier.attach(heard)
    assert heard.messages == [big]
    assert not transport.paused
    transport.deliver()
    assert heard.messages == [big, b"more"]
    carrier.abort("done")


@virtual
async def test_a_greeting_that_is_too_long_ends_the_stream() -> None:
    carrier, transport, _ = opened()
    receiving = asyncio.create_task(carrier.receive())
    await next_pass()
    carrier.data_received((MAX_GREETING_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(CarrierClosed, match="the limit is 65536"):
        await receiving
    assert "the limit is" in (written(transport)[1] or "")
