"""A TCP proxy whose traffic can be dropped without anybody being told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


class Proxy:
    """Forwards a loopback port to ``target``; runs in a thread, so that a loop that a test blocks
    does not stop it.

    A cut drops bytes for good, as a broken cable does once the senders have given up: the
    connections of before the cut stay silent after it is healed, even those that had nothing
    to carry meanwhile; new ones work.
    """

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._is_cut = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._connections: dict[asyncio.Task[None], _Silence] = {}
        self.port = 0
        self.accepted = 0

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> Proxy:
        self._thread.start()
        self._run(self._start)
        return self

    def _run(self, function: Callable[[], Awaitable[None]]) -> None:
        async def call() -> None:
            await function()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(5)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        self._run(self._cut)

    async def _cut(self) -> None:
        self._is_cut = True
        for connection in self._connections.values():
            connection.silent = True

    def heal(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        async def close() -> None:
            self._server.close()
            for task in self._connections:
                task.cancel()
            if self._connections:
                await asyncio.wait(self._connections)

        self._run(close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._connections[task] = silenced = _Silence(self._is_cut)
        writers = [writer]
        try:
            if silenced.silent:
                await self._pump(reader, writer, silenced)
                return
            upstream_reader, upstream_writer = await asyncio.open_connection(self._host, self._port)
            writers.append(upstream_writer)
            both = [
                asyncio.ensure_future(self._pump(reader, upstream_writer, silenced)),
                asyncio.ensure_future(self._pump(upstream_reader, writer, silenced)),
            ]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in both:
                    pump.cancel()
                await asyncio.wait(both)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in writers:
                each.close()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await each.wait_closed()
            del self._connections[task]

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        silenced: _Silence,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not silenced.silent:
                    writer.write(data)
                    await writer.drain()
            if silenced.silent:
                # The end of one side is not told to the other either. Its own end comes later.
                await asyncio.Event().wait()


@dataclass(slots=True)
class _Silence:
    silent: bool
