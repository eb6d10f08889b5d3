"""Keep-alive JSON calls through a gate to a node, beside a bare uvicorn echo of the same body."""

from __future__ import annotations

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import wrk
from benchmarks.cluster import cpu_seconds, one_node_and_a_gate
from benchmarks.load import Load
from benchmarks.processes import serving
from benchmarks.report import Check, Options, Report
from benchmarks.rounds import Subject, interleaved, medians, ratio, raw
from goverse.testing.processes import ProcessCluster

CONNECTIONS = 64
WARMUP_S = 1.0
BOUND = 0.35

OURS = "JSON calls through gate and node"
BARE = "bare uvicorn echo"


async def run(options: Options, report: Report) -> None:
    wrk.program()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "benchmarks.uvicorn_echo"]
        async with (
            one_node_and_a_gate(folder) as cluster,
            serving(command, log=folder / "uvicorn.log") as bare,
        ):
            cpu: list[dict[str, float]] = []
            subjects = [
                Subject(OURS, partial(_measured, cluster, cpu)),
                Subject(BARE, partial(wrk.run, bare, CONNECTIONS, WARMUP_S)),
            ]
            samples = await interleaved(subjects, options.rounds, options.seconds, report.faults)
    report.checks.append(Check(f"{OURS} / {BARE}", ratio(samples, OURS, BARE), BOUND))
    report.figures["medians"] = medians(samples)
    report.figures["cpu_us_per_call"] = {
        name: round(statistics.median(one[name] for one in cpu), 1) for name in cpu[0]
    }
    report.settings["connections"] = CONNECTIONS
    report.raw = {**raw(samples), "cpu_us_per_call": cpu}


async def _measured(cluster: ProcessCluster, cpu: list[dict[str, float]], seconds: float) -> Load:
    """One run, with the microseconds of processor time per call in each process, nearly: those of
    the warm-up are part of the time, and its calls are reckoned at the rate of the run."""
    before = cpu_seconds(cluster)
    address = cluster.servers["gate"].http_address
    seen = await wrk.run(address, CONNECTIONS, WARMUP_S, seconds)
    after = cpu_seconds(cluster)
    calls = seen.calls * (1 + max(1, round(WARMUP_S)) / seen.seconds)
    cpu.append({name: round((after[name] - before[name]) / calls * 1e6, 1) for name in after})
    return seen
