"""A TCP proxy in the running loop that delivers late, or loses answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

READY_FOR_QUERY = b"Z\x00\x00\x00\x05"


@dataclass
class Pair:
    """One client's connection and its twin at the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    held: bytearray = field(default_factory=bytearray)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # the server hung up
    tainted: bool = False  # lost or held something: it is never whole again


class HoldingProxy:
    """Forwards a free loopback port to ``port``.

    While it holds, bytes of clients stay here; `release` delivers them, whether or not their
    client is still there, as a network does with what a crashed host has sent.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._mode = ""
        self._pairs: list[Pair] = []
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0

    async def start(self) -> HoldingProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        pair = Pair(writer, server_writer)
        self._pairs.append(pair)
        self._tasks += [
            asyncio.create_task(self._to_server(reader, pair)),
            asyncio.create_task(self._to_client(server_reader, pair)),
        ]

    async def _to_server(self, reader: asyncio.StreamReader, pair: Pair) -> None:
        while data := await _read(reader):
            if self._mode == "hold" or pair.held:
                pair.held += data
                pair.tainted = True
            else:
                pair.tainted |= self._mode == "lose"
                pair.server.write(data)
        # What is held is delivered although its sender is gone.
        if not pair.held:
            pair.server.close()

    async def _to_client(self, reader: asyncio.StreamReader, pair: Pair) -> None:
        while data := await _read(reader):
            if READY_FOR_QUERY in data:
                pair.answered.set()
            if not pair.tainted:
                pair.client.write(data)
        pair.answered.set()
        pair.gone.set()
        pair.client.close()

    def lose_answers(self) -> None:
        self._mode = "lose"

    def hold(self) -> None:
        self._mode = "hold"

    @property
    def holds(self) -> bool:
        return any(pair.held for pair in self._pairs)

    async def release(self) -> None:
        """Deliver what is held, and wait until the server has answered or hung up."""
        for pair in self._pairs:
            if pair.held:
                async with asyncio.timeout(10):
                    await self._release(pair)

    async def _release(self, pair: Pair) -> None:
        pair.answered.clear()
        pair.server.write(bytes(pair.held))
        pair.held.clear()
        await pair.answered.wait()

    def deliver(self) -> None:
        """Let what is held, and all that follows, through: late, and whole."""
        self._mode = ""
        for pair in self._pairs:
            if pair.held:
                pair.server.write(bytes(pair.held))
                pair.held.clear()
                pair.tainted = False

    def heal(self) -> None:
        """What was tampered with breaks; new connections are whole."""
        self._mode = ""
        for pair in self._pairs:
            if pair.tainted:
                pair.client.close()

    def abort(self) -> None:
        """Break every connection on both sides."""
        for pair in self._pairs:
            pair.client.transport.abort()
            pair.server.transport.abort()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(1 << 20)
    except OSError:
        return b""
