"""Waiting for an event, but not for ever."""

from __future__ import annotations

import asyncio


async def set_before(event: asyncio.Event, deadline: float) -> bool:
    """Whether ``event`` was set by ``deadline`` (the running loop's time)."""
    try:
        async with asyncio.timeout_at(deadline):
            return await event.wait()
    except TimeoutError:
        return False
