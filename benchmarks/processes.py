"""Processes beside the one that measures, none of which outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from benchmarks.load import Load
from benchmarks.report import ROOT
from goverse.coordination.supervised import tied_to_this_process

_PR_SET_CHILD_SUBREAPER = 36
_END_S = 5.0


def adopt_orphans() -> None:
    """Become the parent of whatever our children leave behind, so that it can be ended. Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_leftovers() -> None:
    """Kill every process below this one. Linux; elsewhere there is nothing to find them by."""
    until = time.monotonic() + _END_S
    while (found := descendants(os.getpid())) and time.monotonic() < until:
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """Process ids below ``pid``, as /proc shows them now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


@contextlib.asynccontextmanager
async def serving(command: Sequence[str], *, log: Path) -> AsyncIterator[str]:
    """A server process; yields the first line it prints, its address. Raises RuntimeError."""
    process = await start(command, log)
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode().strip()
        if not line:
            raise RuntimeError(f"{' '.join(command)} did not start:\n{tail(log)}")
        yield line
    finally:
        await kill(process)


async def load(
    module: str, *arguments: object, environment: Mapping[str, str] | None = None
) -> Load:
    """Run a load generator of this package; the `Load` that it prints. Raises RuntimeError.

    :param environment: variables beside our own.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return Load(**json.loads(await output(command, environment)))


async def output(command: Sequence[str], environment: Mapping[str, str] | None = None) -> bytes:
    """Standard output of ``command``. Raises RuntimeError if it fails."""
    process = await start(command, None, environment)
    try:
        out, _ = await process.communicate()
    finally:
        await kill(process)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed with status {process.returncode}")
    return out


async def start(
    command: Sequence[str], log: Path | None, environment: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start a child that dies with us, with pipes; what it says on the side goes to ``log``."""
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("ab")) if log is not None else None
        return await asyncio.create_subprocess_exec(
            *tied_to_this_process(command),
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )


async def kill(process: asyncio.subprocess.Process) -> None:
    """SIGKILL unless it has ended, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:] if log.exists() else ""
