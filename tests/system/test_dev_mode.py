"""Development mode from the first line to the last, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.dev_session import ROOT, DevSession, dev_session

pytestmark = pytest.mark.system

COUNTER = ROOT / "samples" / "counter" / "counter.py"
BANNER_END = "Ctrl-C stops it."

# One machine runs many tests at once; what a user waits is printed and judged elsewhere.
READY_WITHIN_S = 20.0


async def pasted_lines_work(session: DevSession) -> None:
    curl, command, python = session.tries
    assert curl.startswith("curl -d '{\"amount\": 5}' localhost:")
    assert curl.endswith("/v1/objects/Counter/my-counter/add")
    assert json.loads(await session.paste(curl)) == 5
    assert (await session.paste(command)).strip() == "10"
    assert (await session.paste(python)).strip() == "15"


async def test_one_process_serves_restarts_and_stops(tmp_path: Path) -> None:
    app = tmp_path / "counter.py"
    shutil.copy(COUNTER, app)
    async with dev_session(app) as session:
        await session.shows(BANNER_END)
        assert session.ready_s < READY_WITHIN_S
        await pasted_lines_work(session)
        assert await session.run_python(COUNTER.parent / "call.py") == "20\n"
        assert await session.run_python(COUNTER.parent / "call_sync.py") == "25\n"

        app.write_text(COUNTER.read_text().replace("+= amount", "+= 10 * amount"))
        await session.shows("counter.py changed: restarting")
        await session.shows("Ready again")
        assert json.loads(await session.paste(session.tries[0])) == 50

        app.write_text("class Counter(:\n")
        await session.shows("SyntaxError")
        assert json.loads(await session.paste(session.tries[0])) == 100

        app.write_text("import no_such_module_anywhere\n")
        await session.shows("ModuleNotFoundError: No module named 'no_such_module_anywhere'")
        await session.shows("waits for the next change")

        shutil.copy(COUNTER, app)
        await session.shows("Ready again", times=2)
        assert json.loads(await session.paste(session.tries[0])) == 5
        assert session.shown.count("Try:") == 1

        assert await session.press_ctrl_c() == 0
        await session.leaves_nothing()


async def test_a_module_that_is_broken_from_the_start_waits_for_a_change(tmp_path: Path) -> None:
    app = tmp_path / "counter.py"
    app.write_text("def broken(\n")
    async with dev_session(app) as session:
        await session.shows("waits for the next change")
        assert "line 1" in session.shown
        shutil.copy(COUNTER, app)
        await session.shows(BANNER_END)
        assert await session.press_ctrl_c() == 0
        await session.leaves_nothing()


async def test_two_nodes_a_gate_and_etcd_come_and_go() -> None:
    async with dev_session(COUNTER, "--nodes", "2") as session:
        await session.shows(BANNER_END)
        print(f"two nodes and a gate were ready after {session.ready_s} s")
        assert session.ready_s < READY_WITHIN_S
        await pasted_lines_work(session)

        os.kill(session.pid_of("serve", "n2"), signal.SIGKILL)
        await session.shows("n2 was killed by SIGKILL; starts again in")
        await session.shows("Ready again")
        assert json.loads(await session.paste(session.tries[0])) in (5, 20)

        assert await session.press_ctrl_c() == 0
        stops = [
            session.shown.index(f"{name:<4} | ", session.shown.index("Stopping;"))
            for name in ("gate", "n1", "n2")
        ]
        assert min(stops) == stops[0], "the gate stops first"
        await session.leaves_nothing()


async def test_changed_code_is_rolled_out_without_losing_a_call(tmp_path: Path) -> None:
    app = tmp_path / "counter.py"
    shutil.copy(COUNTER, app)
    async with dev_session(app, "--nodes", "2") as session:
        await session.shows(BANNER_END)
        app.write_text(COUNTER.read_text().replace("+= amount", "+= 10 * amount"))
        await session.shows("counter.py changed: restarting")
        answers = [5]
        async with asyncio.timeout(60):
            while set(answers[-10:]) != {50}:
                line = session.tries[0].replace("my-counter", f"c{len(answers)}")
                answers.append(json.loads(await session.paste(line)))
        assert set(answers) == {5, 50}
        assert await session.press_ctrl_c() == 0
        await session.leaves_nothing()


async def test_a_second_ctrl_c_waits_for_nobody() -> None:
    async with dev_session(COUNTER, "--nodes", "2") as session:
        await session.shows(BANNER_END)
        os.kill(session.pid_of("serve", "n1"), signal.SIGSTOP)
        session.process.send_signal(signal.SIGINT)
        await session.shows("Stopping; once more to stop at once.")
        assert await session.press_ctrl_c() == 0
        await session.leaves_nothing()


async def test_nothing_outlives_a_supervisor_that_is_killed() -> None:
    async with dev_session(COUNTER, "--nodes", "2") as session:
        await session.shows(BANNER_END)
        assert len(session.processes()) >= 5
        session.process.kill()
        await session.leaves_nothing()


async def test_a_pin_moves_its_shard_and_says_so() -> None:
    async with dev_session(COUNTER, "--nodes", "2") as session:
        await session.shows(BANNER_END)
        command = session.tries[1].partition(" object call ")[0]
        server = session.tries[1].partition(" --server ")[2]
        where = f" --server {server}" if server else ""
        for node in ("n1", "n2"):
            await session.paste(f"{command} shard pin 42 --node {node} --wait{where} --timeout 20s")
            found = json.loads(await session.paste(f"{command} shard get 42 -o json{where}"))
            assert found["pinned"] is True
            assert (found["pinned_node"], found["owner"], found["state"]) == (node, node, "owned")
        found = json.loads(await session.paste(f"{command} shard unpin 42 -o json{where}"))
        assert found["pinned"] is False
