"""What the benchmarks call."""

from __future__ import annotations

import goverse


class Echo(goverse.Object):
    """Answers what it was asked."""

    @goverse.method
    async def echo(self, payload: bytes) -> bytes:
        return payload
