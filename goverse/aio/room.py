"""Those who wait until something has become free."""

from __future__ import annotations

import asyncio


class Room:
    """Wakes everybody at once: each looks again whether there is enough for it."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Return once something has become free."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def made(self) -> None:
        """Something has become free."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
