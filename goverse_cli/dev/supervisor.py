"""Keeps one child process running.

::

    STARTING ──► RUNNING ──► BACKOFF ──► STARTING     it died by itself
                    │
                    ├──────► BROKEN ───► STARTING     its code cannot be loaded: until `restart`
                    └──────► STOPPED                  `stop`
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
from asyncio.subprocess import Process
from collections.abc import Callable
from dataclasses import dataclass

from goverse.aio.backoff import Backoff
from goverse.aio.tasks import Tasks
from goverse_cli.dev.processes import Command, Console, copy_lines, describe_exit, end, spawn

#: A child that lived this long is started again at once should it die.
_STABLE_S = 10.0


class State(enum.Enum):
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    BROKEN = "broken"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ChildSnapshot:
    name: str
    state: State
    pid: int | None
    starts: int


class Child:
    """One supervised process. `run` is its life; the other methods may be called meanwhile.

    :param piped: whether its output goes through the console, with its name in front.
    """

    def __init__(
        self,
        command: Command,
        console: Console,
        source: random.Random,
        *,
        piped: bool = True,
        on_start: Callable[[], None] | None = None,
    ) -> None:
        self.command = command
        self._console = console
        self._piped = piped
        self._on_start = on_start
        self._backoff = Backoff(source, min_s=0.2, max_s=5.0)
        self._process: Process | None = None
        self._state = State.STARTING
        self._starts = 0
        self._again = asyncio.Event()
        self._stopping = False
        self._tasks = Tasks(f"dev {command.name}")
        console.introduce(command.name)

    def snapshot(self) -> ChildSnapshot:
        pid = self._process.pid if self._process is not None else None
        return ChildSnapshot(self.command.name, self._state, pid, self._starts)

    async def run(self) -> None:
        """Start it, and start it again whenever it ends, until `stop`."""
        loop = asyncio.get_running_loop()
        while not self._stopping:
            self._again.clear()
            started = loop.time()
            code = await self._run_once()
            if self._stopping:
                break
            if self._again.is_set():
                self._backoff.reset()
            elif code in self.command.final_codes:
                self._state = State.BROKEN
                self._tell("waits for the next change")
                await self._again.wait()
            else:
                if loop.time() - started > _STABLE_S:
                    self._backoff.reset()
                delay_s = self._backoff.next_s()
                self._state = State.BACKOFF
                self._tell(f"{describe_exit(code)}; starts again in {delay_s:.1f} s")
                await self._pause(delay_s)
        self._state = State.STOPPED
        await self._tasks.close()

    async def _run_once(self) -> int:
        self._state = State.STARTING
        process = await spawn(self.command, piped=self._piped)
        self._process = process
        self._starts += 1
        self._state = State.RUNNING
        if self._on_start is not None:
            self._on_start()
        copying = self._tasks.spawn("output", copy_lines(process, self.command.name, self._console))
        try:
            if self._stopping:  # `stop` came while there was no process yet to end.
                await self._end()
            code = await process.wait()
            # A grandchild may hold the pipe open for ever; what was written is read by then.
            await asyncio.wait((copying,), timeout=1.0)
            return code
        finally:
            copying.cancel()
            self._process = None

    async def _pause(self, delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._again.wait()

    async def restart(self) -> None:
        """End the process in an orderly way; `run` starts it again at once."""
        self._again.set()
        await self._end()

    async def stop(self, *, timeout_s: float | None = None) -> None:
        """End the process, for good; killed after ``timeout_s`` (default: the command's)."""
        self._stopping = True
        self._again.set()
        await self._end(timeout_s)

    async def _end(self, timeout_s: float | None = None) -> None:
        process = self._process
        limit_s = self.command.stop_timeout_s if timeout_s is None else timeout_s
        if process is not None and not await end(process, limit_s):
            self._tell(f"did not end within {limit_s:g} s and was killed")

    def _tell(self, what: str) -> None:
        self._console.say(f"{self.command.name} {what}")
