"""Bytes of resident memory per object that is active, and per client session that is idle.

Differences of what the kernel counts for a real node and a real gate: before and after 100,000
objects with one integer of declared state are called once each, and before and after 2,000
sessions are opened. The node collects its garbage before each look. Both are warm before the first
look, so that what a process loads once is not counted.

``python -m benchmarks.memory objects ADDRESS FIRST COUNT`` calls objects;
``python -m benchmarks.memory sessions ADDRESS COUNT`` opens sessions until standard input ends.
"""

from __future__ import annotations

import asyncio
import re
import resource
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

import goverse.client
from benchmarks.cluster import one_node_and_a_gate
from benchmarks.objects import Memory, Small, resident_bytes
from benchmarks.processes import output, serving
from benchmarks.report import Check, Options, Report
from goverse.testing.processes import ProcessCluster, Server, http_get

OBJECTS = 100_000
SESSIONS = 2_000
WARM_OBJECTS = 2_000
WARM_SESSIONS = 50
BYTES_PER_OBJECT = 1024
CALLERS = 128
SETTLE_S = 120.0

_SESSIONS = re.compile(r"^goverse_sessions(?:\{[^}]*\})? (\d+)", re.MULTILINE)


async def run(options: Options, report: Report) -> None:
    report.settings = {"objects": OBJECTS, "sessions": SESSIONS}
    objects: list[float] = []
    sessions: list[float] = []
    report.raw = {"bytes_per_object": objects, "bytes_per_session": sessions}
    _allow_many_files()
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            # No object is idle for long enough to be deactivated.
            idle = {"GOVERSE_OBJECTS__IDLE_TIMEOUT": "3600s"}
            async with one_node_and_a_gate(folder, idle) as cluster:
                objects.append(await _per_object(cluster))
                sessions.append(await _per_session(cluster, folder))
        print(
            f"round {number + 1}/{options.rounds}: {objects[-1]:.0f} bytes per object, "
            f"{sessions[-1]:.0f} bytes per session",
            file=sys.stderr,
            flush=True,
        )
    per_object = statistics.median(objects)
    report.checks.append(Check("bytes per object", per_object, BYTES_PER_OBJECT, at_most=True))
    report.figures["bytes_per_object"] = round(per_object)
    report.figures["bytes_per_session"] = round(statistics.median(sessions))


def _allow_many_files() -> None:
    """As many as this user may have: a session is a file on both sides. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _per_object(cluster: ProcessCluster) -> float:
    address = cluster.servers["gate"].address
    await _call_objects(address, 0, WARM_OBJECTS)
    async with goverse.client.connect(address) as client:
        node = client.get(Memory, "node")
        before = await node.resident_bytes()
        await _call_objects(address, WARM_OBJECTS, OBJECTS)
        after = await node.resident_bytes()
    return (after - before) / OBJECTS


async def _call_objects(address: str, first: int, count: int) -> None:
    command = [sys.executable, "-m", "benchmarks.memory", "objects", address]
    await output([*command, str(first), str(count)])


async def _per_session(cluster: ProcessCluster, folder: Path) -> float:
    gate = cluster.servers["gate"]
    command = [sys.executable, "-m", "benchmarks.memory", "sessions", gate.address]
    async with AsyncExitStack() as stack:
        for count in (WARM_SESSIONS, SESSIONS):
            before = resident_bytes(gate.process.pid)
            await stack.enter_async_context(
                serving([*command, str(count)], log=folder / f"sessions-{count}.log")
            )
        await _wait_for_sessions(gate, WARM_SESSIONS + SESSIONS)
        return (resident_bytes(gate.process.pid) - before) / SESSIONS


async def _wait_for_sessions(gate: Server, count: int) -> None:
    async with asyncio.timeout(SETTLE_S):
        while True:
            _, text = await http_get(gate.ops_address, "/metrics", timeout_s=SETTLE_S)
            found = _SESSIONS.search(text)
            if found and int(found[1]) == count:
                return
            await asyncio.sleep(0.2)


async def _objects(address: str, first: int, count: int) -> None:
    numbers = iter(range(first, first + count))

    async with goverse.client.connect(address) as client:

        async def caller() -> None:
            for number in numbers:
                await client.get(Small, f"small-{number}").add(1)

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller())


async def _sessions(address: str, count: int) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(count):
            client = await stack.enter_async_context(goverse.client.connect(address))
            await client.get(Small, "small-0").add(0)
        print("open", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    _, what, where, *numbers = sys.argv
    if what == "objects":
        uvloop.run(_objects(where, *map(int, numbers)))
    else:
        uvloop.run(_sessions(where, *map(int, numbers)))
