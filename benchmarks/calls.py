"""Calls from our client through a gate to a node, beside a bare batched echo of one hop and peers.

All echo 64 bytes for the same number of callers in one client process.

``python -m benchmarks.calls ADDRESS CALLERS WARMUP SECONDS`` is the load generator.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

import uvloop

import goverse.client
from benchmarks.cluster import cpu_seconds, one_node_and_a_gate
from benchmarks.load import Load, drive
from benchmarks.objects import Echo
from benchmarks.peers import outside
from benchmarks.processes import load, serving
from benchmarks.report import Check, Options, Report
from benchmarks.rounds import Samples, Subject, interleaved, medians, ratio, raw
from goverse.testing.processes import ProcessCluster

CALLERS = 128
WARMUP_S = 1.0

OURS = "calls through gate and node"
ECHO = "bare echo"
#: What a peer is called in checks, and how many of its calls one must make for each.
PEER_BOUNDS = {"xoscar": ("xoscar actor calls", 2.0), "ray": ("Ray actor calls", 8.0)}


async def run(options: Options, report: Report) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands, faults = await outside.driver_commands(options.peers)
        report.faults += faults
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(one_node_and_a_gate(folder))
            echo = await stack.enter_async_context(
                serving([sys.executable, "-m", "benchmarks.echo", "serve"], log=folder / "echo.log")
            )
            cpu: list[dict[str, float]] = []
            subjects = [
                Subject(OURS, partial(_measured, cluster, cpu)),
                Subject(ECHO, partial(_load, "benchmarks.echo", "load", echo)),
            ]
            running, faults = await outside.started(stack, folder, commands)
            report.faults += faults
            for peer in running:
                report.settings[peer.name] = peer.about
                run_of = partial(peer.run, CALLERS, WARMUP_S)
                subjects.append(Subject(PEER_BOUNDS[peer.name][0], run_of, required=False))
            samples = await interleaved(subjects, options.rounds, options.seconds, report.faults)
            _judge(options, samples, report)
            report.figures["cpu_us_per_call"] = {
                name: round(statistics.median(one[name] for one in cpu), 1) for name in cpu[0]
            }
            report.raw = {**raw(samples), "cpu_us_per_call": cpu}
            gate = cluster.servers["gate"].address
            report.figures["latency_by_callers"] = await _latencies(gate, options.seconds)


def _judge(options: Options, samples: Samples, report: Report) -> None:
    # Beside peers more is asked for than alone.
    bound = 0.3 if options.peers else 0.25
    report.checks.append(Check(f"{OURS} / {ECHO}", ratio(samples, OURS, ECHO), bound))
    for peer in options.peers:
        name, bound = PEER_BOUNDS[peer]
        if name in samples:
            report.checks.append(Check(f"{OURS} / {name}", ratio(samples, OURS, name), bound))
    report.figures["medians"] = medians(samples)
    report.settings["callers"] = CALLERS
    report.settings["payload_bytes"] = 64


async def _measured(cluster: ProcessCluster, cpu: list[dict[str, float]], seconds: float) -> Load:
    """One run of ours, with the microseconds of processor time per call in each process."""
    before = cpu_seconds(cluster)
    seen = await _load("benchmarks.calls", cluster.servers["gate"].address, seconds)
    after = cpu_seconds(cluster)
    used = {"client": seen.cpu_s, **{name: after[name] - before[name] for name in after}}
    cpu.append({name: round(s / seen.all_calls * 1e6, 1) for name, s in used.items()})
    return seen


async def _load(module: str, *arguments: object) -> Load:
    *where, seconds = arguments
    return await load(module, *where, CALLERS, WARMUP_S, seconds)


async def _latencies(address: str, seconds: float) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for callers in (1, 16, CALLERS, 1024):
        seen = await load("benchmarks.calls", address, callers, WARMUP_S, seconds)
        found[str(callers)] = {
            "p50_ms": seen.p50_ms,
            "p99_ms": seen.p99_ms,
            "calls_per_s": round(seen.per_second),
        }
        print(f"{callers} callers: {found[str(callers)]}", file=sys.stderr)
    return found


async def _generate(address: str, callers: int, warmup_s: float, seconds: float) -> None:
    payload = bytes(64)
    async with goverse.client.connect(address) as client:
        objects = [client.get(Echo, f"echo-{number}") for number in range(callers)]
        result = await drive(
            lambda number: objects[number].echo(payload), callers, warmup_s, seconds
        )
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    _, address, callers, warmup, seconds = sys.argv
    uvloop.run(_generate(address, int(callers), float(warmup), float(seconds)))
