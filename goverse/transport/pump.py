"""Moves messages between a carrier and the parts of a link, by callbacks alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from goverse.transport.carrier import Carrier
from goverse.transport.heartbeat import Heartbeat
from goverse.transport.outbox import Outbox
from goverse.transport.wire import Frame, WireError, decode

log = logging.getLogger(__name__)


class Pump:
    """The `Sink` of a link's carrier, and what empties its outbox.

    ::

        idle ──something is queued──> due, at the end of this pass of the loop ──> one message
         ^                             ^  └── blocked ──> held ── writable ──┐         │
         │                             └─────────────────────────────────────┴─── more queued
         └──────────────────────────────────────────────────── nothing queued ─────────┘

    One message per pass: the peer works on it while the next is made, and others have their turn.

    :param may_send: asked immediately before every write.
    :param take: is given the frames of each message; raises `WireError` for what makes no sense.
    :param end: the stream has ended, or must; may be called more than once.
    """

    def __init__(
        self,
        carrier: Carrier,
        outbox: Outbox,
        heartbeat: Heartbeat,
        *,
        may_send: Callable[[], bool],
        take: Callable[[list[Frame]], None],
        end: Callable[[str], None],
    ) -> None:
        self.messages_sent = 0
        self.messages_received = 0
        self._carrier = carrier
        self._outbox = outbox
        self._heartbeat = heartbeat
        self._may_send = may_send
        self._take = take
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._max_bytes = 0
        self._skip_unknown = False
        self._held = False
        self._stopped = False

    def start(self, *, max_bytes: int, skip_unknown: bool) -> None:
        """Begin to read and to write.

        :param max_bytes: of one message. :param skip_unknown: see `wire.decode`.
        """
        self._max_bytes = max_bytes
        self._skip_unknown = skip_unknown
        self._outbox.when_ready(self._soon)
        self._carrier.attach(self)

    def stop(self) -> None:
        """What still arrives is ignored, and nothing is sent any more."""
        self._stopped = True

    def _soon(self) -> None:
        self._loop.call_soon(self._write)

    def _write(self) -> None:
        if self._stopped:
            return
        if self._carrier.blocked:
            self._held = True
            return
        try:
            # Nothing may come between this look and the write.
            if not self._may_send():
                self._end("the lease under which this link was opened has ended")
                return
            message = self._outbox.take(self._now())
            if message is not None:
                self._carrier.write(message)
                self.messages_sent += 1
                self._heartbeat.sent()
        except Exception as error:
            log.exception("writing to %s failed", self._carrier.peer)
            self._end(f"writing failed: {error!r}")
            return
        self._outbox.when_ready(self._soon)

    # -- for the carrier ----------------------------------------------------------------------

    def on_writable(self) -> None:
        if self._held:
            self._held = False
            self._soon()

    def on_message(self, message: bytes) -> None:
        if self._stopped:
            return
        self.messages_received += 1
        try:
            self._heartbeat.heard()
            self._take(decode(message, max_bytes=self._max_bytes, skip_unknown=self._skip_unknown))
        except WireError as error:
            log.warning("bad message from %s: %s", self._carrier.peer, error)
            self._end(f"the peer sent a bad message: {error}")
        except Exception as error:
            log.exception("reading from %s failed", self._carrier.peer)
            self._end(f"reading failed: {error!r}")

    def on_end(self, reason: str) -> None:
        self._end(reason)
