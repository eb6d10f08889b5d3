"""Links over real TCP on this machine: calls, ends, cuts, processes that die or stand still."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from goverse.call import Call, Codec, Reply
from goverse.config.settings import LimitSettings
from goverse.errors import DeadlineExceeded, GoverseError, LinkBroken, Overloaded, PermissionDenied
from goverse.ids import MemberId
from goverse.security.operators import is_loopback
from goverse.transport.carrier import Carrier, CarrierClosed
from goverse.transport.framing import PREFACE, record
from goverse.transport.hello import Role
from goverse.transport.link import Link, open_link
from goverse.transport.pool import LinkPool
from goverse.transport.tcp_carrier import MAX_UNSENT_BYTES, TcpCarrier
from goverse.transport.tcp_network import TcpNetwork
from goverse.transport.wire import HelloFrame, encode
from tests.support.accepting import accept_links
from tests.support.eventually import eventually
from tests.support.links import Held, Target, call, call_frame, config, hello
from tests.support.proxy import Proxy

FAR = MemberId("far", "1")
MB = 1 << 20


class Ends:
    """Two networks in this process, and what listens."""

    def __init__(self) -> None:
        self.near = TcpNetwork()
        self.far = TcpNetwork()
        self.far_target: Any = Target()
        self.links: list[Link] = []
        self.listener: Any = None

    async def listen(self, address: str = "127.0.0.1:0", **options: Any) -> str:
        options.setdefault("serve", lambda theirs, link: self.far_target)
        accept = accept_links(
            hello(Role.NODE, "far"), config=config("far"), on_link=self.links.append, **options
        )
        self.listener = await self.far.listen(address, accept)
        return str(self.listener.address)

    async def dial(self, address: str, limits: LimitSettings | None = None) -> Link:
        carrier = await self.near.connect(address, timeout_s=5)
        return await open_link(
            carrier, hello(Role.NODE, "near"), lambda theirs, link: Target(), config("near", limits)
        )

    async def pair(self, limits: LimitSettings | None = None) -> tuple[Link, Link]:
        near = await self.dial(await self.listen(), limits)
        await eventually(lambda: self.links)
        return near, self.links[0]


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    before = asyncio.all_tasks()
    ends = Ends()
    yield ends
    await ends.near.close()
    await ends.far.close()

    own = asyncio.current_task()

    def left() -> list[str]:
        tasks = (task for task in asyncio.all_tasks() - before if task is not own)
        return [repr(task)[:300] for task in tasks]

    await eventually(lambda: not left())  # no task outlives the networks
    assert left() == []


@asynccontextmanager
async def child(address: str = "127.0.0.1:0") -> AsyncIterator[tuple[Any, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.link_server", address, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def now() -> float:
    return asyncio.get_running_loop().time()


# -- calls ------------------------------------------------------------------------------------


async def test_calls_in_both_directions(ends: Ends) -> None:
    near, far = await ends.pair()
    assert await near.invoke(call(b"x", codec=Codec.JSON)) == Reply(b"x", Codec.JSON)
    assert await far.invoke(call(b"y")) == Reply(b"y")
    assert is_loopback(far.peer_address)
    payloads = [b"%d" % n for n in range(2_000)]
    replies = await asyncio.gather(*(near.invoke(call(payload)) for payload in payloads))
    assert [reply.payload for reply in replies] == payloads
    assert near.snapshot().messages_sent < 500  # in batches
    assert near.snapshot().at_rest
    await near.close(5)


async def test_large_payloads(ends: Ends) -> None:
    near, _ = await ends.pair()
    payloads = [bytes([n]) * size for n, size in enumerate([64 * MB, 3 * MB, 256 * 1024 + 1, 7])]
    replies = await asyncio.gather(*(near.invoke(call(payload)) for payload in payloads))
    assert [reply.payload for reply in replies] == payloads
    assert near.snapshot().at_rest
    await near.close(5)


async def test_cancelling_a_call_leaves_the_stream_alone(ends: Ends) -> None:
    ends.far_target = Held()
    near, _ = await ends.pair()
    tasks = [asyncio.create_task(near.invoke(call())) for _ in range(100)]
    await eventually(lambda: len(ends.far_target.calls) == 100)
    for task in tasks[:99]:
        task.cancel()
    await eventually(lambda: ends.far_target.cancelled == 99)
    ends.far_target.free.set()
    await tasks[99]
    with pytest.raises(DeadlineExceeded):
        ends.far_target.free.clear()
        await near.invoke(call(timeout_s=0.05))
    assert near.snapshot().state == "open"
    await eventually(lambda: near.snapshot().at_rest)  # the last cancel frame is on its way
    await near.close(5)


# -- ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("closer", ["near", "far"])
async def test_an_orderly_end_delivers_what_is_in_flight(ends: Ends, closer: str) -> None:
    big = bytes(5 * MB)

    async def behave(call: Call) -> Reply:
        return Reply(big)

    ends.far_target = Target(behave)
    near, far = await ends.pair()
    tasks = [asyncio.create_task(near.invoke(call())) for _ in range(4)]
    await eventually(lambda: len(ends.far_target.calls) == 4)
    await (near if closer == "near" else far).close(10)
    for task in tasks:
        assert (await task).payload == big
    assert {await near.wait_closed(), await far.wait_closed()} == {"closed", "the peer closed it"}


@pytest.mark.parametrize("side", ["near", "far"])
async def test_abort_reaches_the_other_side_at_once(ends: Ends, side: str) -> None:
    ends.far_target = Held()
    near, far = await ends.pair()
    task = asyncio.create_task(near.invoke(call()))
    await eventually(lambda: ends.far_target.calls)
    began = now()
    (near if side == "near" else far).abort("enough of this")
    with pytest.raises(LinkBroken):
        await task
    reasons = [await near.wait_closed(), await far.wait_closed()]
    assert now() - began < 1
    assert "enough of this" in reasons[0]
    assert near.snapshot().at_rest
    assert far.snapshot().at_rest


async def test_whoever_is_refused_is_told_why(ends: Ends) -> None:
    def refuse(theirs: Any) -> Any:
        raise PermissionDenied("clients only")

    address = await ends.listen(on_hello=refuse)
    with pytest.raises(PermissionDenied, match="clients only"):
        await ends.dial(address)


async def test_a_listener_that_closes_ends_its_links(ends: Ends) -> None:
    near, _ = await ends.pair()
    await ends.listener.close()
    assert "the server has stopped" in await near.wait_closed()


async def test_addresses_that_do_not_answer(ends: Ends) -> None:
    address = await ends.listen()
    with pytest.raises(OSError, match="cannot listen"):
        await ends.listen(address)
    await ends.listener.close()
    began = now()
    with pytest.raises(CarrierClosed, match="refused"):
        await ends.near.connect(address, timeout_s=5)
    assert now() - began < 1
    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    with pytest.raises(CarrierClosed, match="no connection within"):
        await ends.near.connect(f"127.0.0.1:{port}", timeout_s=0.3)
    task = asyncio.create_task(ends.near.connect(f"127.0.0.1:{port}", timeout_s=30))
    await asyncio.wait([task], timeout=0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    silent.close()


async def test_an_address_where_somebody_else_answers(ends: Ends) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop(0))
        await reader.read()
        writer.close()

    answers = [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0", PREFACE[:-1] + b"\x09", b""]
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for reason in ("no process of Goverse", "no process of Goverse", "version 9"):
        with pytest.raises(CarrierClosed, match=reason):
            await ends.near.connect(address, timeout_s=5)
    with pytest.raises(CarrierClosed, match="no connection within"):
        await ends.near.connect(address, timeout_s=0.2)
    server.close()
    for text in ("nowhere", "host:port:1", "http://x:1"):
        with pytest.raises(CarrierClosed):
            await ends.near.connect(text, timeout_s=1)


async def test_a_network_that_is_closed_connects_nowhere(ends: Ends) -> None:
    address = await ends.listen()
    await ends.near.close()
    with pytest.raises(CarrierClosed, match="network is closed"):
        await ends.near.connect(address, timeout_s=1)


async def test_a_name_stands_for_all_its_addresses(ends: Ends) -> None:
    """And all of them have the same port."""
    address = await ends.listen("localhost:0")
    assert address.startswith("localhost:")
    found = socket.getaddrinfo("localhost", address.rpartition(":")[2], type=socket.SOCK_STREAM)
    for host, port in dict.fromkeys((info[4][0], info[4][1]) for info in found):
        link = await ends.dial(f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}")
        assert await link.invoke(call(b"x")) == Reply(b"x")
        await link.close(5)


# -- rude peers -------------------------------------------------------------------------------


async def raw(ends: Ends, address: str) -> Carrier:
    carrier = await ends.near.connect(address, timeout_s=5)
    await carrier.send(encode([HelloFrame(1, (), "node", "raw", "1")]))
    await carrier.receive()
    return carrier


async def test_rubbish_ends_the_link_and_the_sender_is_told(ends: Ends) -> None:
    address = await ends.listen()
    carrier = await raw(ends, address)
    await carrier.send(b"\xff\xff rubbish")
    with pytest.raises(CarrierClosed, match="bad message"):
        while True:
            await carrier.receive()
    await eventually(lambda: "bad message" in ends.links[0].snapshot().state)
    assert ends.links[0].snapshot().at_rest


class Raw:
    """A peer that writes bytes as it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def greeted(cls, ends: Ends, address: str) -> Raw:
        host, _, port = address.rpartition(":")
        peer = cls(*await asyncio.open_connection(host, int(port)))
        hello = record(encode([HelloFrame(1, (), "node", "raw", "1")]))
        peer.writer.write(PREFACE + hello)
        assert await peer.reader.readexactly(len(PREFACE)) == PREFACE
        await eventually(lambda: ends.links)
        return peer

    async def rest(self) -> bytes:
        """What comes until the other side ends the connection."""
        got = b""
        try:
            while data := await self.reader.read(65_536):
                got += data
        except ConnectionError:
            pass
        return got

    def close(self) -> None:
        self.writer.close()


