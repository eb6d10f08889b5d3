"""One port for links and gRPC clients; and who a gRPC client is, whatever it tries."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from goverse import admin
from goverse.admin.api import Shard
from goverse.call import Reply
from goverse.config.settings import LimitSettings
from goverse.errors import PermissionDenied
from goverse.security.operators import OperatorRule, is_loopback
from goverse.transport import front, grpc_server, tcp_network
from goverse.transport.framing import HTTP2_PREFACE, PREFACE
from goverse.transport.hello import Role
from goverse.transport.link import open_link
from goverse.transport.passage import _Side
from goverse.transport.tcp_network import ListenerSnapshot, TcpListener, TcpNetwork
from goverse_node.admin.service import AdminService
from tests.support.accepting import accept_links
from tests.support.eventually import eventually
from tests.support.links import Target, call, config, hello

MB = 1 << 20
NOTHING = ListenerSnapshot(silent=0, links=0, passages=0)


class Probe:
    """A service of every kind of method. It keeps the peers that it was told of."""

    def __init__(self) -> None:
        self.peers: list[str] = []
        self.held = asyncio.Event()
        self.running = 0

    def handler(self) -> Any:
        return grpc.method_handlers_generic_handler(
            "test.Probe",
            {
                "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
                "Count": grpc.unary_stream_rpc_method_handler(self.count),
                "Written": grpc.unary_stream_rpc_method_handler(self.written),
                "Join": grpc.stream_unary_rpc_method_handler(self.join),
                "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
                "Hold": grpc.unary_unary_rpc_method_handler(self.hold),
                "Blocking": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
            },
        )

    async def echo(self, request: bytes, context: Any) -> bytes:
        self.peers.append(context.peer())
        context.set_trailing_metadata((("seen", "yes"),))
        return request

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.peers.append(context.peer())
        for number in range(int(request)):
            yield b"%d" % number

    async def written(self, request: bytes, context: Any) -> None:
        self.peers.append(context.peer())
        await context.write(request)

    async def join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        self.peers.append(context.peer())
        return b"".join([request async for request in requests])

    async def chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.peers.append(context.peer())
        async for request in requests:
            yield request

    async def hold(self, request: bytes, context: Any) -> bytes:
        self.running += 1
        try:
            await self.held.wait()
        finally:
            self.running -= 1
        return request


class Cluster:
    """Remembers what was changed."""

    def __init__(self) -> None:
        self.changed: list[int] = []

    async def get_shard(self, shard: int) -> Shard:
        return Shard(shard=shard)

    async def unpin_shard(self, shard: int) -> Shard:
        self.changed.append(shard)
        return Shard(shard=shard)


class Served:
    """A listener with links, a probe and the admin service."""

    def __init__(self) -> None:
        self.network = TcpNetwork()
        self.probe = Probe()
        self.cluster = Cluster()
        self.listener: TcpListener

    async def listen(self, address: str = "127.0.0.1:0", *, services: bool = True) -> str:
        accept = accept_links(hello(Role.NODE, "far"), lambda theirs, link: Target(), config("far"))
        service = AdminService(self.cluster, OperatorRule())  # type: ignore[arg-type]
        handlers = [self.probe.handler(), service.handler()] if services else []
        listener = await self.network.listen(address, accept, services=handlers)
        assert isinstance(listener, TcpListener)
        self.listener = listener
        return listener.address

    @property
    def inner(self) -> grpc_server.InnerServer:
        assert self.listener._inner is not None
        return self.listener._inner


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    yield served
    await served.network.close()
    await eventually(lambda: served.listener.snapshot() == NOTHING)
    if served.listener._inner is not None:
        assert served.inner.peers == {}


def method(channel: grpc.aio.Channel, kind: str, name: str) -> Any:
    made: Any = getattr(channel, kind)
    return made(f"/test.Probe/{name}")


def dial(address: str) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    return grpc.aio.insecure_channel(
        address, options=[*options, ("grpc.max_receive_message_length", -1)]
    )


async def open_raw(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


# -- both on one port ---------------------------------------------------------------------------


async def test_links_and_every_kind_of_grpc_method_on_one_port(served: Served) -> None:
    address = await served.listen()
    carrier = await served.network.connect(address, timeout_s=5)
    link = await open_link(
        carrier, hello(Role.NODE, "near"), lambda theirs, link: Target(), config("near")
    )
    async with dial(address) as channel:
        asked = method(channel, "unary_unary", "Echo")(b"hi")
        assert await asked == b"hi"
        assert dict(await asked.trailing_metadata())["seen"] == "yes"
        count = method(channel, "unary_stream", "Count")(b"3")
        assert [item async for item in count] == [b"0", b"1", b"2"]
        assert [item async for item in method(channel, "unary_stream", "Written")(b"w")] == [b"w"]
        assert await method(channel, "stream_unary", "Join")(iter([b"a", b"b"])) == b"ab"
        chat = method(channel, "stream_stream", "Chat")(iter([b"x", b"y"]))
        assert [item async for item in chat] == [b"x", b"y"]
        assert served.listener.snapshot() == ListenerSnapshot(0, 1, 1)
        assert await link.invoke(call(b"x")) == Reply(b"x")
    del asked, count, chat  # gRPC keeps a connection for as long as somebody holds a call of it
    await link.close(5)
    await eventually(lambda: served.listener.snapshot() == NOTHING)


async def test_large_messages_pass_both_ways_at_the_speed_of_the_slower_side(
    served: Served,
) -> None:
    address = await served.listen()
    big = bytes(20_000_000)
    async with dial(address) as channel:
        echo = method(channel, "unary_unary", "Echo")
        assert await asyncio.gather(*(echo(big) for _ in range(3))) == [big] * 3


async def test_a_method_that_would_run_in_a_thread_is_refused(served: Served) -> None:
    address = await served.listen()
    async with dial(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await method(channel, "unary_unary", "Blocking")(b"")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(channel, "unary_unary", "Nothing")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_without_services_no_grpc_server_runs(served: Served, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "goverse.transport.front")
    address = await served.listen(services=False)
    assert served.listener._inner is None
    reader, writer = await open_raw(address)
    writer.write(HTTP2_PREFACE)
    assert await reader.read() == b""
    writer.close()
    assert "no service is here" in caplog.text


# -- who somebody is ----------------------------------------------------------------------------


async def test_L33_services_are_told_the_true_peer_of_each_connection(served: Served) -> None:
    address = await served.listen()
    for _ in range(3):
        async with dial(address) as channel:
            for _ in range(2):
                await method(channel, "unary_unary", "Echo")(b"")
    peers = served.probe.peers
    assert all(is_loopback(peer) for peer in peers)
    assert [peers[0], peers[2], peers[4]] == [peers[1], peers[3], peers[5]]
    assert len(set(peers)) == 3
    assert not any(peer.endswith(f":{served.inner.port}") for peer in peers)


async def test_L33_a_peer_is_who_it_was_when_it_was_accepted(
    served: Served, monkeypatch: Any
) -> None:
    """To gRPC itself every client comes from 127.0.0.1. Here one is said to come from elsewhere:
    tests listen on loopback alone."""
    monkeypatch.setattr(front, "peer_of", lambda transport: "10.0.0.7:5000")
    address = await served.listen()
    async with admin.connect(address) as client:
        with pytest.raises(PermissionDenied):
            await client.unpin_shard(1)
    monkeypatch.undo()
    async with admin.connect(address) as client:
        await client.unpin_shard(2)
    assert served.cluster.changed == [2]


async def test_L33_the_inner_port_serves_nobody_directly(served: Served, caplog: Any) -> None:
    """It is on loopback: whoever came through unseen would be an operator."""
    await served.listen()
    inner = f"127.0.0.1:{served.inner.port}"
    async with admin.connect(inner) as client:
        for question in (client.unpin_shard(1), client.get_shard(1)):
            with pytest.raises(PermissionDenied, match="connect to the address that it listens on"):
                await question
    assert served.cluster.changed == []
    async with dial(inner) as channel:
        for kind, name, request in (
            ("unary_unary", "Echo", b""),
            ("unary_stream", "Count", b"3"),
            ("unary_stream", "Written", b"w"),
            ("stream_unary", "Join", iter([b"a"])),
            ("stream_stream", "Chat", iter([b"a"])),
        ):
            asked = method(channel, kind, name)(request)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                if kind.endswith("unary"):
                    await asked
                else:
                    await asked.read()
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert served.probe.peers == []
    assert "called the inner gRPC port" in caplog.text


@pytest.mark.parametrize("end", ["the client closes", "the front aborts"])
async def test_L33_an_address_is_believed_only_as_long_as_its_connection_lives(
    served: Served, monkeypatch: Any, end: str
) -> None:
    """Nobody inherits the standing of a client that has left: its entry goes first."""
    still_believed: list[bool] = []
    for name in ("close", "abort"):
        monkeypatch.setattr(_Side, name, watched(served, getattr(_Side, name), still_believed))
    address = await served.listen()
    async with dial(address) as channel:
        await method(channel, "unary_unary", "Echo")(b"")
        assert list(served.inner.peers.values()) == served.probe.peers
        if end == "the front aborts":
            (passage,) = served.listener._passages
            passage.abort()
    await eventually(lambda: served.listener.snapshot() == NOTHING)
    assert served.inner.peers == {}
    assert still_believed
    assert not any(still_believed)


def watched(served: Served, ending: Any, still_believed: list[bool]) -> Any:
    def end(side: Any) -> None:
        if side._transport is not None:
            name = side._transport.get_extra_info("sockname")
            still_believed.append(f"{name[0]}:{name[1]}" in served.inner.peers)
        ending(side)

    return end


async def test_L33_no_byte_is_forwarded_before_the_peer_is_known(
    served: Served, monkeypatch: Any
) -> None:
    address = await served.listen()
    known: list[bool] = []
    passage = tcp_network.Passage
    made = passage._inner_made

    def watched(self: Any, transport: Any) -> None:
        write = self._inner.write

        def writing(data: bytes) -> None:
            name = transport.get_extra_info("sockname")
            known.append(f"{name[0]}:{name[1]}" in served.inner.peers)
            write(data)

        self._inner.write = writing
        made(self, transport)

    monkeypatch.setattr(passage, "_inner_made", watched)
    async with dial(address) as channel:
        await method(channel, "unary_unary", "Echo")(b"")
    assert known
    assert all(known)


# -- rude connections ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GOVERSX\x01",
        b"PRI * HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",  # a TLS hello
        b"\x00",
        bytes(100_000),
    ],
)
async def test_whatever_else_speaks_is_closed_at_once(
    served: Served, first: bytes, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG, "goverse.transport.front")
    address = await served.listen()
    reader, writer = await open_raw(address)
    writer.write(first)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    await eventually(lambda: "neither Goverse nor HTTP/2" in caplog.text)
    assert served.listener.snapshot() == NOTHING
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_a_link_of_another_version_is_told_ours(served: Served) -> None:
    address = await served.listen()
    reader, writer = await open_raw(address)
    writer.write(PREFACE[:-1] + b"\x63")
    assert await reader.read() == PREFACE
    writer.close()


async def test_a_connection_that_says_nothing_is_closed(served: Served, monkeypatch: Any) -> None:
    """Nor does it help to say a little, again and again."""
    monkeypatch.setattr(front, "WAIT_S", 0.3)
    address = await served.listen()
    began = asyncio.get_running_loop().time()
    silent = await open_raw(address)
    slow = await open_raw(address)
    for byte in PREFACE[:3]:
        slow[1].write(bytes([byte]))
        await slow[1].drain()
    for reader, writer in (silent, slow):
        assert await reader.read() == b""
        writer.close()
    assert asyncio.get_running_loop().time() - began < 3
    assert served.listener.snapshot() == NOTHING


async def test_many_silent_connections_keep_nobody_out(served: Served, monkeypatch: Any) -> None:
    """The oldest goes: whoever means it speaks at once."""
    monkeypatch.setattr(tcp_network, "MAX_SILENT", 5)
    address = await served.listen()
    silent = [await open_raw(address) for _ in range(9)]
    await eventually(lambda: served.listener.snapshot().silent == 5)
    carrier = await served.network.connect(address, timeout_s=5)
    async with dial(address) as channel:
        assert await method(channel, "unary_unary", "Echo")(b"hi") == b"hi"
    for reader, _ in silent[:4]:
        assert await reader.read() == b""
    carrier.abort("done")
    for _, writer in silent:
        writer.close()


async def test_grpc_connections_have_a_limit(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(tcp_network, "MAX_SPARE_PASSAGES", 0)
    served = Served()
    served.network = TcpNetwork(limits=LimitSettings(max_sessions=1))
    address = await served.listen()
    async with dial(address) as first, dial(address) as second:
        assert await method(first, "unary_unary", "Echo")(b"1") == b"1"
        with pytest.raises(grpc.aio.AioRpcError):
            await method(second, "unary_unary", "Echo")(b"2", timeout=1)
        assert await method(first, "unary_unary", "Echo")(b"3") == b"3"
    assert "1 gRPC connections are open" in caplog.text
    await served.network.close()


@pytest.mark.parametrize("first", ["client", "server"])
async def test_a_side_that_half_closes_gets_its_answer(served: Served, first: str) -> None:
    """What is said before the end is passed on, and so is what is answered after it."""
    address = await served.listen()
    client, there, server = await passed_through(served, address)
    (ending, answering) = (client, there) if first == "client" else (there, client)
    ending[1].write(b"a question")
    ending[1].write_eof()
    assert await answering[0].read() == b"a question"
    answering[1].write(b"the answer")
    answering[1].close()
    assert await ending[0].read() == b"the answer"
    ending[1].close()
    server.close()


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def passed_through(served: Served, address: str) -> tuple[Stream, Stream, asyncio.Server]:
    """A client's connection, and where it comes out: not at gRPC, but in the test's hands."""
    met: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda *both: met.set_result(both), "127.0.0.1", 0)
    served.inner.port = server.sockets[0].getsockname()[1]
    client = await open_raw(address)
    client[1].write(HTTP2_PREFACE)
    there = await met
    assert await there[0].readexactly(len(HTTP2_PREFACE)) == HTTP2_PREFACE
    return client, there, server


async def test_a_client_that_goes_in_the_middle_of_a_call_ends_it(served: Served) -> None:
    address = await served.listen()
    async with dial(address) as channel:
        asked = asyncio.ensure_future(method(channel, "unary_unary", "Hold")(b""))
        await eventually(lambda: served.probe.running == 1)
    await asyncio.wait([asked])
    del asked  # gRPC keeps a connection for as long as somebody holds a call of it
    await eventually(lambda: served.probe.running == 0)
    await eventually(lambda: served.listener.snapshot() == NOTHING)


async def test_a_client_that_goes_before_it_is_passed_on_leaves_nothing(served: Served) -> None:
    address = await served.listen()
    for _ in range(30):
        _, writer = await open_raw(address)
        writer.write(HTTP2_PREFACE)
        writer.transport.abort()
    await eventually(lambda: served.listener.snapshot() == NOTHING)
    assert served.inner.peers == {}


@pytest.mark.parametrize("deaf", ["client", "server"])
async def test_a_side_that_does_not_read_holds_up_the_other_and_not_our_memory(
    served: Served, deaf: str
) -> None:
    """And when it reads after all, everything is there."""
    address = await served.listen()
    much = bytes(range(256)) * 128 * 1024  # 32 MiB: no kernel keeps that
    client, there, server = await passed_through(served, address)
    (sending, receiving) = (there, client) if deaf == "client" else (client, there)
    receiving[1].transport.pause_reading()
    sending[1].write(much)
    writing = sending[1].transport
    before = -1
    while writing.get_write_buffer_size() != before:  # until nothing moves any more
        before = writing.get_write_buffer_size()
        await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=0.2)
    assert before > 8 * MB
    (passage,) = served.listener._passages
    for side in (passage._outer, passage._inner):
        assert side._transport is not None
        assert side._transport.get_write_buffer_size() < MB
    sending[1].write_eof()
    receiving[1].transport.resume_reading()
    assert await receiving[0].read() == much
    for _, writer in (there, client):
        writer.close()
    server.close()


async def test_a_stop_lets_running_calls_end_for_a_moment(served: Served) -> None:
    address = await served.listen()
    async with dial(address) as channel:
        asked = asyncio.ensure_future(method(channel, "unary_unary", "Hold")(b"held"))
        await eventually(lambda: served.probe.running == 1)
        closing = asyncio.ensure_future(served.listener.close())
        served.probe.held.set()
        assert await asked == b"held"
        await closing
