"""Carriers over gRPC: one bidirectional stream of raw bytes, ``goverse.v1.Link/Open``.

What is known of grpc.aio, and relied on here: a cancelled or timed-out read or write cancels the
whole stream, concurrent writes abort it, and a write is taken long before the peer has read it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from goverse.aio.tasks import Tasks
from goverse.config.settings import LimitSettings
from goverse.transport.carrier import Accept, Carrier, CarrierClosed, Listener
from goverse.transport.link_config import max_message_bytes

log = logging.getLogger(__name__)

SERVICE = "goverse.v1.Link"
METHOD = f"/{SERVICE}/Open"

_STOP_GRACE_S = 1.0


#: Beside its arguments or its result, what a unary request or answer may say.
_UNARY_HEAD_BYTES = 64 * 1024


def channel_options(limits: LimitSettings, *, unary: bool = False) -> list[tuple[str, Any]]:
    """Options of both sides.

    :param unary: for calls that are one message each, however large.
    """
    max_bytes = max_message_bytes(limits)
    if unary:
        max_bytes = max(max_bytes, limits.max_payload_bytes + _UNARY_HEAD_BYTES)
    return [
        ("grpc.max_send_message_length", max_bytes),
        ("grpc.max_receive_message_length", max_bytes),
        # A link has a connection of its own; what one peer does not read holds up nobody else.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Heartbeat frames find dead peers first; these find dead connections that carry none.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.so_reuseport", 0),
    ]


def plain_address(peer: str) -> str:
    """gRPC's name of a peer (``ipv4:1.2.3.4:5``, ``ipv6:%5B::1%5D:5``) as host:port."""
    for scheme in ("ipv4:", "ipv6:"):
        if peer.startswith(scheme):
            return unquote(peer[len(scheme) :])
    return peer


def peer_of(context: Any) -> str:
    """The other end of the connection that a request came on, as host:port; no two connections
    that stand at one time have the same.

    :param context: of a servicer.
    """
    return plain_address(context.peer())


class _Stream:
    """What both ends share: grpc's many ways to say that a stream is over, as one.

    ``rpc`` is a call on the client's side and a servicer context on the server's; both read and
    write raw bytes.
    """

    def __init__(self, rpc: Any, peer: str) -> None:
        self._rpc = rpc
        self._read = rpc.read
        self._write = rpc.write
        self._peer = peer
        self._ended = ""
        self._sender: asyncio.Task[Any] | None = None
        self._receiver: asyncio.Task[Any] | None = None
        self._interrupted: dict[asyncio.Task[Any], None] = {}

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def reason(self) -> str:
        return self._ended

    async def send(self, message: bytes) -> None:
        if self._ended:
            raise CarrierClosed(self._ended)
        self._sender = asyncio.current_task()
        try:
            await self._write(message)
        except BaseException as error:
            raise self._closed(error) from None
        finally:
            self._sender = None

    async def receive(self) -> bytes:
        if self._ended:
            raise CarrierClosed(self._ended)
        self._receiver = asyncio.current_task()
        try:
            message = await self._read()
        except BaseException as error:
            raise self._closed(error) from None
        finally:
            self._receiver = None
        if self._ended or not isinstance(message, bytes):  # grpc.aio.EOF
            raise CarrierClosed(self._ended or "the other side ended the stream")
        return message

    def _interrupt(self) -> None:
        """After `_ended` is set. Operations of a stream that is over do not all return by
        themselves; that a cancelled one ends the stream does no harm now."""
        current = asyncio.current_task()
        for task in (self._sender, self._receiver):
            if task is not None and task is not current and task.cancel():
                self._interrupted[task] = None

    def _closed(self, error: BaseException) -> BaseException:
        """What to raise for ``error``."""
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None:
                if task in self._interrupted:
                    del self._interrupted[task]
                    task.uncancel()
                if task.cancelling():
                    return error  # meant for the task, not for the stream
        elif not isinstance(error, Exception):
            return error
        if self._ended:
            return CarrierClosed(self._ended)
        if isinstance(error, grpc.aio.AioRpcError):
            return CarrierClosed(f"{error.code().name}: {error.details()}")
        return CarrierClosed(f"{error}" or type(error).__name__)


def _opener(channel: grpc.aio.Channel) -> Any:
    stream_stream: Any = channel.stream_stream  # its stubs know no raw bytes
    return stream_stream(METHOD)


