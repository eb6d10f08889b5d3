"""The compiled form beside Python's: what both do with the same seeds, and with real processes."""

from __future__ import annotations

import sys
from pathlib import Path

import goverse.client
from benchmarks import compiled
from benchmarks.cluster import one_node_and_a_gate
from benchmarks.objects import Echo
from benchmarks.processes import load, output

SEEDS = "6"
FORM = "import goverse.transport.link as link; print(link.__file__.rpartition('.')[2])"


async def test_the_compiled_form_plays_every_seed_as_python_does() -> None:
    """A trace is every message, timer and write of a simulated cluster, in order."""
    form = await compiled.environment()
    traces = []
    for environment, suffix in ({}, b"py"), (form, b"so"):
        assert (await output([sys.executable, "-c", FORM], environment)).strip() == suffix
        play = [sys.executable, "-m", "tests.simulation", "--seeds", SEEDS, "--repeats", SEEDS]
        said = (await output(play, environment)).splitlines()
        traces.append([line for line in said if b"trace" in line])
    assert traces[0] == traces[1] and len(traces[0]) == int(SEEDS)


async def test_compiled_processes_and_others_work_together(tmp_path: Path) -> None:
    form = await compiled.environment()
    async with one_node_and_a_gate(tmp_path, form) as cluster:
        address = cluster.servers["gate"].address
        async with goverse.client.connect(address) as client:
            assert await client.get(Echo, "a").echo(b"abc") == b"abc"
        seen = await load("benchmarks.calls", address, 16, 0.1, 0.5, environment=form)
        assert seen.calls > 0