async def test_a_message_beyond_every_limit_ends_the_link_unread(ends: Ends) -> None:
    """The length alone is enough: nothing is kept of what would follow."""
    peer = await Raw.greeted(ends, await ends.listen())
    peer.writer.write((10 * MB).to_bytes(4, "big"))
    assert b"the limit is" in await peer.rest()
    assert "the limit is" in await ends.links[0].wait_closed()
    assert ends.links[0].snapshot().at_rest
    peer.close()


async def test_a_stranger_greets_in_few_bytes(ends: Ends) -> None:
    """Before the hello nobody is believed to have more to say than a hello takes."""
    address = await ends.listen()
    carrier = await ends.near.connect(address, timeout_s=5)
    carrier.write(bytes(100_000))
    with pytest.raises(CarrierClosed, match="the limit is 65536"):
        while True:
            await carrier.receive()
    assert ends.links == []


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 20])
async def test_a_stream_that_ends_in_the_middle_of_a_message(ends: Ends, cut: int) -> None:
    ends.far_target = Target()
    peer = await Raw.greeted(ends, await ends.listen())
    whole = record(encode([call_frame(1)]))
    peer.writer.write(whole + whole[:cut])
    peer.writer.write_eof()
    await peer.rest()
    assert "in the middle" in await ends.links[0].wait_closed()
    peer.close()


