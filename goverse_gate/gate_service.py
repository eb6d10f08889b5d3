"""The gRPC service gate.GateService, for clients that are not ours.

Requests arrive as bytes and are decoded here, so that what cannot be decoded is the client's
fault and told as such. Arguments stay the packed Any that they are; it is the node that opens it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from goverse.aio.limits import Limit
from goverse.call import Call, Codec, Reply, Verb
from goverse.config.settings import LimitSettings
from goverse.errors import (
    ApplicationError,
    DeadlineExceeded,
    Executed,
    GoverseError,
    Internal,
    InvalidArgument,
    ObjectFailed,
    Overloaded,
    Unavailable,
)
from goverse.transport.grpc_status import status_of
from goverse.transport.pb.gate import gate_pb2 as pb
from goverse_gate.attachment import Attachment, Transport, Wake
from goverse_gate.buffer import Batch
from goverse_gate.clients import Clients
from goverse_gate.ingress import Door, Ingress

log = logging.getLogger(__name__)

SERVICE = "gate.GateService"

#: For streams to write what is queued, once no call is left.
_STREAMS_CLOSE_S = 1.0

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class GateServiceSnapshot:
    """``connections`` are those with a call in flight that names no client."""

    calls: int
    held_bytes: int
    connections: int


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a request comes from, and until when it is waited for."""

    peer: str
    deadline: float


_Behaviour = Callable[[Any, _Origin], Awaitable[Message]]


