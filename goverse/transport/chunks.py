"""Large payloads in pieces: a head frame states the size, chunks with its number follow.

The pieces of one payload arrive in order, with other frames between them. A payload exists only
once its last byte is there: what was begun on a link ends with the link.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from goverse.transport.wire import ChunkFrame, Of, WireError

Head = TypeVar("Head")


class Stream:
    """A payload on its way out."""

    __slots__ = ("_offset", "_payload", "finished", "number", "of")

    def __init__(self, number: int, of: Of, payload: bytes) -> None:
        self.number = number
        self.of = of
        self.finished = False
        self._payload = payload
        self._offset = 0

    def next_chunk(self, max_bytes: int) -> ChunkFrame:
        data = self._payload[self._offset : self._offset + max_bytes]
        self._offset += len(data)
        self.finished = self._offset >= len(self._payload)
        return ChunkFrame(self.number, self.of, data)


class Assemblies(Generic[Head]):
    """Payloads on their way in, by number. Whoever begins one has checked its size against the
    limits, each alone and all together; memory grows with what has arrived."""

    def __init__(self) -> None:
        self.parts: dict[int, tuple[Head, int, bytearray]] = {}
        self.bytes = 0
        """Announced, not arrived: what all of them will take."""

    def begin(self, number: int, head: Head, size: int) -> None:
        """Raises `WireError` if a payload of that number is arriving already."""
        if number in self.parts:
            raise WireError(f"payload {number} began twice")
        self.parts[number] = (head, size, bytearray())
        self.bytes += size

    def add(self, frame: ChunkFrame) -> tuple[Head, bytes] | None:
        """Head and payload if this chunk was the last. A chunk of an unknown payload is ignored:
        the call was cancelled, refused or answered while it was on its way."""
        part = self.parts.get(frame.number)
        if part is None:
            return None
        head, size, data = part
        data += frame.data
        if not frame.data or len(data) > size:
            raise WireError(f"payload {frame.number}: {len(data)} bytes of {size} announced")
        if len(data) < size:
            return None
        self.drop(frame.number)
        return head, bytes(data)

    def drop(self, number: int) -> None:
        part = self.parts.pop(number, None)
        if part is not None:
            self.bytes -= part[1]

    def clear(self) -> None:
        self.parts.clear()
        self.bytes = 0