async def test_a_peer_that_vanishes_without_a_word_is_given_up(ends: Ends) -> None:
    """A half-open connection: no FIN ever comes, and nothing else either."""
    peer = await Raw.greeted(ends, await ends.listen())
    began = now()
    assert "nothing was heard for 3 s" in await ends.links[0].wait_closed()
    assert 2 < now() - began < 5
    await eventually(lambda: ends.listener.snapshot().links == 0)
    peer.close()


async def test_bytes_that_trickle_in_are_messages_all_the_same(ends: Ends) -> None:
    peer = await Raw.greeted(ends, await ends.listen())
    frames = record(encode([call_frame(1, b"first")])) + record(encode([call_frame(2, b"second")]))
    for position in range(len(frames)):
        peer.writer.write(frames[position : position + 1])
        await peer.writer.drain()
    await eventually(lambda: len(ends.far_target.calls) == 2)
    assert [one.payload for one in ends.far_target.calls] == [b"first", b"second"]
    peer.writer.write_eof()
    assert b"second" in await peer.rest()
    peer.close()


async def test_what_a_peer_that_reads_nothing_costs_has_a_limit(ends: Ends) -> None:
    """`send` waits, and nothing is taken beyond the limit and one message."""
    carriers: list[TcpCarrier] = []

    async def accept(carrier: Carrier) -> None:
        assert isinstance(carrier, TcpCarrier)
        carriers.append(carrier)
        while True:
            await carrier.send(bytes(100_000))

    listener = await ends.far.listen("127.0.0.1:0", accept)
    deaf = await ends.near.connect(listener.address, timeout_s=5)  # never receives
    await eventually(lambda: carriers and carriers[0].blocked)
    transport = carriers[0]._transport
    assert 0 < transport.get_write_buffer_size() <= MAX_UNSENT_BYTES + 100_004
    began = now()
    deaf.abort("enough")
    await eventually(lambda: listener.snapshot().links == 0)
    assert now() - began < 2
    await listener.close()


