"""Virtual time in tests of the simulation, where waiting for a time costs none."""

from __future__ import annotations

import asyncio

from goverse.testing.loop import SimLoop


async def elapse(seconds: float) -> None:
    """Let ``seconds`` of virtual time pass. Refuses to wait for real."""
    if not isinstance(asyncio.get_running_loop(), SimLoop):
        raise RuntimeError("tests wait for conditions; only virtual time may be waited for")
    await asyncio.sleep(seconds)
