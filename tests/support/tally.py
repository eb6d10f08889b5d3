"""Counters that note every turn outside of their process, so that none can be hidden by a crash."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections import Counter
from pathlib import Path

import goverse

#: Names the folder, for nodes.
FOLDER = "TALLY_FOLDER"


class Tally(goverse.Object):
    """Declared state that is kept nowhere: it goes with planned moves, and dies with its node."""

    value: int = 0

    @goverse.method(timeout_s=300)
    async def add(self, token: str, work_s: float = 0.0, busy_s: float = 0.0) -> list[int]:
        """The value, and the process that counted.

        :param token: of this call alone. :param work_s: how long the turn waits.
        :param busy_s: how long it keeps a processor busy.
        """
        await turn(token, work_s, busy_s)
        self.value += 1
        return [self.value, os.getpid()]

    @goverse.method(read_only=True)
    async def source(self) -> str:
        """Where the code of this node comes from."""
        return str(Path(goverse.__file__).parents[1])


async def turn(token: str, work_s: float = 0.0, busy_s: float = 0.0) -> None:
    """Note a turn, and let it take its time."""
    if folder := os.environ.get(FOLDER, ""):
        os.write(_notes(folder), f"{token}\n".encode())
    until = time.process_time() + busy_s
    while busy_s and time.process_time() < until:
        pass
    if work_s:
        await asyncio.sleep(work_s)


@functools.cache
def _notes(folder: str) -> int:
    # What was written stays when the process is killed: the system has it.
    path = Path(folder) / f"turns-{os.getpid()}"
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def turns(folder: Path) -> Counter[str]:
    """How often a turn began for each token, in all processes there ever were."""
    found: Counter[str] = Counter()
    for path in folder.glob("turns-*"):
        found.update(path.read_text().split())
    return found