async def test_L24_a_peer_that_reads_nothing_holds_up_nobody_else(ends: Ends) -> None:
    limits = replace(LimitSettings(), max_inflight_bytes=40 * MB)
    other, _ = await ends.pair(limits)
    carriers: list[Carrier] = []

    async def accept(carrier: Carrier) -> None:
        carriers.append(carrier)
        await carrier.send(encode([HelloFrame(1, (), "node", "deaf", "1")]))
        await asyncio.Event().wait()

    deaf_listener = await ends.far.listen("127.0.0.1:0", accept)
    deaf = await ends.dial(deaf_listener.address, limits)
    calls = [asyncio.create_task(deaf.invoke(call(bytes(MB // 5)))) for _ in range(400)]
    await eventually(lambda: any(task.done() for task in calls))
    for task in calls:
        if task.done():
            assert isinstance(task.exception(), Overloaded)
    began = now()
    for _ in range(100):
        await other.invoke(call(bytes(1_000)))
    assert now() - began < 2
    deaf.abort("enough")
    await asyncio.gather(*calls, return_exceptions=True)
    await deaf.wait_closed()
    assert deaf.snapshot().at_rest
    await deaf_listener.close()


# -- processes and cables ---------------------------------------------------------------------


async def holding(link: Link, count: int) -> list[asyncio.Task[Reply]]:
    one = call()
    one.method = "hold"
    tasks = [asyncio.create_task(link.invoke(one)) for _ in range(count)]
    await eventually(lambda: link.snapshot().waiting_calls == count)
    await link.invoke(call())  # has overtaken them: they are there
    return tasks


async def all_broken(tasks: list[asyncio.Task[Reply]]) -> None:
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, LinkBroken)
        assert outcome.sent is True


async def test_a_killed_process_is_noticed_at_once(ends: Ends) -> None:
    async with child() as (process, address):
        near = await ends.dial(address)
        tasks = await holding(near, 50)
        began = now()
        process.kill()
        await all_broken(tasks)
        assert now() - began < 1
        await near.wait_closed()
        assert near.snapshot().at_rest


async def test_a_process_that_stands_still_is_given_up(ends: Ends) -> None:
    """And when it goes on, it finds the link gone and takes a new one."""
    async with child() as (process, address):
        near = await ends.dial(address)
        tasks = await holding(near, 5)
        began = now()
        process.send_signal(signal.SIGSTOP)
        await all_broken(tasks)
        assert 2 < now() - began < 4.5
        assert "nothing was heard for 3 s" in await near.wait_closed()
        process.send_signal(signal.SIGCONT)
        again = await ends.dial(address)
        assert await again.invoke(call(b"again")) == Reply(b"again")
        await again.close(5)


async def test_after_a_cut_a_link_is_back_within_two_seconds(ends: Ends) -> None:
    async with child() as (_, address):
        proxy = Proxy(address).start()
        pool = LinkPool(ends.near, lambda: hello(Role.NODE, "near"), config("near"))
        target = pool.target(FAR, proxy.endpoint)
        await target.invoke(call())
        one = call()
        one.method = "hold"
        tasks = [asyncio.create_task(target.invoke(one)) for _ in range(3)]
        await eventually(lambda: pool.snapshot().peers[0].links[0].waiting_calls == 3)
        await target.invoke(call())
        proxy.cut()
        await all_broken(tasks)
        accepted = proxy.accepted
        waiting = asyncio.create_task(target.invoke(call(b"through", timeout_s=20)))
        await eventually(lambda: proxy.accepted > accepted + 1)  # attempts go into the void
        proxy.heal()
        began = now()
        assert (await waiting).payload == b"through"
        assert now() - began < 2.5  # 2 s, and what a busy machine takes
        await pool.close(5)
        proxy.close()


async def test_after_a_restart_at_the_same_address(ends: Ends) -> None:
    pool = LinkPool(ends.near, lambda: hello(Role.NODE, "near"), config("near"))
    async with child() as (process, address):
        await pool.target(FAR, address).invoke(call())
        process.kill()
    waiting = asyncio.create_task(pool.target(FAR, address).invoke(call(b"x", timeout_s=20)))
    await eventually(lambda: "refused" in pool.snapshot().peers[0].last_error)
    async with child(address):
        assert (await waiting).payload == b"x"
        await pool.close(5)


async def test_errors_arrive_over_tcp(ends: Ends) -> None:
    async def behave(call: Call) -> Reply:
        raise PermissionDenied("not you", details={"who": "me"})

    ends.far_target = Target(behave)
    near, _ = await ends.pair()
    with pytest.raises(GoverseError) as caught:
        await near.invoke(call())
    assert isinstance(caught.value, PermissionDenied)
    assert caught.value.details == {"who": "me"}
