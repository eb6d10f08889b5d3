"""Objects that bear witness: every answer says which activation gave it, and as its how-manieth."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

import goverse


class Witness(goverse.Object):
    """Counts; tells its activation, process and turn."""

    count: int = 0
    seen: list[str] = []

    async def on_activate(self) -> None:
        self._token = secrets.token_hex(8)

    @goverse.method
    async def touch(self, work_s: float = 0.0) -> dict[str, str | int]:
        """One turn of ``work_s`` seconds."""
        if work_s:
            await asyncio.sleep(work_s)
        self.count += 1
        return {"activation": self._token, "count": self.count, "pid": os.getpid()}

    @goverse.method
    async def record(self, word: str) -> None:
        self.seen.append(word)

    @goverse.method(read_only=True)
    async def recorded(self) -> list[str]:
        return self.seen

    @goverse.method(timeout_s=300)
    async def tell_when(self, path: str, other: str, word: str) -> str:
        """Once the file ``path`` exists, tell ``word`` to the witness ``other``."""
        self.count += 1
        while not Path(path).exists():
            await asyncio.sleep(0.02)
        await goverse.get(Witness, other).record(word)
        return self._token
