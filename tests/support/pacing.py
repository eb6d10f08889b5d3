"""Time that is part of what is tested: the pace of a load, the length of a fault.

Not for waiting until something has happened: that is `tests.support.eventually`.
"""

from __future__ import annotations

import asyncio


async def last(seconds: float) -> None:
    """Let time pass."""
    await asyncio.sleep(seconds)


async def ended_within(event: asyncio.Event, seconds: float) -> bool:
    """Let time pass, but not beyond ``event``; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
