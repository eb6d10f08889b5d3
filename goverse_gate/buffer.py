"""What waits for one client, and what it may ask for again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from goverse.aio.limits import Limit
from goverse.config.settings import LimitSettings

KEPT_MESSAGES = 256
"""Messages that a client who comes back may ask for again, of those that were sent."""


class Message:
    """One pushed message, shared by all clients that it is for.

    :param json: the message as JSON. :param any: as a serialized Any if it is a protobuf message.
    """

    __slots__ = ("_any", "_made_any", "holders", "json", "size", "type")

    def __init__(self, type: str, json: bytes, any: bytes = b"") -> None:
        self.type = type
        self.json = json
        self.size = len(json) + len(any)
        self.holders = 0
        """Buffers that it is in."""
        self._any = any
        self._made_any = b""

    @property
    def is_protobuf(self) -> bool:
        return bool(self._any)

    def as_any(self) -> bytes:
        """A serialized google.protobuf.Any: of the message itself, or for what is no protobuf
        message, of a google.protobuf.Struct with its fields. What a Struct cannot hold is in a
        google.protobuf.StringValue, as JSON."""
        if self._any:
            return self._any
        if not self._made_any:  # once for all clients
            self._made_any = _packed_json(self.json)
        return self._made_any


def _packed_json(json: bytes) -> bytes:
    from google.protobuf import any_pb2, json_format, struct_pb2, wrappers_pb2

    packed = any_pb2.Any()
    try:
        packed.Pack(json_format.Parse(json, struct_pb2.Struct()), deterministic=True)
    except (json_format.ParseError, ValueError, RecursionError):  # an array, or too deep
        packed.Pack(wrappers_pb2.StringValue(value=json.decode("utf-8", "replace")))
    return packed.SerializeToString()


class Pool:
    """The bytes of all buffers of a gate; a message in many of them counts once."""

    __slots__ = ("bytes", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        self.max_bytes = max_bytes

    def fits(self, message: Message) -> bool:
        return bool(message.holders) or self.bytes + message.size <= self.max_bytes

    def hold(self, message: Message) -> None:
        if not message.holders:
            self.bytes += message.size
        message.holders += 1

    def release(self, message: Message) -> None:
        message.holders -= 1
        if not message.holders:
            self.bytes -= message.size


@dataclass(slots=True, eq=False)
class Item:
    """A message in the buffer of one client.

    :param number: 1, 2, 3... for each client. :param counted: its outcome is settled already.
    """

    number: int
    message: Message
    counted: bool = False


@dataclass(frozen=True)
class Batch:
    """What a connection sends next. ``lost`` messages were dropped since the last batch."""

    items: Sequence[Item] = ()
    lost: int = 0

    def __bool__(self) -> bool:
        return bool(self.items or self.lost)


@dataclass(slots=True)
class Buffer:
    """First in, first out, within limits; what does not fit is dropped, and the client is told
    how many were.

    ::

        put() ──> waiting ──take()──> taken ──done()──> kept, if it may be asked for again
                     ^                  │                │ the oldest go first
                     └──── put_back() ──┘── rewind() ────┘
    """

    limits: LimitSettings
    pool: Pool
    keeps: bool
    waiting: deque[Item] = field(default_factory=deque)
    kept: deque[Item] = field(default_factory=deque)
    bytes: int = 0
    lost: int = 0
    last_number: int = 0

    def fullness(self) -> Iterator[Limit]:
        most = self.limits
        yield Limit("client.messages", len(self.waiting), most.max_push_messages)
        yield Limit("client.message_bytes", self.bytes, most.max_push_queue_bytes, standing=True)

    def put(self, message: Message) -> bool:
        """Queue a message; False if there is no room."""
        if not self._fits(message):
            self._forget_kept()  # what was sent already gives way to what was not
            if not self._fits(message):
                self.lost += 1
                return False
        self.last_number += 1
        self.pool.hold(message)
        self.bytes += message.size
        self.waiting.append(Item(self.last_number, message))
        return True

    def take(self, max_bytes: int) -> Batch:
        """The next messages, which are the taker's to settle: `done` or `put_back`."""
        items: list[Item] = []
        size = 0
        while self.waiting and (not items or size + self.waiting[0].message.size <= max_bytes):
            item = self.waiting.popleft()
            size += item.message.size
            items.append(item)
        lost, self.lost = self.lost, 0
        return Batch(items, lost)

    def done(self, items: Sequence[Item]) -> None:
        """They were sent."""
        for item in items:
            if self.keeps:
                self.kept.append(item)
            else:
                self._release(item)
        while len(self.kept) > KEPT_MESSAGES:
            self._release(self.kept.popleft())

    def put_back(self, batch: Batch) -> None:
        """They were not."""
        self.waiting.extendleft(reversed(batch.items))
        self.lost += batch.lost

    def rewind(self, number: int) -> None:
        """The client has seen the messages up to ``number``: those after it are sent again."""
        while self.kept and self.kept[-1].number > number:
            self.waiting.appendleft(self.kept.pop())
        self._forget_kept()

    def clear(self) -> list[Item]:
        """Forget everything; what was waiting."""
        waiting = list(self.waiting)
        self.waiting.clear()
        for item in waiting:
            self._release(item)
        self._forget_kept()
        return waiting

    def drop(self, items: Sequence[Item]) -> None:
        """Forget items that were taken."""
        for item in items:
            self._release(item)

    def _fits(self, message: Message) -> bool:
        return (
            len(self.waiting) < self.limits.max_push_messages
            and self.bytes + message.size <= self.limits.max_push_queue_bytes
            and self.pool.fits(message)
        )

    def _forget_kept(self) -> None:
        while self.kept:
            self._release(self.kept.popleft())

    def _release(self, item: Item) -> None:
        self.pool.release(item.message)
        self.bytes -= item.message.size
