"""One WebSocket connection: uvicorn's, with an end to a client that does not read."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from goverse_gate.stall import StallTimer

MAX_MESSAGE_BYTES = 4 * 1024
"""Clients have nothing to say here."""


class WebSocketConnection(WebSocketsSansIOProtocol):
    """::

    opening --accepted--> open --closed by either side, no pong, nothing read--> gone
    """

    def __init__(self, *args: Any, write_timeout_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stall = StallTimer(self.loop, write_timeout_s, self._unsent_bytes, self.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stall.stop()
        super().connection_lost(exc)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.abort()  # closing waits for a client that does not read

    def abort(self) -> None:
        self.transport.abort()

    def _unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size()
