"""A TCP proxy that delivers what ends a transaction late, or loses the answer to it."""

from __future__ import annotations

import asyncio

from tests.support.holding_proxy import HoldingProxy, Pair

#: One statement that is a transaction. Others take effect with COMMIT; what comes before it locks
#: and reads.
_RAISES = b"UPDATE /* goverse raising */ goverse_fences"
_HEADER = 4


class MysqlProxy(HoldingProxy):
    """Forwards a free loopback port to ``port``; see `HoldingProxy`.

    A write is two journeys here: to lose the answer to the first would only end the second. So it
    is the second that is held back, or whose answer is lost, and all that follows it.
    """

    async def _to_server(self, reader: asyncio.StreamReader, pair: Pair) -> None:
        try:
            while True:
                header = await reader.readexactly(_HEADER)
                packet = header + await reader.readexactly(int.from_bytes(header[:3], "little"))
                ends = packet.endswith(b"COMMIT") or _RAISES in packet
                if pair.held or (self._mode == "hold" and ends):
                    pair.held += packet
                    pair.tainted = True
                else:
                    pair.tainted |= self._mode == "lose" and ends
                    pair.server.write(packet)
        except (OSError, asyncio.IncompleteReadError):
            pass
        # What is held is delivered although its sender is gone.
        if not pair.held:
            pair.server.close()

    async def _release(self, pair: Pair) -> None:
        # Of several statements each is answered; only when nothing more comes are all carried out.
        pair.server.write(bytes(pair.held))
        pair.held.clear()
        if not pair.gone.is_set():
            pair.server.write_eof()
            await pair.gone.wait()
