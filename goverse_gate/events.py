"""Server-sent events: what is pushed to a client whose connection is ``GET /v1/events``.

https://html.spec.whatwg.org/multipage/server-sent-events.html. The id of an event is the
client's token and the message's number, so that a browser which connects again by itself says,
in Last-Event-ID, who it is and what it has seen.
"""

from __future__ import annotations

import random
import re
from base64 import b64encode
from typing import Protocol
from urllib.parse import parse_qsl

import msgspec

from goverse.errors import GoverseError, InvalidArgument
from goverse_gate.asgi import Send
from goverse_gate.attachment import Attachment, Transport, Wake
from goverse_gate.buffer import Batch, Item
from goverse_gate.clients import Clients
from goverse_gate.http_calls import Headers, not_allowed, problem
from goverse_gate.http_compat import compatible_problem
from goverse_gate.http_front import Request

MAX_WRITE_BYTES = 64 * 1024
"""What is written at a time: a client that does not read holds no more than this and the buffer
of its socket."""

_EVENT_ID = re.compile(r"([0-9a-f]{32})\.(\d{1,15})\Z")
encoder = msgspec.json.Encoder()


def event_id(token: str, number: int) -> str:
    return f"{token}.{number}"


def last_event_id(request: Request) -> tuple[str, int]:
    """Token and number that a client which comes back has sent; ("", 0) if it sent none.

    In the header, or where a browser can set none, as ``?last_event_id=``. Raises
    InvalidArgument for anything else in the query.
    """
    text = request.head.last_event_id
    query = request.scope["query_string"]
    if query:
        fields = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
        text = fields.pop("last_event_id", "") or text
        if fields:
            name = next(iter(fields))[:64]
            raise InvalidArgument(
                f"{name!r} is no parameter of an event stream; last_event_id is",
                details={"field": name},
            )
    match = _EVENT_ID.match(text)
    # What is no id of ours is another server's: the client begins anew.
    return (match[1], int(match[2])) if match else ("", 0)


def attach(
    clients: Clients, request: Request, transport: Transport, wake: Wake
) -> tuple[Attachment, int]:
    """A new client, or one that came back, with the number of the last message it has seen."""
    token, number = last_event_id(request)
    if token:
        attachment = clients.resume(token, number, transport, wake)
        if attachment is not None:
            return attachment, number
    return clients.connect(transport, wake, resumable=True), 0


class EventFormat(Protocol):
    """How the events of one path look."""

    resumable: bool

    def register(self, attachment: Attachment, number: int, retry_ms: int) -> bytes: ...

    def message(self, attachment: Attachment, item: Item) -> bytes: ...

    def lost(self, count: int) -> bytes:
        """Empty if this format has no word for it."""
        ...

    def reconnect(self, reason: str) -> bytes:
        """The last words of a gate that stops. Empty if this format has none."""
        ...

    def refusal(self, error: GoverseError) -> tuple[int, Headers, bytes]: ...


class OwnEvents:
    """The events of ``/v1/events``: ``register``, ``message``, ``lost``, ``heartbeat`` and
    ``reconnect``."""

    resumable = True

    def register(self, attachment: Attachment, number: int, retry_ms: int) -> bytes:
        client = attachment.client
        data = {
            "client_id": client.id,
            "token": client.token,
            "resumed": attachment.resumed,
        }
        return b"retry: %d\nid: %s\nevent: register\ndata: %s\n\n" % (
            retry_ms,
            event_id(client.token, number).encode(),
            encoder.encode(data),
        )

    def message(self, attachment: Attachment, item: Item) -> bytes:
        message = item.message
        return b'id: %s\nevent: message\ndata: {"type":%s,"message":%s}\n\n' % (
            event_id(attachment.client.token, item.number).encode(),
            encoder.encode(message.type),
            message.json,
        )

    def lost(self, count: int) -> bytes:
        return b'event: lost\ndata: {"count":%d}\n\n' % count

    def reconnect(self, reason: str) -> bytes:
        return b"event: reconnect\ndata: %s\n\n" % encoder.encode({"reason": reason})

    def refusal(self, error: GoverseError) -> tuple[int, Headers, bytes]:
        return problem(error)


