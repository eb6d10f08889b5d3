"""A TCP connection without a socket."""

from __future__ import annotations

import asyncio
from typing import Any


class Played(asyncio.Transport):
    """A transport without a socket. It delivers what a test feeds, unless it is paused."""

    def __init__(self, name: tuple[str, int] | None = None) -> None:
        super().__init__()
        self.protocol: Any = None
        self.paused = False
        self.arriving: list[bytes] = []
        self.written = b""
        self.unsent = 0
        self.ended_writing = False
        self.closed = ""
        self.name = name
        self.takes_its_time = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.name if name == "sockname" else default

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return bool(self.closed)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended_writing = True

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += data

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def close(self) -> None:
        if not self.takes_its_time:
            self._lose("close")
        elif not self.closed:
            self.closed = "close"

    def abort(self) -> None:
        if self.takes_its_time:
            self.closed = ""
        self._lose("abort")

    def _lose(self, how: str) -> None:
        if not self.closed:
            self.closed = how
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def deliver(self) -> None:
        while self.arriving and not self.paused and not self.closed:
            self.protocol.data_received(self.arriving.pop(0))
