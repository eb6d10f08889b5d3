"""Cut links lose packets, healed ones do not, and what a killed run has left is taken away."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from goverse.aio.children import tied_to_this_process
from tests.support.eventually import eventually
from tests.support.namespaces import (
    HERE,
    Namespaces,
    NamespacesUnavailable,
    clean_up_leftovers,
    open_namespaces,
)

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
PORT = 7000
OPENS_AND_STAYS = """
import sys
from tests.support.namespaces import open_namespaces
with open_namespaces("left"):
    print("open", flush=True)
    sys.stdin.read()
"""


@asynccontextmanager
async def serving(spaces: Namespaces, name: str) -> AsyncIterator[None]:
    """Something in a namespace that takes connections."""
    place = spaces.place(name)
    command = [sys.executable, "-m", "http.server", "--bind", place.host, str(PORT)]
    process = await asyncio.create_subprocess_exec(
        *place.prefix,
        *tied_to_this_process(command),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def reaches(host: str) -> bool:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(0.5):
            _, writer = await asyncio.open_connection(host, PORT)
            writer.close()
            return True
    return False


async def test_what_is_cut_is_lost_and_what_is_healed_arrives() -> None:
    with open_namespaces("a", "b") as spaces:
        async with serving(spaces, "a"), serving(spaces, "b"):
            for name in ("a", "b"):
                await eventually(lambda name=name: reaches(spaces.host(name)))
            spaces.cut(HERE, "a")
            assert not await reaches(spaces.host("a"))
            assert await reaches(spaces.host("b"))
            spaces.cut("b", "a")
            spaces.heal(HERE, "a")
            assert await reaches(spaces.host("a")), "only b is cut off from it"
            spaces.cut("a", HERE)
            assert not await reaches(spaces.host("a")), "its answers are lost"
            spaces.heal("a", HERE)
            assert await reaches(spaces.host("a"))


def test_there_is_no_way_beyond_the_bridge() -> None:
    with open_namespaces("a") as spaces:
        shown = subprocess.run(
            [*spaces.place("a").prefix, "ip", "route"], capture_output=True, text=True, check=True
        )
        assert "default" not in shown.stdout and shown.stdout.count("\n") == 1


async def test_what_a_killed_run_has_left_is_taken_away() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OPENS_AND_STAYS),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    process.kill()
    await process.wait()

    def left() -> str:
        names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
        links = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True)
        return "\n".join(
            line
            for line in (names.stdout + links.stdout).splitlines()
            if f"goverse-{process.pid}-" in line or f"gv{process.pid}" in line
        )

    assert left()
    clean_up_leftovers()
    await eventually(lambda: not left())


def test_a_machine_that_cannot_make_them_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.namespaces.shutil.which", lambda *_, **__: None)
    with pytest.raises(NamespacesUnavailable, match="not installed"), open_namespaces("a"):
        pass
