"""The process's own gRPC server, behind the front: it serves on a loopback port of its own, and
only what the front passes through to it.

Here, and nowhere else, is decided who the peer of a gRPC call is. A service asks its context, as
with any gRPC server, and is told the true one.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from goverse.config.settings import LimitSettings
from goverse.transport.call_frames import MAX_HEAD_BYTES
from goverse.transport.passage import Peers

log = logging.getLogger(__name__)

_MAX_SPARE_CALLS = 1_024

_STRANGER = "gRPC clients of this process connect to the address that it listens on"


def _options(limits: LimitSettings) -> list[tuple[str, Any]]:
    max_bytes = limits.max_payload_bytes + MAX_HEAD_BYTES
    return [
        ("grpc.max_send_message_length", max_bytes),
        ("grpc.max_receive_message_length", max_bytes),
        # A client that is gone without a word is found, as nobody's heartbeats speak for it.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.so_reuseport", 0),
    ]


class InnerServer:
    """A running server, made by `open_inner_server`."""

    def __init__(self, server: grpc.aio.Server, port: int, peers: Peers) -> None:
        self.port = port
        self.peers = peers
        self._server = server

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, and let those that run end within ``grace_s``."""
        await self._server.stop(grace_s)


async def open_inner_server(
    services: Sequence[grpc.GenericRpcHandler[Any, Any]], limits: LimitSettings
) -> InnerServer:
    """Serve ``services``, whose methods must be coroutines or asynchronous generators."""
    peers: Peers = {}
    # Services have limits of their own, and better words; this one is for all of them together.
    most = limits.max_inflight_calls + limits.max_sessions + _MAX_SPARE_CALLS
    server = grpc.aio.server(options=_options(limits), maximum_concurrent_rpcs=most)
    server.add_generic_rpc_handlers(tuple(_TruePeers(service, peers) for service in services))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return InnerServer(server, port, peers)


class _TruePeers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # of its stubs alone
    """A service whose contexts know the true peer, and which serves nobody whose peer is not
    known: a connection that did not come through the front is never taken for loopback."""

    def __init__(self, service: grpc.GenericRpcHandler[Any, Any], peers: Mapping[str, str]) -> None:
        self._service = service
        self._peers = peers

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler: Any = self._service.service(handler_call_details)
        if handler is None:
            return None
        make, behaviour = _kind(handler)
        made: grpc.RpcMethodHandler[Any, Any] = make(
            self._with_true_peer(behaviour),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return made

    def _with_true_peer(self, behaviour: Any) -> Any:
        async def call(request: Any, context: Any) -> Any:
            return await behaviour(request, await self._admitted(context))

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async for response in behaviour(request, await self._admitted(context)):
                yield response

        if inspect.isasyncgenfunction(behaviour):
            return stream
        if inspect.iscoroutinefunction(behaviour):
            return call
        # In a thread of its own, a method could not be given a context of grpc.aio.
        raise TypeError(f"{behaviour!r} is no coroutine function")

    async def _admitted(self, context: Any) -> Any:
        peer = self._peers.get(plain_address(context.peer()))
        if peer is None:
            log.warning("%s called the inner gRPC port", context.peer())
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, _STRANGER)
        return _Context(context, peer)


class _Context:
    """gRPC's context, except for the peer."""

    def __init__(self, context: Any, peer: str | None) -> None:
        self._context = context
        self._peer = peer

    def peer(self) -> str:
        """The other side of the client's own connection, as host:port. Two connections that stand
        at the same time never have the same."""
        if self._peer is None:
            raise PermissionError(_STRANGER)
        return self._peer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _kind(handler: Any) -> tuple[Callable[..., Any], Any]:
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler, handler.stream_stream
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler, handler.stream_unary
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    return grpc.unary_unary_rpc_method_handler, handler.unary_unary


def plain_address(peer: str) -> str:
    """gRPC's name of a peer (``ipv4:1.2.3.4:5``, ``ipv6:%5B::1%5D:5``) as host:port."""
    for scheme in ("ipv4:", "ipv6:"):
        if peer.startswith(scheme):
            return unquote(peer[len(scheme) :])
    return peer
