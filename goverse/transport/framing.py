"""How messages lie in a stream of bytes. Pure: no sockets, no loop.

::

    connection:  preface of the dialler, answered by that of the listener, then records each way
    preface:     "GOVERSE" and one byte, the version of this framing
    record:      4 bytes, big-endian: the length, below 2**31; then the message
    last record: the highest bit is set; then the reason in UTF-8. Nothing follows
"""

from __future__ import annotations

VERSION = 1
_MAGIC = b"GOVERSE"
PREFACE = _MAGIC + bytes([VERSION])
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n"
"""What every HTTP/2 client says first, and so every gRPC client; there is more of it."""

MAX_REASON_BYTES = 1_024

_HEADER = 4
_LAST = 1 << 31


class FramingError(ValueError):
    """The other side sent bytes that are no records; says what is wrong with them."""


def record(message: bytes) -> bytes:
    """One message, ready to be written."""
    return len(message).to_bytes(_HEADER, "big") + message


def last_record(reason: str) -> bytes:
    """The end of the stream. A long reason is cut."""
    text = reason.encode(errors="replace")[:MAX_REASON_BYTES]
    return (len(text) | _LAST).to_bytes(_HEADER, "big") + text


class Splitter:
    """Finds the messages in bytes that arrive in pieces of any size.

    Memory: what was fed and not taken. Whoever feeds takes what there is before feeding again,
    so that is at most one incomplete record and one piece.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        """Why the other side ended the stream; None as long as it has not."""
        self._data: bytes | bytearray = b""
        self._at = 0

    @property
    def waiting_bytes(self) -> int:
        return len(self._data) - self._at

    def clear(self) -> None:
        self._data = b""
        self._at = 0

    def feed(self, data: bytes) -> None:
        if self._at == len(self._data):
            self._data = data
            self._at = 0
            return
        if type(self._data) is bytes:
            self._data = bytearray(memoryview(self._data)[self._at :])
            self._at = 0
        elif self._at:
            del self._data[: self._at]  # type: ignore[union-attr]
            self._at = 0
        self._data += data

    def next(self, max_bytes: int) -> bytes | None:
        """The next whole message, or None. After the last record there is none any more.

        Raises `FramingError` for a longer one as soon as its length is known.
        """
        data, start = self._data, self._at + _HEADER
        if start > len(data) or self.reason is not None:
            return None
        length = int.from_bytes(data[self._at : start], "big")
        if length & _LAST:
            self._find_reason(start, length ^ _LAST)
            return None
        if length > max_bytes:
            raise FramingError(f"a message of {length} bytes, the limit is {max_bytes}")
        end = start + length
        if end > len(data):
            return None
        self._at = end
        if type(data) is bytes:
            return data[start:end]
        return bytes(memoryview(data)[start:end])

    def _find_reason(self, start: int, length: int) -> None:
        if length > MAX_REASON_BYTES:
            raise FramingError(f"a reason of {length} bytes, the limit is {MAX_REASON_BYTES}")
        text = bytes(self._data[start : start + length])
        if len(text) == length:
            self.clear()
            self.reason = text.decode(errors="replace")
