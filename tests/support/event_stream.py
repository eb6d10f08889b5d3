"""A reader of server-sent events that reads when it is told to, on a connection of its own."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass
class Event:
    name: str
    data: Any
    id: str = ""


class EventStream:
    """One open stream. `next` skips heartbeats unless it is asked for one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.client_id = ""
        self.token = ""
        self.last_id = ""

    @classmethod
    async def open(
        cls, address: str, path: str = "/v1/events", *, limit: int = 2**24, **headers: str
    ) -> EventStream:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=limit)
        stream = cls(reader, writer)
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([f"GET {path} HTTP/1.1", "Host: gate", *lines, "", ""]).encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode()
        stream.status = int(head.split()[1])
        stream.headers = dict(
            line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line
        )
        return stream

    async def register(self) -> dict[str, Any]:
        event = await self.next()
        assert event.name == "register", event
        data: dict[str, Any] = event.data
        self.client_id = data.get("client_id") or data["clientId"]
        self.token = data.get("token", "")
        return data

    async def chunk(self) -> bytes:
        """The next piece of the body; empty at its end."""
        size = int(await asyncio.wait_for(self.reader.readline(), 10), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def next(self, wanted: str = "") -> Event:
        """The next event, or the next one with a name. Raises EOFError at the end."""
        while True:
            event = await self._read()
            if event.id:
                self.last_id = event.id
            if event.name == wanted or (not wanted and event.name != "heartbeat"):
                return event

    async def _read(self) -> Event:
        while not getattr(self, "_pending", b""):
            self._pending = await self.chunk()
            if not self._pending:
                raise EOFError
        text, _, self._pending = self._pending.partition(b"\n\n")
        fields = dict(line.split(": ", 1) for line in text.decode().split("\n"))
        return Event(fields["event"], json.loads(fields["data"]), fields.get("id", ""))

    async def numbers(self, count: int) -> list[int]:
        """The numbers in the next notes."""
        return [(await self.next("message")).data["message"]["number"] for _ in range(count)]

    def abort(self) -> None:
        self.writer.transport.abort()