class GateService:
    """Serves the calls of foreign clients, each through a door of the ingress.

    A call that names a client goes through that client's door, every other one through one of
    its connection, which lives as long as calls of it are in flight.
    """

    def __init__(self, ingress: Ingress, clients: Clients, limits: LimitSettings) -> None:
        self._ingress = ingress
        self._clients = clients
        self._limits = limits
        self._doors: dict[str, Door] = {}
        self._calls = 0
        self._begun = 0
        self._held_bytes = 0
        self._streams = 0
        self._closing = False
        self._at_rest = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """To be served at the gate's port, where contexts know the true peer of a call."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Register": grpc.unary_stream_rpc_method_handler(self._register),
                "CallObject": self._unary(pb.CallObjectRequest, self._call),
                "CreateObject": self._unary(pb.CreateObjectRequest, self._create),
                "DeleteObject": self._unary(pb.DeleteObjectRequest, self._delete),
                "ReliableCallObject": self._unary(pb.ReliableCallObjectRequest, self._reliable),
            },
        )

    def snapshot(self) -> GateServiceSnapshot:
        return GateServiceSnapshot(self._calls, self._held_bytes, len(self._doors))

    def limits(self) -> Iterator[Limit]:
        yield Limit("gate_service.calls", self._calls, self._limits.max_inflight_calls)
        most = self._limits.max_inflight_bytes
        yield Limit("gate_service.held_bytes", self._held_bytes, most)

    async def wait_quiet(self, quiet_s: float) -> None:
        """Until nothing has been asked for ``quiet_s``, and nothing is under way."""
        begun = -1
        while self._calls or self._streams or begun != self._begun:
            begun = self._begun
            await asyncio.sleep(quiet_s)

    async def close(self, timeout_s: float) -> None:
        """Take no new calls, let those in flight end within ``timeout_s``, and streams that
        `Clients.close` has ended write what is queued."""
        self._closing = True
        if self._calls:
            self._at_rest.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._at_rest.wait()
            except TimeoutError:
                log.warning("%d calls over gRPC are cut off by the stop", self._calls)
        if self._streams:
            self._at_rest.clear()
            try:
                async with asyncio.timeout(_STREAMS_CLOSE_S):
                    await self._at_rest.wait()
            except TimeoutError:
                pass  # They do not read. Their connections end with the listener.

    # -- the stream

    async def _register(self, _: bytes, context: Any) -> None:
        wake = Wake()
        try:
            attachment = self._clients.connect(Transport.GRPC, wake)
        except Exception as error:
            await _refuse(context, error)
            return
        attachment.client.peer = context.peer()
        self._streams += 1
        try:
            registered = pb.RegisterResponse(client_id=attachment.client_id)
            await context.write(_packed(registered))
            while True:
                if batch := attachment.take(1):
                    await _write(attachment, batch, context)
                elif attachment.ended:
                    break
                else:
                    await wake.wait(None)
        finally:
            attachment.detach()
            self._streams -= 1
            if not self._streams:
                self._at_rest.set()
        await _refuse(context, Unavailable(attachment.ended))

    # -- calls

    def _unary(self, kind: type[Message], behaviour: _Behaviour) -> Any:
        async def serve(raw: bytes, context: Context) -> bytes:
            try:
                answer = await self._answer(kind, behaviour, raw, context)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                await _refuse(context, error)
            return answer.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(serve)

    async def _answer(
        self, kind: type[Message], behaviour: _Behaviour, raw: bytes, context: Context
    ) -> Message:
        if self._closing:
            raise Unavailable("this gate is stopping")
        if self._calls >= self._limits.max_inflight_calls:
            raise Overloaded(f"the gate has {self._calls} calls over gRPC in flight")
        if self._held_bytes + len(raw) > self._limits.max_inflight_bytes:
            raise Overloaded("the gate holds as many bytes of calls over gRPC as it can")
        remaining_s = context.time_remaining()
        now = asyncio.get_running_loop().time()
        deadline = math.inf if remaining_s is None else now + remaining_s
        self._calls += 1
        self._begun += 1
        self._held_bytes += len(raw)
        try:
            return await behaviour(_decoded(kind, raw), _Origin(context.peer(), deadline))
        finally:
            self._calls -= 1
            self._held_bytes -= len(raw)
            if not self._calls:
                self._at_rest.set()

    async def _call(self, request: pb.CallObjectRequest, origin: _Origin) -> Message:
        call = Call(
            type=request.type,
            id=request.id,
            method=request.method,
            payload=request.request.SerializeToString(),
            deadline=origin.deadline,
            codec=Codec.ANY,
            client_id=request.client_id,
        )
        if request.client_id:
            door = self._clients.of_connection(request.client_id, origin.peer)
            reply = await door.invoke(call)
        else:
            reply = await self._invoke(call, origin)
        if reply.codec is not Codec.ANY:
            log.error("%s was answered in codec %r, not in an Any", call, reply.codec)
            raise Internal("the answer is not a google.protobuf.Any", executed=Executed.YES)
        return pb.CallObjectResponse(response=AnyMessage.FromString(reply.payload))

    async def _create(self, request: pb.CreateObjectRequest, origin: _Origin) -> Message:
        await self._invoke(
            Call(request.type, request.id, "", b"", origin.deadline, verb=Verb.CREATE), origin
        )
        return pb.CreateObjectResponse(id=request.id)

    async def _delete(self, request: pb.DeleteObjectRequest, origin: _Origin) -> Message:
        await self._invoke(
            Call(request.type, request.id, "", b"", origin.deadline, verb=Verb.DELETE), origin
        )
        return pb.DeleteObjectResponse()

    async def _reliable(self, request: pb.ReliableCallObjectRequest, origin: _Origin) -> Message:
        if not request.call_id:
            raise InvalidArgument("call_id is empty", details={"field": "call_id"})
        call = Call(
            type=request.type,
            id=request.id,
            method=request.method,
            payload=request.request.SerializeToString(),
            deadline=origin.deadline,
            codec=Codec.ANY,
            call_id=request.call_id,
        )
        try:
            reply = await self._invoke(call, origin)
        except GoverseError as error:
            return _unsuccessful(error)
        answer = AnyMessage.FromString(reply.payload)
        return pb.ReliableCallObjectResponse(response=answer, status="SUCCESS")

    async def _invoke(self, call: Call, origin: _Origin) -> Reply:
        """Through the door of the connection."""
        door = self._doors.get(origin.peer)
        if door is None:
            door = self._ingress.door(client_id="", max_calls=self._limits.max_session_calls)
            self._doors[origin.peer] = door
        try:
            return await door.invoke(call)
        finally:
            if not door.calls and self._doors.get(origin.peer) is door:
                del self._doors[origin.peer]
                door.close()


async def _write(attachment: Attachment, batch: Batch, context: Any) -> None:
    """Write one message. The one that is being written waits there if the client does not read,
    and the others in the client's buffer, which is bounded."""
    written = False
    try:
        for item in batch.items:
            await context.write(item.message.as_any())
        written = True
    finally:
        if written:
            attachment.confirm(batch.items)
        else:
            attachment.put_back(batch)


def _unsuccessful(error: GoverseError) -> Message:
    """What is known of a reliable call that brought no result. Raises ``error`` where it says that
    there is no such call: refused, in conflict, or certainly not recorded."""
    if isinstance(error, ApplicationError | ObjectFailed) and error.executed is Executed.YES:
        status = "FAILED"
    elif error.details.get("status") == "skipped":
        status = "SKIPPED"
    elif isinstance(error, DeadlineExceeded) and error.executed is not Executed.NO:
        status = "PENDING" if error.details.get("status") == "pending" else "UNKNOWN"
    elif error.executed is Executed.UNKNOWN:
        status = "UNKNOWN"
    else:
        raise error
    return pb.ReliableCallObjectResponse(error=error.message, status=status)


async def _refuse(context: Any, error: Exception) -> None:
    """End the RPC with the status that tells of ``error``; raises to do so."""
    code, message, trailers = status_of(error)
    await context.abort(code, message, trailers)


def _decoded(kind: type[Message], raw: bytes) -> Message:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidArgument(f"not a {kind.DESCRIPTOR.full_name}: {error}") from None


def _packed(message: Message) -> bytes:
    packed = AnyMessage()
    packed.Pack(message)
    return packed.SerializeToString()
