"""What waits to be sent on one link, and how it becomes messages.

Batching is adaptive: what gathers in one pass of the loop, or while the carrier is blocked, becomes
one message. An idle link sends a single frame at once.

A queued item makes its frame in the moment in which its message is made: remaining times are
exact then, and a call that nobody waits for any more is never sent at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from goverse.transport.chunks import Stream
from goverse.transport.wire import ChunkFrame, Frame, Of, encode

MAX_BATCH_FRAMES = 64
"""A message with everything that many callers have to say would keep the peer idle while it is
made, and this side while it is served. In messages of this size both sides work at the same time,
and a message costs little beside its frames."""

_UNFIT = (UnicodeEncodeError, TypeError, OverflowError, msgspec.EncodeError)
"""What the encoder raises for a field that holds what it must not."""


class Item(Protocol):
    """Something to send.

    :param size: about how many bytes it takes in a message.
    """

    size: int

    def frame(self, now: float) -> Frame | None:
        """The frame, or None if it need not be sent any more. Called once, immediately before the
        message is passed to the carrier: from now on the peer may have it."""
        ...

    def unfit(self, error: Exception) -> Frame | None:
        """The frame could not be encoded and was not sent; another may go in its place."""
        ...


class Control:
    """A frame that is ready to send."""

    __slots__ = ("_frame", "size")

    def __init__(self, frame: Frame, size: int = 16) -> None:
        self._frame = frame
        self.size = size

    def frame(self, now: float) -> Frame | None:
        return self._frame

    def unfit(self, error: Exception) -> Frame | None:
        raise error  # our own frames hold nothing from outside


class Outbox:
    """First in, first out, except that payloads in chunks go out one chunk per message, so that
    small frames overtake them.

    Whoever adds items bounds them: calls by their limit, replies by the limit of calls being
    served, control frames by `controls`.

    :param on_streams_end: called when the last chunk that there was has been taken or dropped.
    """

    def __init__(
        self,
        *,
        max_batch_bytes: int,
        max_chunk_bytes: int,
        on_streams_end: Callable[[], None] | None = None,
    ) -> None:
        self._max_batch_bytes = max_batch_bytes
        self._max_chunk_bytes = max_chunk_bytes
        self.items: list[Item] = []
        self._bytes = 0
        self.controls = 0
        self.streams: deque[Stream] = deque()
        self._on_streams_end = on_streams_end
        self._wake: Callable[[], None] | None = None
        self._closed = False

    def put(self, item: Item) -> None:
        """Queue an item; after `close`, forget it."""
        if self._closed:
            return
        self.items.append(item)
        self._bytes += item.size
        wake = self._wake
        if wake is not None:
            self._wake = None
            wake()

    def put_control(self, frame: Frame) -> None:
        """Queue a frame that answers to nobody: `controls` counts them until they are taken."""
        self.controls += not self._closed
        self.put(Control(frame))

    def stream(self, stream: Stream) -> None:
        """Send a payload in chunks, after its head frame. Called while that frame is made."""
        self.streams.append(stream)

    def drop_stream(self, number: int, of: Of) -> None:
        """Nobody wants the rest of this payload."""
        for stream in self.streams:
            if stream.number == number and stream.of is of:
                self.streams.remove(stream)
                self._check_streams()
                return

    def close(self) -> None:
        """Forget everything, and take nothing more."""
        self._closed = True
        self.items = []
        self._bytes = 0
        self.controls = 0
        self.streams.clear()
        self._wake = None

    def when_ready(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` once, as soon as there is something to send; now, if there is."""
        if self.items or self.streams:
            wake()
        elif not self._closed:
            self._wake = wake

    def take(self, now: float) -> bytes | None:
        """Make the next message, or None if nothing of it need be sent any more."""
        items = self._take_items()
        made = [item.frame(now) for item in items]
        frames = [frame for frame in made if frame is not None]
        if self.streams:
            frames.append(self._next_chunk())
        if not frames:
            return None
        try:
            return encode(frames)
        except _UNFIT:
            return self._encode_singly(items, made, frames[-1])

    def _next_chunk(self) -> Frame:
        stream = self.streams.popleft()
        chunk = stream.next_chunk(self._max_chunk_bytes)
        if not stream.finished:
            self.streams.append(stream)
        self._check_streams()
        return chunk

    def _check_streams(self) -> None:
        if not self.streams and self._on_streams_end is not None:
            self._on_streams_end()

    def _encode_singly(
        self, items: list[Item], made: list[Frame | None], last: Frame
    ) -> bytes | None:
        """One frame cannot be encoded; its neighbours must not suffer for it."""
        fit: list[Frame] = []
        for item, frame in zip(items, made, strict=True):
            if frame is None:
                continue
            try:
                encode([frame])
            except _UNFIT as error:
                frame = item.unfit(error)
            if frame is not None:
                fit.append(frame)
        if isinstance(last, ChunkFrame):
            fit.append(last)
        return encode(fit) if fit else None

    def _take_items(self) -> list[Item]:
        items = self.items
        if len(items) <= MAX_BATCH_FRAMES and self._bytes <= self._max_batch_bytes:
            self.items = []
            self._bytes = 0
            self.controls = 0
            return items
        size = count = 0
        for item in items[:MAX_BATCH_FRAMES]:
            if count and size + item.size > self._max_batch_bytes:
                break
            size += item.size
            count += 1
            if type(item) is Control:
                self.controls -= 1
        self.items = items[count:]
        self._bytes -= size
        return items[:count]
