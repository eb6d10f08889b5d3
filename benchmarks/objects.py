"""What the benchmarks call."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import goverse


class Echo(goverse.Object):
    """Answers what it was asked."""

    @goverse.method
    async def echo(self, payload: bytes) -> bytes:
        return payload

    @goverse.method
    async def say(self, text: str) -> str:
        return text


class Small(goverse.Object):
    """A resident object with a little state."""

    value: int = 0

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value


class Placed(goverse.Object):
    """Says where it is."""

    @goverse.method
    async def where(self) -> int:
        """The id of its process."""
        return os.getpid()


class Memory(goverse.Object):
    """Looks at the process that it lives in."""

    @goverse.method
    async def resident_bytes(self) -> int:
        """Resident memory after a full collection of garbage."""
        gc.collect()
        return resident_bytes()


def resident_bytes(pid: str | int = "self") -> int:
    """Memory of a process that is in RAM, as the kernel counts it. Linux."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status says nothing of VmRSS")
