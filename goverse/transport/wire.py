"""Frames and their bytes. A message is a msgpack array of frames; a frame is a tagged array.

Knows nothing of carriers, links or tasks. Fields are only ever added at the end of a frame, with
a default: an older reader ignores them, and a newer one fills them in.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import msgspec

from goverse.call import ChainEntry, Codec, Verb

PROTOCOL = 1
"""The newest protocol version this process speaks."""

OLDEST_PROTOCOL = 1
"""The oldest one it still understands."""

MAX_NUMBER = 2**63 - 1
"""Calls of one link are numbered 1, 2, 3...; 0 speaks of the link itself."""


class WireError(ValueError):
    """A peer sent bytes that are not a message of this protocol; says what is wrong with them."""


class Of(enum.IntEnum):
    """What a chunk is part of."""

    CALL = 0
    REPLY = 1


class Stage(enum.IntEnum):
    """The three steps of an orderly end."""

    NO_NEW_CALLS = 0  # the sender asks for no new calls
    UNDERSTOOD = 1  # the sender will make none: every call of its stands before this frame
    END = 2  # nothing is in flight any more: the receiver may end the stream


class CallExtra(msgspec.Struct, omit_defaults=True, gc=False):
    """What few calls have; a map, so that only what is set travels."""

    chain: tuple[ChainEntry, ...] = ()
    principal: str = ""
    client_id: str = ""
    call_id: str = ""
    trace: str = ""


class CallFrame(msgspec.Struct, array_like=True, tag_field="kind", tag=1, gc=False):
    """A call. ``size`` > 0: the payload has that many bytes and follows in chunks."""

    number: int
    remaining_ms: int
    type: str
    id: str
    method: str
    payload: bytes
    codec: Codec
    verb: Verb
    size: int = 0
    extra: CallExtra | None = None


class ReplyFrame(msgspec.Struct, array_like=True, tag_field="kind", tag=2, gc=False):
    """The successful outcome of a call. ``size`` as in `CallFrame`."""

    number: int
    payload: bytes
    codec: Codec
    size: int = 0


class ErrorFrame(msgspec.Struct, array_like=True, tag_field="kind", tag=3, gc=False):
    """The error outcome of a call; with number 0, why the sender refuses the link.

    ``application``: the code is the application's own, see `goverse.errors.ApplicationError`.
    """

    number: int
    code: str
    message: str
    executed: str
    application: bool = False
    details: dict[str, Any] = {}


class CancelFrame(msgspec.Struct, array_like=True, tag_field="kind", tag=4, gc=False):
    """The caller no longer waits for this call."""

    number: int


class ChunkFrame(msgspec.Struct, array_like=True, tag_field="kind", tag=5, gc=False):
    """The next bytes of a payload that was announced with a ``size``."""

    number: int
    of: Of
    data: bytes


class PingFrame(msgspec.Struct, array_like=True, tag_field="kind", tag=6, gc=False):
    """A heartbeat, sent when there was nothing else to send. Needs no answer."""


class GoodbyeFrame(msgspec.Struct, array_like=True, tag_field="kind", tag=7, gc=False):
    stage: Stage


class HelloFrame(msgspec.Struct, array_like=True, tag_field="kind", tag=8, gc=False):
    """The first frame of either side; see `goverse.transport.hello`."""

    protocol: int
    features: tuple[str, ...]
    role: str
    name: str
    incarnation: str
    types_digest: str = ""
    client_id: str = ""


Frame = (
    CallFrame
    | ReplyFrame
    | ErrorFrame
    | CancelFrame
    | ChunkFrame
    | PingFrame
    | GoodbyeFrame
    | HelloFrame
)
NEWEST_KIND = 8

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Frame])
_frame_decoder = msgspec.msgpack.Decoder(Frame)
_raw_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_kind_decoder = msgspec.msgpack.Decoder(list[Any])


def encode(frames: Sequence[Frame]) -> bytes:
    """One message. Raises what msgspec raises if a field holds what it must not."""
    return _encoder.encode(frames)


def decode(message: bytes, *, max_bytes: int, skip_unknown: bool = False) -> list[Frame]:
    """The frames of one message, in order.

    :param max_bytes: longer messages are refused unread.
    :param skip_unknown: both sides agreed that kinds of a newer version are skipped.

    Raises `WireError` for everything else that is not a message of this protocol.
    """
    if len(message) > max_bytes:
        raise WireError(f"a message of {len(message)} bytes, the limit is {max_bytes}")
    # Bytes of a stranger can fail in many ways (truncated, not UTF-8, nested too deeply, keys
    # that cannot be hashed); whatever it is, it is the sender's fault and means the same.
    try:
        return _decoder.decode(message)
    except Exception as error:
        if skip_unknown and isinstance(error, msgspec.ValidationError):
            return _decode_known(message)
        raise WireError(_fault(error)) from None


def _decode_known(message: bytes) -> list[Frame]:
    frames: list[Frame] = []
    try:
        for raw in _raw_decoder.decode(message):
            try:
                frames.append(_frame_decoder.decode(raw))
            except msgspec.ValidationError:
                kind = _kind_decoder.decode(raw)[0]
                if type(kind) is not int or kind <= NEWEST_KIND:
                    raise
    except Exception as error:
        raise WireError(_fault(error)) from None
    return frames


def _fault(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return f"{error}" or type(error).__name__
