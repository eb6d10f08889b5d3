"""The one word of HTTP/2 that is said here: GOAWAY, between two frames of somebody else's.

gRPC's own server says it only as it stops, and then cuts off calls that reach it in the same
moment. Said before that, with no stream excluded, it has clients make their next calls on another
connection, while everything that has begun, or is on its way, is served as ever (RFC 9113, 6.8).
"""

from __future__ import annotations

_HEAD_BYTES = 9
_LAST_STREAM = 2**31 - 1
_NO_ERROR = 0

#: length, type, flags, stream 0; last stream, error code.
GOAWAY = (
    (8).to_bytes(3, "big")
    + b"\x07\x00"
    + (0).to_bytes(4, "big")
    + _LAST_STREAM.to_bytes(4, "big")
    + _NO_ERROR.to_bytes(4, "big")
)


class Frames:
    """Follows what a server sends, to know where its frames end."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0  # of the frame whose head has passed
        self._began = False

    @property
    def between(self) -> bool:
        """Whether a frame may be put in here: never before the server's first, its SETTINGS."""
        return self._began and not self._left and not self._head

    def passed(self, data: bytes) -> int:
        """``data`` is the next that it sent: where in it the first frame ends, -1 if none does."""
        place, first = 0, -1
        while place < len(data):
            if self._left:
                step = min(self._left, len(data) - place)
                self._left -= step
                place += step
            else:
                part = data[place : place + _HEAD_BYTES - len(self._head)]
                self._head += part
                place += len(part)
                if len(self._head) < _HEAD_BYTES:
                    break
                self._left = int.from_bytes(self._head[:3], "big")
                self._head = b""
                self._began = True
            if not self._left and first < 0:
                first = place
        return first