class ClientStream(_Stream):
    def __init__(self, network: GrpcNetwork, channel: grpc.aio.Channel, address: str) -> None:
        call: Any = _opener(channel)()
        super().__init__(call, address)
        self._network = network
        self.channel = channel

    async def wait_connected(self, timeout_s: float) -> None:
        timer = asyncio.get_running_loop().call_later(
            timeout_s, self.abort, f"no connection within {timeout_s:g} s"
        )
        self._sender = asyncio.current_task()
        try:
            await self._rpc.wait_for_connection()
        except BaseException as error:
            closed = self._closed(error)
            self.abort(str(closed))
            raise closed from None
        finally:
            self._sender = None
            timer.cancel()

    def abort(self, reason: str) -> None:
        if not self._ended:
            self._ended = reason or "aborted"
            self._rpc.cancel()
            self._interrupt()
            self._network.discard(self)


class ServerStream(_Stream):
    def __init__(self, context: Any) -> None:
        super().__init__(context, peer_of(context))
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def abort(self, reason: str) -> None:
        if not self._ended:
            self._ended = reason or "aborted"
            self._interrupt()
            if not self.over.done():
                self.over.set_result(None)


class GrpcListener:
    """See `goverse.transport.carrier.Listener`."""

    def __init__(
        self,
        server: grpc.aio.Server,
        accept: Accept,
        handlers: Sequence[grpc.GenericRpcHandler[Any, Any]],
    ) -> None:
        self.address = ""
        self._server = server
        self._accept = accept
        self._tasks = Tasks("grpc-listener")
        self._streams: dict[ServerStream, None] = {}
        self._closed = False
        link = grpc.stream_stream_rpc_method_handler(self._open)
        service = grpc.method_handlers_generic_handler(SERVICE, {"Open": link})
        server.add_generic_rpc_handlers((service, *handlers))

    async def bind(self, address: str) -> None:
        """Raises OSError if the address cannot be had."""
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from None
        self.address = f"{address.rpartition(':')[0]}:{port}"
        await self._server.start()

    async def _open(self, _: Any, context: Any) -> None:
        stream = ServerStream(context)
        if self._closed:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        self._streams[stream] = None
        task = self._tasks.spawn("accept", self._serve(stream))
        try:
            await stream.over
            await context.abort(grpc.StatusCode.ABORTED, stream.reason)
        except asyncio.CancelledError:
            stream.abort("the client has gone")
            raise
        finally:
            del self._streams[stream]
            # Ends by itself, as every operation on the stream fails now.
            del task

    async def _serve(self, stream: ServerStream) -> None:
        try:
            await self._accept(stream)
        finally:
            stream.abort("the server is done")

    async def close(self) -> None:
        self._closed = True
        for stream in tuple(self._streams):
            stream.abort("the server has stopped")
        await self._server.stop(_STOP_GRACE_S)
        await self._tasks.close()


class GrpcNetwork:
    """See `goverse.transport.carrier.Network`."""

    def __init__(self, *, limits: LimitSettings | None = None) -> None:
        self._limits = limits or LimitSettings()
        self._options = channel_options(self._limits)
        self._listeners: list[GrpcListener] = []
        self._clients: dict[ClientStream, None] = {}
        self._tasks = Tasks("grpc-network")

    async def connect(self, address: str, *, timeout_s: float) -> Carrier:
        # A new channel for every attempt: gRPC's own reconnecting never comes into play, and
        # whoever dials decides when to try again.
        channel = grpc.aio.insecure_channel(address, options=self._options)
        stream = ClientStream(self, channel, address)
        self._clients[stream] = None
        await stream.wait_connected(timeout_s)
        return stream

    async def listen(
        self, address: str, accept: Accept, *, services: Sequence[Any] = ()
    ) -> Listener:
        options = channel_options(self._limits, unary=True) if services else self._options
        server = grpc.aio.server(options=options)
        listener = GrpcListener(server, accept, services)
        await listener.bind(address)
        self._listeners.append(listener)
        return listener

    def discard(self, stream: ClientStream) -> None:
        """A client's stream has ended: close its channel."""
        if self._clients.pop(stream, stream) is None:
            self._tasks.spawn("close channel", stream.channel.close(None))

    async def close(self) -> None:
        for stream in tuple(self._clients):
            stream.abort("the network is closed")
        for listener in self._listeners:
            await listener.close()
        await self._tasks.close()
