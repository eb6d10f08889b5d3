"""Supervised processes: restarted, told of, stopped, and never left behind."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from goverse.aio.tasks import Tasks
from goverse_cli.dev.processes import Command, Console, describe_exit
from goverse_cli.dev.supervisor import Child, State
from tests.support.eventually import eventually

READY = "print('ready', flush=True); "
FOREVER = READY + "import signal\nwhile True: signal.pause()"


class Stage:
    """One child with a console that can be read."""

    def __init__(self, code: str, *, stop_timeout_s: float = 5.0, final: tuple[int, ...] = ()):
        self.out = io.StringIO()
        self.child = Child(
            Command("n1", (sys.executable, "-S", "-c", code), {}, stop_timeout_s, final),
            Console(self.out, colour=False),
            random.Random(1),
        )

    @property
    def text(self) -> str:
        return self.out.getvalue()

    @property
    def pid(self) -> int:
        pid = self.child.snapshot().pid
        assert pid is not None
        return pid

    async def shows(self, text: str, times: int = 1) -> None:
        await eventually(lambda: self.text.count(text) >= times)


@asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[Stage]:
    tasks = Tasks("test")
    tasks.spawn("child", stage.child.run())
    try:
        yield stage
    finally:
        await stage.child.stop()
        await eventually(lambda: stage.child.snapshot().state is State.STOPPED)
        await tasks.close()


def alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_output_comes_line_by_line_with_the_name_in_front() -> None:
    code = "import sys; print('one'); print('two', file=sys.stderr); print('no end', end=''); " + (
        "sys.stdout.flush(); import signal\nwhile True: signal.pause()"
    )
    async with running(Stage(code)) as stage:
        await stage.shows("n1 | two")
        assert "n1 | one" in stage.text
    assert "n1 | no end" in stage.text


async def test_a_line_that_never_ends_comes_in_pieces() -> None:
    async with running(Stage("print('x' * 300_000); " + FOREVER)) as stage:
        await stage.shows("ready")
    assert stage.text.count("x") >= 300_000


async def test_a_child_that_dies_is_started_again_and_that_is_said() -> None:
    async with running(Stage(FOREVER)) as stage:
        await stage.shows("ready")
        os.kill(stage.pid, signal.SIGKILL)
        await stage.shows("ready", times=2)
        assert "n1 was killed by SIGKILL; starts again in" in stage.text
        assert stage.child.snapshot().starts == 2


async def test_one_that_dies_at_once_is_started_less_and_less_often() -> None:
    async with running(Stage("raise SystemExit(9)")) as stage:
        await stage.shows("n1 exited with code 9", times=3)
        assert stage.child.snapshot().starts <= 4


async def test_one_whose_code_is_broken_waits_for_a_change(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text("raise SystemExit(3)")
    stage = Stage(f"exec(open({str(app)!r}).read())", final=(3,))
    async with running(stage):
        await stage.shows("n1 waits for the next change")
        assert stage.child.snapshot().state is State.BROKEN
        app.write_text(FOREVER)
        await stage.child.restart()
        await stage.shows("ready")
        assert stage.child.snapshot().starts == 2


async def test_a_restart_is_orderly_and_immediate() -> None:
    code = "import signal, sys; signal.signal(15, lambda *a: (print('bye'), sys.exit(0))); "
    async with running(Stage(code + FOREVER)) as stage:
        await stage.shows("ready")
        await stage.child.restart()
        await stage.shows("ready", times=2)
    assert stage.text.count("bye") == 2
    assert "starts again" not in stage.text


async def test_one_that_does_not_end_is_killed_and_that_is_said() -> None:
    code = "import signal; signal.signal(15, signal.SIG_IGN); " + FOREVER
    async with running(Stage(code, stop_timeout_s=0.2)) as stage:
        await stage.shows("ready")
        pid = stage.pid
    assert "did not end within 0.2 s and was killed" in stage.text
    assert not alive(pid)


@pytest.mark.parametrize("turns", range(4))
async def test_a_stop_at_any_moment_of_the_start_leaves_nothing(turns: int) -> None:
    stage = Stage(FOREVER)
    tasks = Tasks("test")
    task = tasks.spawn("child", stage.child.run())
    for _ in range(turns):
        await asyncio.wait((task,), timeout=0.001)
    await stage.child.stop()
    async with asyncio.timeout(10):
        await task
    assert stage.child.snapshot().pid is None


SUPERVISOR = """
import asyncio, io, random, sys
from goverse_cli.dev.processes import Command, Console
from goverse_cli.dev.supervisor import Child
command = Command("n1", (sys.executable, "-S", *sys.argv[1:]))
asyncio.run(Child(command, Console(io.StringIO(), colour=False), random.Random()).run())
"""
LEAVES_ITS_PID = """
import os, pathlib, signal, sys
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()}\\n")
while True: signal.pause()
"""


async def test_the_child_dies_with_its_supervisor_however_that_dies(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUPERVISOR, "-c", LEAVES_ITS_PID, str(pid_file))
    )
    try:
        await eventually(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
        child = int(pid_file.read_text())
        assert alive(child)
    finally:
        process.kill()
        await process.wait()
    await eventually(lambda: not alive(child))


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "exited with code 0"), (-9, "was killed by SIGKILL"), (-64, "was killed by SIGRTMAX")],
)
def test_an_end_is_described(code: int, text: str) -> None:
    assert describe_exit(code) == text


def test_names_line_up_and_keep_their_colour() -> None:
    out = io.StringIO()
    console = Console(out, colour=True)
    for name in ("gate", "n1"):
        console.introduce(name)
    console.line("n1", "a")
    console.line("gate", "b")
    console.line("n1", "c")
    first, second, third = out.getvalue().splitlines()
    assert "n1   |" in first
    assert first.split("n1")[0] == third.split("n1")[0] != second.split("gate")[0]
