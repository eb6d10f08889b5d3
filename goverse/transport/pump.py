"""The two tasks of a link: one reads messages, one writes them, for as long as the stream lives.

Neither is cancelled before the stream has ended: in gRPC a cancelled read or write ends the
stream for everybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from goverse.transport.carrier import Carrier, CarrierClosed
from goverse.transport.heartbeat import Heartbeat
from goverse.transport.outbox import Outbox
from goverse.transport.wire import Frame, WireError, decode

log = logging.getLogger(__name__)


class Pump:
    """Moves messages between a carrier and the parts of a link.

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
        self._stopped = False

    def stop(self) -> None:
        """What still arrives is ignored, and nothing is sent any more."""
        self._stopped = True

    async def write(self) -> None:
        outbox, send, now = self._outbox, self._carrier.send, asyncio.get_running_loop().time
        try:
            while await outbox.wait():
                # Nothing may be awaited between this look and the start of the send.
                if not self._may_send():
                    self._end("the lease under which this link was opened has ended")
                    return
                message = outbox.take(now())
                if message is not None:
                    await send(message)
                    self.messages_sent += 1
                    self._heartbeat.sent()
        except CarrierClosed as error:
            self._end(str(error))

    async def read(self, *, max_bytes: int, skip_unknown: bool) -> None:
        """:param max_bytes: of one message. :param skip_unknown: see `wire.decode`."""
        receive, peer = self._carrier.receive, self._carrier.peer
        try:
            while True:
                message = await receive()
                if self._stopped:
                    return
                self.messages_received += 1
                self._heartbeat.heard()
                self._take(decode(message, max_bytes=max_bytes, skip_unknown=skip_unknown))
        except CarrierClosed as error:
            self._end(str(error))
        except WireError as error:
            log.warning("bad message from %s: %s", peer, error)
            self._end(f"the peer sent a bad message: {error}")
