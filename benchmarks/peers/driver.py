"""The driver's side of a peer: answers, one line of JSON for each line that asks for a run."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, TextIO

from benchmarks.load import Load, drive

PAYLOAD = bytes(64)

#: Name of the work, callers, seconds of warm-up, measured seconds.
Run = Callable[[str, int, float, float], Awaitable[Load]]


def private_stdout() -> TextIO:
    """Where answers go. What the peer prints goes to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


async def answer_runs(
    call: Callable[[int], Awaitable[object]], about: dict[str, Any], answers: TextIO
) -> None:
    """Serve runs of ``call(caller number)`` until standard input ends.

    :param about: versions and settings, for the record.
    """
    if await call(0) != PAYLOAD:
        raise RuntimeError("the echo of a peer answered something else than it was asked")
    await serve_runs(lambda _, *shape: drive(call, *shape), about, answers)


async def serve_runs(run: Run, about: dict[str, Any], answers: TextIO) -> None:
    """Serve runs of any kind of work until standard input ends."""
    _tell(answers, {"python": sys.version.split()[0], **about})
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        work, callers, warmup_s, seconds = line.split()
        load = await run(work, int(callers), float(warmup_s), float(seconds))
        _tell(answers, asdict(load))


def _tell(answers: TextIO, what: dict[str, Any]) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()
