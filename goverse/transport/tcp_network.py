"""Links over TCP, and the one port of a process: links and gRPC clients, told apart.

What arrives at a listener is a link, or a gRPC client that is passed through to this process's
own gRPC server, or nothing of ours; see `goverse.transport.front`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from goverse.aio.tasks import Tasks
from goverse.config.addresses import parse_address
from goverse.config.faults import BadValue
from goverse.config.settings import LimitSettings
from goverse.transport.carrier import Accept, Carrier, CarrierClosed, Listener
from goverse.transport.dialling import Dialling
from goverse.transport.front import Doors, Front
from goverse.transport.grpc_server import InnerServer, open_inner_server
from goverse.transport.link_config import max_message_bytes
from goverse.transport.passage import Passage
from goverse.transport.tcp_carrier import LINGER_S, TcpCarrier

log = logging.getLogger(__name__)

MAX_SILENT = 1_024
"""Connections of which it is not known yet what they are. One more, and the oldest goes: whoever
means it says so in its first packet."""

MAX_SPARE_PASSAGES = 1_024
"""gRPC connections beyond one for each client session: for tools, and for clients that are told
in their own words that there are too many of them."""

_BACKLOG = 1_024
_GRPC_GRACE_S = 1.0
_GONE_S = LINGER_S + 1.0


@dataclass(frozen=True)
class ListenerSnapshot:
    """Connections by what they are; ``silent`` ones have not said it yet."""

    silent: int
    links: int
    passages: int


class TcpListener:
    """See `goverse.transport.carrier.Listener`. Made by `TcpNetwork.listen`."""

    def __init__(self, accept: Accept, limits: LimitSettings, inner: InnerServer | None) -> None:
        self.address = ""
        self._accept = accept
        self._max_message_bytes = max_message_bytes(limits)
        self._max_passages = limits.max_sessions + MAX_SPARE_PASSAGES
        self._inner = inner
        self._doors = Doors(self._silent, self._link, self._grpc if inner is not None else None)
        self._tasks = Tasks("tcp-listener")
        self._servers: list[asyncio.Server] = []
        self._silents: dict[Front, None] = {}
        self._carriers: dict[TcpCarrier, None] = {}
        self._passages: dict[Passage, None] = {}
        self._retired = False
        self._left = asyncio.Event()
        self._closed = False

    def snapshot(self) -> ListenerSnapshot:
        return ListenerSnapshot(len(self._silents), len(self._carriers), len(self._passages))

    async def bind(self, address: str) -> None:
        """Raises OSError if the address cannot be had."""
        loop = asyncio.get_running_loop()
        sockets: list[socket.socket] = []
        try:
            await _bind_all(address, sockets)
            self.address = f"{address.rpartition(':')[0]}:{sockets[0].getsockname()[1]}"
            for each in sockets:
                server = await loop.create_server(self._arrived, sock=each, backlog=_BACKLOG)
                self._servers.append(server)
        except (OSError, BadValue) as error:
            for each in sockets:
                each.close()
            why = _plain(error) if isinstance(error, OSError) else error
            raise OSError(f"cannot listen on {address}: {why}") from None

    def _arrived(self) -> Front:
        return Front(self._doors)

    def _silent(self, front: Front, yes: bool) -> None:
        if not yes:
            self._silents.pop(front, None)
            return
        self._silents[front] = None
        if self._closed:
            front.close("the server has stopped")
        elif len(self._silents) > MAX_SILENT:
            next(iter(self._silents)).close(f"{MAX_SILENT} others that said nothing came later")

    def _link(self, transport: asyncio.Transport, peer: str, rest: bytes) -> None:
        carrier = TcpCarrier(
            transport, peer, max_bytes=self._max_message_bytes, on_gone=self._carrier_gone
        )
        self._carriers[carrier] = None
        if rest:
            carrier.data_received(rest)
        self._tasks.spawn("accept", self._serve(carrier))

    def _carrier_gone(self, carrier: TcpCarrier) -> None:
        self._carriers.pop(carrier, None)

    async def _serve(self, carrier: TcpCarrier) -> None:
        try:
            await self._accept(carrier)
        finally:
            carrier.abort("the server is done")

    def _grpc(self, transport: asyncio.Transport, peer: str, first: bytes) -> None:
        assert self._inner is not None
        if self._retired:
            transport.abort()  # before a word is said: a client with another address turns to that
            return
        if len(self._passages) >= self._max_passages:
            log.warning("%s is closed: %d gRPC connections are open", peer, len(self._passages))
            transport.abort()
            return
        passage = Passage(transport, first, peer, self._inner.peers, self._passage_gone)
        self._passages[passage] = None
        self._tasks.spawn("pass through", passage.open(self._inner.port))

    def _passage_gone(self, passage: Passage) -> None:
        self._passages.pop(passage, None)
        self._left.set()

    async def retire(self, grace_s: float) -> None:
        self._retired = True
        for passage in self._passages:
            passage.goodbye()
        try:
            async with asyncio.timeout(grace_s):
                while self._passages:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            log.info("%d gRPC connections are cut off by the stop", len(self._passages))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for server in self._servers:
            server.close()
        for front in tuple(self._silents):
            front.close("the server has stopped")
        carriers = tuple(self._carriers)
        for carrier in carriers:
            carrier.abort("the server has stopped")
        if self._inner is not None:
            await self._inner.stop(_GRPC_GRACE_S)
        for passage in tuple(self._passages):
            passage.abort()
        await _wait_gone(carriers)
        await self._tasks.close()


class TcpNetwork:
    """See `goverse.transport.carrier.Network`."""

    def __init__(self, *, limits: LimitSettings | None = None) -> None:
        self._limits = limits or LimitSettings()
        self._listeners: list[TcpListener] = []
        self._carriers: dict[TcpCarrier, None] = {}
        self._closed = False

    async def connect(self, address: str, *, timeout_s: float) -> Carrier:
        if self._closed:
            raise CarrierClosed("the network is closed")
        host, port = _parsed(address)
        dialling = Dialling(self._made(address))
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                await loop.create_connection(lambda: dialling, host, port)
                carrier = await dialling.answered
            if self._closed:
                raise CarrierClosed("the network is closed")
            return carrier
        except BaseException as error:
            dialling.give_up()
            if isinstance(error, TimeoutError):
                reason = f"no connection within {timeout_s:g} s"
            elif isinstance(error, OSError):
                reason = _plain(error)
            elif isinstance(error, CarrierClosed):
                reason = str(error)
            else:
                raise
            raise CarrierClosed(f"{address}: {reason}") from None

    def _made(self, address: str) -> Callable[[asyncio.Transport], TcpCarrier]:
        def make(transport: asyncio.Transport) -> TcpCarrier:
            carrier = TcpCarrier(
                transport,
                address,
                max_bytes=max_message_bytes(self._limits),
                on_gone=lambda carrier: self._carriers.pop(carrier, None),
            )
            self._carriers[carrier] = None
            return carrier

        return make

    async def listen(
        self, address: str, accept: Accept, *, services: Sequence[Any] = ()
    ) -> Listener:
        inner = await open_inner_server(services, self._limits) if services else None
        listener = TcpListener(accept, self._limits, inner)
        try:
            await listener.bind(address)
        except BaseException:
            await listener.close()
            raise
        self._listeners.append(listener)
        return listener

    async def close(self) -> None:
        self._closed = True
        carriers = tuple(self._carriers)
        for carrier in carriers:
            carrier.abort("the network is closed")
        for listener in self._listeners:
            await listener.close()
        await _wait_gone(carriers)


async def _wait_gone(carriers: Sequence[TcpCarrier]) -> None:
    """Until the sockets are closed: a loop that ends before would leave them behind."""
    if carriers:
        await asyncio.wait([carrier.gone for carrier in carriers], timeout=_GONE_S)


async def _bind_all(address: str, sockets: list[socket.socket]) -> None:
    """Add a socket for each address that the host stands for, all with one port."""
    host, port = parse_address(address)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, place in dict.fromkeys((info[0], info[4]) for info in found):
        port = sockets[0].getsockname()[1] if sockets else port
        sockets.append(_bind(family, (place[0], port, *place[2:])))


def _bind(family: int, place: Any) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # The port of a process that ended a moment ago is free.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "[::]" means every address, those of IPv4 too.
            only = 0 if place[0] == "::" else 1
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        listening.bind(place)
    except OSError:
        listening.close()
        raise
    return listening


def _parsed(address: str) -> tuple[str, int]:
    try:
        return parse_address(address)
    except BadValue as error:
        raise CarrierClosed(f"{address}: {error.message}") from None


def _plain(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