class CompatibleEvents:
    """The events of ``/api/v1/events/stream``, for clients written against existing gates."""

    resumable = False

    def register(self, attachment: Attachment, number: int, retry_ms: int) -> bytes:
        return b"event: register\ndata: %s\n\n" % encoder.encode({"clientId": attachment.client_id})

    def message(self, attachment: Attachment, item: Item) -> bytes:
        packed = item.message.as_any()
        data = {"type": type_url(packed), "payload": b64encode(packed).decode()}
        return b"event: message\ndata: %s\n\n" % encoder.encode(data)

    def lost(self, count: int) -> bytes:
        return b""

    def reconnect(self, reason: str) -> bytes:
        return b""

    def refusal(self, error: GoverseError) -> tuple[int, Headers, bytes]:
        return compatible_problem(error)


def type_url(packed: bytes) -> str:
    """Of a serialized google.protobuf.Any."""
    from google.protobuf import any_pb2

    url: str = any_pb2.Any.FromString(packed).type_url
    return url


class EventStream:
    """A `Front` that serves one event stream per request."""

    def __init__(
        self, clients: Clients, heartbeat_s: float, source: random.Random, format: EventFormat
    ) -> None:
        self._clients = clients
        self._heartbeat_s = heartbeat_s
        self._random = source
        self._format = format

    def refusal(self, error: GoverseError) -> tuple[int, Headers, bytes]:
        return self._format.refusal(error)

    async def serve(self, request: Request) -> None:
        if request.method != "GET":
            raise not_allowed(request.method, b"GET")
        send = request.send
        # Clients of a gate that stops come back at different times.
        retry_ms = self._random.randint(500, 1_500)
        if self._clients.closing:
            # A browser that is told no gives up for good; one whose stream ends comes again.
            await _begin(request)
            await _write(send, b"retry: %d\n\n" % retry_ms)
            await self._end(send)
            return
        wake = Wake()
        number = 0
        if self._format.resumable:
            attachment, number = attach(self._clients, request, Transport.EVENTS, wake)
        else:
            last_event_id(request)
            attachment = self._clients.connect(Transport.EVENTS, wake)
        try:
            await _begin(request)
            await _write(send, self._format.register(attachment, number, retry_ms))
            await self._serve(attachment, wake, send)
            await self._end(send)
        finally:
            attachment.detach()

    async def _end(self, send: Send) -> None:
        if self._clients.closing:
            await _write(send, self._format.reconnect(self._clients.closing))
        await send({"type": "http.response.body", "body": b""})

    async def _serve(self, attachment: Attachment, wake: Wake, send: Send) -> None:
        while True:
            if batch := attachment.take(MAX_WRITE_BYTES):
                await self._send(attachment, batch, send)
            elif attachment.ended:
                return
            elif not await wake.wait(self._heartbeat_s):
                await _write(send, b"event: heartbeat\ndata: {}\n\n")

    async def _send(self, attachment: Attachment, batch: Batch, send: Send) -> None:
        sent = False
        try:
            parts = [self._format.lost(batch.lost)] if batch.lost else []
            parts += [self._format.message(attachment, item) for item in batch.items]
            await _write(send, b"".join(parts))
            sent = True
        finally:
            if sent:
                attachment.confirm(batch.items)
            else:
                attachment.put_back(batch)


async def _begin(request: Request) -> None:
    await request.send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"text/event-stream"),
                (b"cache-control", b"no-store"),
                # Proxies that buffer would hold events back.
                (b"x-accel-buffering", b"no"),
                *request.cors,
            ],
        }
    )


async def _write(send: Send, data: bytes) -> None:
    if data:
        await send({"type": "http.response.body", "body": data, "more_body": True})
