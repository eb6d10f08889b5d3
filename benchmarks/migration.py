"""Shards that move under load: a node joins, leaves for good, and each restarts in turn.

Three nodes serve steady callers. A fourth node joins and takes its part; it leaves again
(``permanent``); then each of the three is stopped (``restart``) and started again under its id.
No call may fail, and calls of objects that move are compared with those of the same run while
nothing moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import steady
from benchmarks.cluster import NUM_SHARDS, balanced, etcd_process
from benchmarks.report import Check, Options, Report
from benchmarks.steady import Steady
from goverse.testing.processes import ProcessCluster, http_get, process_cluster

NODES = ("node-1", "node-2", "node-3")
JOINING = "node-4"
START_S = 90.0

P99_FACTOR = 5.0
P99_S = 0.3
BALANCED_S = 15.0
RESTART_EXTRA_S = 2.0
RESTART = {"GOVERSE_NODE__SHUTDOWN_MODE": "restart"}

#: Returns the seconds that a process took to start, and when the last shard had moved.
Act = Callable[[], Awaitable[tuple[float, float]]]


@dataclass(frozen=True)
class Phase:
    """What callers saw while one thing happened.

    :param seconds: until no shard moved any more.
    :param start_s: what a process that was started took until it answered anything.
    :param moved: objects that changed their process.
    :param p99_s: of the calls of those around their move, or of all where none moved.
    :param longest_s: of all calls.
    """

    name: str
    seconds: float
    start_s: float
    calls: int
    failed: int
    moved: int
    p99_s: float
    longest_s: float


async def run(options: Options, report: Report) -> None:
    report.settings = {
        "nodes": len(NODES),
        "shards": NUM_SHARDS,
        "callers": steady.CALLERS,
        "objects": steady.OBJECTS,
    }
    report.raw["rounds"] = []
    rounds = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(await _round(Path(folder), options.seconds, report))
    _judge(report, rounds)


async def _round(folder: Path, seconds: float, report: Report) -> list[Phase]:
    phases: list[Phase] = []
    raw: dict[str, list[object]] = {"phases": [], "errors": []}
    report.raw["rounds"].append(raw)
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(etcd_process(folder))
        cluster = await stack.enter_async_context(
            process_cluster(etcd.endpoint, folder, modules=("benchmarks.objects",))
        )
        seen = await stack.enter_async_context(steady.serving(cluster, NODES, **RESTART))
        for name, act in _acts(cluster, seconds):
            phase = await _phase(name, seen, act)
            phases.append(phase)
            raw["phases"].append(asdict(phase))
            raw["errors"] = [*seen.errors]
            print(phase, file=sys.stderr, flush=True)
    return phases


def _acts(cluster: ProcessCluster, seconds: float) -> Iterator[tuple[str, Act]]:
    """What happens, by name, in this order."""

    async def nothing() -> tuple[float, float]:
        await asyncio.sleep(seconds)
        return 0.0, time.monotonic()

    async def joins() -> tuple[float, float]:
        start_s = await _started(cluster, JOINING)
        return start_s, await balanced(cluster, (*NODES, JOINING))

    async def leaves() -> tuple[float, float]:
        await _stopped(cluster, JOINING)
        return 0.0, await balanced(cluster, NODES)

    def restarts(name: str) -> Act:
        async def act() -> tuple[float, float]:
            await _stopped(cluster, name)
            start_s = await _started(cluster, name, **RESTART)
            return start_s, await balanced(cluster, NODES)

        return act

    yield "nothing", nothing
    yield "join", joins
    yield "leave", leaves
    for name in NODES:
        yield f"restart of {name}", restarts(name)


async def _stopped(cluster: ProcessCluster, name: str) -> None:
    """Stop a node in order. Raises RuntimeError."""
    if status := await cluster.stop(name):
        raise RuntimeError(f"{name} ended with status {status}")


async def _started(cluster: ProcessCluster, name: str, **environment: str) -> float:
    """Start a node; the seconds until it answers anything."""
    began = time.monotonic()
    server = await cluster.start_node(name, **environment)
    async with asyncio.timeout(START_S):
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                await http_get(server.ops_address, "/healthz")
                return time.monotonic() - began
            await asyncio.sleep(0.02)


async def _phase(name: str, seen: Steady, act: Act) -> Phase:
    began = time.monotonic()
    start_s, still_at = await act()
    ended = time.monotonic()
    calls = seen.between(began, ended)
    moved, moving = seen.moved(began, ended)
    return Phase(
        name,
        round(still_at - began, 3),
        round(start_s, 3),
        len(calls),
        steady.failed(calls),
        moved,
        round(steady.p99_s(moving or calls), 4),
        round(steady.longest_s(calls), 4),
    )


def _judge(report: Report, rounds: list[list[Phase]]) -> None:
    """Medians over the rounds, but for failures: one is too many."""
    phases = [phase for phases in rounds for phase in phases]
    report.checks.append(Check("failed calls", sum(phase.failed for phase in phases), 0, True))
    undisturbed_s = _median(rounds, "nothing", "p99_s")
    for name in ("join", "leave"):
        bound = round(max(P99_FACTOR * undisturbed_s, P99_S), 4)
        what = f"p99 of calls to moving shards, {name}, s"
        report.checks.append(Check(what, _median(rounds, name, "p99_s"), bound, True))
    balanced_s = _median(rounds, "join", "seconds") - _median(rounds, "join", "start_s")
    report.checks.append(Check("seconds to balance after a join", balanced_s, BALANCED_S, True))
    for name in (f"restart of {node}" for node in NODES):
        bound = _median(rounds, name, "start_s") + RESTART_EXTRA_S
        what = f"longest wait, {name}, s"
        report.checks.append(Check(what, _median(rounds, name, "longest_s"), bound, True))
    report.figures["undisturbed_p99_s"] = undisturbed_s
    report.figures["phases"] = [asdict(phase) for phase in rounds[-1]]


def _median(rounds: list[list[Phase]], name: str, what: str) -> float:
    found = [getattr(phase, what) for phases in rounds for phase in phases if phase.name == name]
    return float(statistics.median(found))
