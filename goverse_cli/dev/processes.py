"""Child processes that never outlive this one, and their output."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

import click

from goverse.coordination.supervised import tied_to_this_process

_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_red")
_MAX_LINE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Command:
    """What to run.

    :param stop_timeout_s: how long it may take to end after SIGTERM before it is killed.
    :param final_codes: exit codes after which only a change of the code helps.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    stop_timeout_s: float = 10.0
    final_codes: tuple[int, ...] = ()


class Console:
    """Interleaves whole lines of several processes, each with the name of its own in front."""

    def __init__(self, out: TextIO, *, colour: bool) -> None:
        self._out = out
        self._colour = colour
        self._width = 0
        self._colours: dict[str, str] = {}

    def introduce(self, name: str) -> None:
        """Give ``name`` its colour and room."""
        self._width = max(self._width, len(name))
        self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])

    def line(self, name: str, text: str) -> None:
        prefix = f"{name:<{self._width}} |"
        if self._colour:
            prefix = click.style(prefix, fg=self._colours.get(name))
        self.say(f"{prefix} {text}")

    def say(self, text: str) -> None:
        try:
            self._out.write(text + "\n")
            self._out.flush()
        except BrokenPipeError:
            pass  # Whoever read this has gone; the processes have not.


async def spawn(command: Command, *, piped: bool) -> Process:
    """Start ``command`` so that it dies with this process, however this process dies.

    It gets a session of its own: a Ctrl-C at the terminal reaches the supervisor alone, which
    then stops its children in order.
    """
    return await asyncio.create_subprocess_exec(
        *tied_to_this_process(command.argv),
        env={**os.environ, "PYTHONUNBUFFERED": "1", **command.env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE if piped else None,
        stderr=STDOUT if piped else None,
        limit=_MAX_LINE_BYTES,
        start_new_session=True,
    )


async def copy_lines(process: Process, name: str, console: Console) -> None:
    """Copy the output of ``process`` until it ends; overlong lines come in pieces."""
    stream = process.stdout
    if stream is None:
        return
    while True:
        try:
            line = await stream.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            if end.partial:
                console.line(name, _text(end.partial))
            return
        except asyncio.LimitOverrunError as long:
            line = await stream.read(long.consumed or _MAX_LINE_BYTES)
        console.line(name, _text(line))


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r\n")


def describe_exit(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


async def end(process: Process, timeout_s: float) -> bool:
    """Ask ``process`` to end, then make it. Returns whether asking was enough."""
    if process.returncode is not None:
        return True
    _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(timeout_s):
            await process.wait()
        return True
    except TimeoutError:
        _signal(process, signal.SIGKILL)
        await process.wait()
        return False
    except asyncio.CancelledError:
        # The supervisor was told to hurry.
        _signal(process, signal.SIGKILL)
        raise


def _signal(process: Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        pass
