"""Development mode keeps durable objects from one start to the next."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.support.dev_session import ROOT, DevSession, dev_session
from tests.support.postgres import open_folder
from tests.system.test_dev_mode import BANNER_END

pytestmark = pytest.mark.system

VOLATILE = (ROOT / "samples/counter/counter.py").read_text()
DURABLE = VOLATILE.replace("(goverse.Object)", '(goverse.Object, durability="acknowledged")')


async def add_five(session: DevSession) -> int:
    return int(json.loads(await session.paste(session.tries[0])))


def highest_epoch(folder: Path) -> tuple[int, int]:
    session = sqlite3.connect(folder / "objects.db")
    try:
        found: tuple[int, int] = session.execute(
            "SELECT generation, revision FROM goverse_fences ORDER BY 1 DESC, 2 DESC"
        ).fetchone()
    finally:
        session.close()
    return found


async def test_one_process_keeps_durable_objects_in_sqlite(tmp_path: Path) -> None:
    app, state = tmp_path / "app.py", tmp_path / ".goverse"
    app.write_text(VOLATILE)
    async with dev_session(app) as session:
        await session.shows(BANNER_END)
        assert await add_five(session) == 5
        assert not state.exists(), "nothing is durable, and a folder was made"
        app.write_text(DURABLE)
        await session.shows("Ready again")
        assert await add_five(session) == 5
        assert await session.press_ctrl_c() == 0
    epochs = [highest_epoch(state)]
    async with dev_session(app) as session:
        await session.shows(BANNER_END)
        assert await add_five(session) == 10
        epochs.append(highest_epoch(state))
        async with dev_session(app) as second:
            await second.shows("another session keeps its state in")
            assert "--data-dir" in second.shown
        app.write_text(DURABLE.replace("+= amount", "+= 2 * amount"))
        await session.shows("Ready again")
        assert await add_five(session) == 20
        assert await session.press_ctrl_c() == 0
        await session.leaves_nothing()
    epochs.append(highest_epoch(state))
    assert epochs[0] < epochs[1] < epochs[2]


async def test_several_nodes_keep_durable_objects_in_postgresql() -> None:
    with open_folder() as folder:
        app = folder / "app.py"
        app.write_text(DURABLE)
        async with dev_session(app, "--nodes", "2") as session:
            await session.shows(BANNER_END)
            print(f"two nodes and PostgreSQL were ready after {session.ready_s} s")
            assert session.pid_of("-D", str(folder / ".goverse/postgres"))
            assert await add_five(session) == 5
            assert await session.press_ctrl_c() == 0
            await session.leaves_nothing()
        app.write_text(VOLATILE)
        async with dev_session(app, "--nodes", "2") as session:
            await session.shows(BANNER_END)
            assert "durable" not in session.shown
            look = session.tries[0].replace("5}", "0}")
            await session.answers(look, "0")
            # It is found that the application became durable, and what the last session kept.
            app.write_text(DURABLE)
            await session.shows("durable objects are kept in")
            await session.answers(look, "5")
            os.kill(session.pid_of("-D", str(folder / ".goverse/postgres")), signal.SIGQUIT)
            await session.shows("postgres exited with code")
            await session.answers(session.tries[0], "10")
            session.process.kill()
            await session.leaves_nothing()
