"""Pushes on a link: what a node hands to a gate, and a gate to the session of a client.

Both are calls whose reply says what became of each message. One is under way at a time, for each
gate and for each session: what gathers meanwhile is the next one. So the order holds even where a
large payload travels in chunks, and whoever is slow holds up nobody but itself.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from goverse.call import Call, Codec, Reply
from goverse.errors import InvalidArgument

_T = TypeVar("_T")

METHOD = "push"
"""Of a call that carries pushes; its type and id are empty, since it is for no object."""


class Outcome(enum.Enum):
    """What became of one message for one client."""

    DELIVERED = "delivered"
    """A session has confirmed it; a stream's connection has taken it."""
    SENT = "sent"
    """Known to a node: the gate has it, and counts what becomes of it."""
    UNKNOWN_CLIENT = "unknown_client"
    """The gate has no such client: it has left, or never was."""
    BUFFER_FULL = "buffer_full"
    """The client, or the gate, takes less than is pushed."""
    DISCONNECTED = "disconnected"
    """The client left while the message waited for it."""
    TOO_LARGE = "too_large"
    NO_HANDLER = "no_handler"
    """The client's program handles no messages of this type."""
    REFUSED = "refused"
    """The other side takes no pushes: another version, or it is stopping."""
    NO_GATE = "no_gate"
    """The gate of this client id is not in the cluster."""
    NO_LINK = "no_link"
    """The gate could not be reached in time."""
    LEASE_LOST = "lease_lost"
    """The node lost its lease before the message left it."""
    UNKNOWN = "unknown"
    """Sent, and the connection ended before an answer came."""


Tally = dict[str, int]
"""How many messages, counted per client, had which outcome."""


class Push(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One message to some clients of one gate.

    :param type: the message's name.
    :param json: the message.
    :param any: a protobuf message also as a serialized google.protobuf.Any; else empty.
    :param clients: their ids; None means every client.
    """

    type: str
    json: bytes
    any: bytes = b""
    clients: tuple[str, ...] | None = None

    @property
    def size(self) -> int:
        """About how many bytes it takes on a link."""
        ids = sum(map(len, self.clients)) + 2 * len(self.clients) if self.clients else 0
        return 64 + len(self.json) + len(self.any) + ids


class Delivery(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One message to the client at the other end of a session.

    :param codec: JSON, or ANY for protobuf messages.
    """

    type: str
    codec: Codec
    data: bytes


class Deliveries(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What a gate hands to a session at a time.

    :param lost: messages that were dropped for this client since the last time.
    """

    items: tuple[Delivery, ...]
    lost: int = 0


_encoder = msgspec.msgpack.Encoder()
_pushes = msgspec.msgpack.Decoder(tuple[Push, ...])
_deliveries = msgspec.msgpack.Decoder(Deliveries)
_tally = msgspec.msgpack.Decoder(dict[str, int])


def push_call(pushes: Sequence[Push], deadline: float) -> Call:
    """What a node sends to a gate."""
    return Call("", "", METHOD, _encoder.encode(pushes), deadline)


def delivery_call(deliveries: Deliveries, deadline: float) -> Call:
    """What a gate sends to a session."""
    return Call("", "", METHOD, _encoder.encode(deliveries), deadline)


def pushes_of(call: Call) -> tuple[Push, ...]:
    """Raises `InvalidArgument`."""
    return _decoded(_pushes, call)


def deliveries_of(call: Call) -> Deliveries:
    """Raises `InvalidArgument`."""
    return _decoded(_deliveries, call)


def reply_of(tally: Tally) -> Reply:
    return Reply(_encoder.encode(tally))


def tally_of(reply: Reply) -> Tally:
    """Raises `InvalidArgument`."""
    try:
        tally = _tally.decode(reply.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"not an answer to pushes: {error}") from None
    return {outcome: max(0, count) for outcome, count in tally.items()}


def _decoded(decoder: msgspec.msgpack.Decoder[_T], call: Call) -> _T:
    if call.method != METHOD or call.type or call.id:
        raise InvalidArgument(f"{call} is no push")
    try:
        return decoder.decode(call.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"not pushes: {error}") from None
