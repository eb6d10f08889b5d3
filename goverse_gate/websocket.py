"""The events of `goverse_gate.events` over a WebSocket at ``/v1/events``, one JSON text each.

::

    {"event": "register", "client_id": ..., "token": ..., "resumed": false}
    {"event": "message", "id": "<token>.<number>", "type": "ChatMessage", "message": {...}}
    {"event": "lost", "count": 3}
    {"event": "heartbeat"}

It carries events only. Calls go over HTTP, with the token in ``Goverse-Client-Token``.
"""

from __future__ import annotations

from goverse.aio.tasks import Tasks
from goverse_gate.asgi import Receive, Send
from goverse_gate.attachment import Attachment, Transport, Wake
from goverse_gate.buffer import Batch, Item
from goverse_gate.clients import Clients
from goverse_gate.events import MAX_WRITE_BYTES, attach, encoder, event_id
from goverse_gate.http_front import Request

_GOING_AWAY = 1001
_UNSUPPORTED = 1003
_SAID_SOMETHING = "this WebSocket carries events only: calls go over HTTP"


class WebSocketEvents:
    """A `WebSocketFront`."""

    def __init__(self, clients: Clients, heartbeat_s: float) -> None:
        self._clients = clients
        self._heartbeat_s = heartbeat_s

    async def serve_websocket(self, request: Request) -> None:
        receive, send = request.receive, request.send
        wake = Wake()
        attachment, _ = attach(self._clients, request, Transport.WEBSOCKET, wake)
        tasks = Tasks("websocket")
        try:
            await send({"type": "websocket.accept"})
            tasks.spawn(f"read {attachment.client_id}", _read(receive, attachment))
            await _write(send, _registered(attachment))
            await self._serve(attachment, wake, send)
            if attachment.ended != _GONE:
                code = _UNSUPPORTED if attachment.ended == _SAID_SOMETHING else _GOING_AWAY
                await send(
                    {"type": "websocket.close", "code": code, "reason": attachment.ended[:120]}
                )
        finally:
            attachment.detach()
            await tasks.close()

    async def _serve(self, attachment: Attachment, wake: Wake, send: Send) -> None:
        while True:
            if batch := attachment.take(MAX_WRITE_BYTES):
                await _send(attachment, batch, send)
            elif attachment.ended:
                return
            elif not await wake.wait(self._heartbeat_s):
                await _write(send, b'{"event":"heartbeat"}')


_GONE = "the client has gone"


async def _read(receive: Receive, attachment: Attachment) -> None:
    """Until the client leaves, or says something, which nobody would hear."""
    while True:
        message = await receive()
        if message["type"] == "websocket.receive":
            attachment.end(_SAID_SOMETHING)
            return
        if message["type"] == "websocket.disconnect":
            attachment.end(_GONE)
            return


async def _send(attachment: Attachment, batch: Batch, send: Send) -> None:
    sent = 0
    try:
        if batch.lost:
            await _write(send, b'{"event":"lost","count":%d}' % batch.lost)
        for item in batch.items:
            await _write(send, _message(attachment, item))
            sent += 1
    finally:
        attachment.confirm(batch.items[:sent])
        if sent < len(batch.items):
            attachment.put_back(Batch(batch.items[sent:]))


def _registered(attachment: Attachment) -> bytes:
    client = attachment.client
    return encoder.encode(
        {
            "event": "register",
            "client_id": client.id,
            "token": client.token,
            "resumed": attachment.resumed,
        }
    )


def _message(attachment: Attachment, item: Item) -> bytes:
    return b'{"event":"message","id":"%s","type":%s,"message":%s}' % (
        event_id(attachment.client.token, item.number).encode(),
        encoder.encode(item.message.type),
        item.message.json,
    )


async def _write(send: Send, text: bytes) -> None:
    await send({"type": "websocket.send", "text": text.decode("utf-8", "replace")})
