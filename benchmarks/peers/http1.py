"""HTTP/1.1 over kept connections with as little work of its own as possible.

A library's client takes as much processor time as the server that it loads.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = b""
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error or OSError("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(_END_OF_HEAD)
        if not found:
            return
        _, _, length = head.lower().partition(_LENGTH)
        if len(body) < int(length.partition(b"\r\n")[0] or 0):
            return
        self._received = b""
        assert self._waiting is not None
        self._waiting.set_result((int(head[9:12]), body))

    async def request(self, data: bytes) -> tuple[int, bytes]:
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._waiting

    def close(self) -> None:
        self._transport.close()


class Http1:
    """POSTs of JSON to one server, over as many connections as there are requests at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._idle: list[_Connection] = []

    async def post(self, path: str, body: Any, headers: str = "") -> Any:
        """The decoded answer; None for an empty one. Raises OSError, RuntimeError.

        :param body: None: nothing is sent.
        :param headers: further lines, each with its end.
        """
        payload = b""
        if body is not None:
            payload = json.dumps(body).encode()
            headers += "content-type: application/json\r\n"
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-length: {len(payload)}\r\n{headers}\r\n"
        )
        connection = await self._connected()
        status, answer = await connection.request(head.encode() + payload)
        self._idle.append(connection)
        if status >= 300:
            raise RuntimeError(f"{path} was answered {status}: {answer.decode()[:500]}")
        return json.loads(answer) if answer else None

    async def _connected(self) -> _Connection:
        if self._idle:
            return self._idle.pop()
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        return connection

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
