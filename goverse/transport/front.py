"""What stands at the port: it reads the first bytes of a connection and hands it on.

::

    silent ──our preface────────> answered with ours; a link
       ├─────HTTP/2's preface───> a gRPC client
       └─────anything else, or nothing within WAIT_S──> closed
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from goverse.transport.framing import HTTP2_PREFACE, PREFACE, VERSION

log = logging.getLogger(__name__)

WAIT_S = 3.0
"""How long a connection may take to say what it is."""

_MAGIC = PREFACE[:-1]

Enter = Callable[[asyncio.Transport, str, bytes], None]
"""(connection, its true peer, bytes that have arrived already)"""


@dataclass(frozen=True)
class Doors:
    """Where connections go. ``silent(front, True)`` is told of each that begins, and
    ``silent(front, False)`` once it is known what it is, or has ended. ``grpc`` is None where no
    services are: such clients are closed."""

    silent: Callable[[Front, bool], None]
    link: Enter
    grpc: Enter | None


class Front(asyncio.Protocol):
    """One connection, until it is known what it is. Holds fewer bytes than a preface has."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._seen = b""
        self._peer = ""
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = peer_of(transport)
        self._timer = asyncio.get_running_loop().call_later(
            WAIT_S, self.close, f"it said nothing for {WAIT_S:g} s"
        )
        self._doors.silent(self, True)
        if not self._peer:
            self.close("it has gone already")

    def data_received(self, data: bytes) -> None:
        if self._done:
            return
        self._seen += data
        seen = self._seen
        if seen.startswith(_MAGIC):
            if len(seen) >= len(PREFACE):
                self._link(seen[len(_MAGIC)], seen[len(PREFACE) :])
        elif seen.startswith(HTTP2_PREFACE):
            if self._doors.grpc is None:
                self.close("a gRPC client, and no service is here")
            else:
                self._leave()
                self._doors.grpc(self._transport, self._peer, seen)
        elif not (_MAGIC.startswith(seen) or HTTP2_PREFACE.startswith(seen)):
            self.close("it speaks neither Goverse nor HTTP/2")

    def _link(self, version: int, rest: bytes) -> None:
        self._transport.write(PREFACE)  # a dialler of another version learns ours
        if version != VERSION:
            self.close(f"it frames links in version {version}")
            return
        self._leave()
        self._doors.link(self._transport, self._peer, rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def close(self, reason: str) -> None:
        if not self._done:
            log.debug("%s is closed: %s", self._peer or "a connection", reason)
            self._leave()
            self._transport.close()

    def _leave(self) -> None:
        if not self._done:
            self._done = True
            if self._timer is not None:
                self._timer.cancel()
            self._doors.silent(self, False)


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The other side as host:port, as the kernel knows it; empty if it has gone."""
    name = transport.get_extra_info("peername")
    return "" if name is None else spelled(name)


def spelled(name: tuple[str, int]) -> str:
    """A socket's address as host:port."""
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
