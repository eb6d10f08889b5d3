"""Calls from our client through a gate to a node, beside a bare batched echo of one hop.

Both echo 64 bytes for the same number of callers in one client process. Runs alternate, so that
a machine whose speed drifts slows both.

``python -m benchmarks.calls ADDRESS CALLERS WARMUP SECONDS`` is the load generator.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

import goverse.client
from benchmarks.load import Load, drive
from benchmarks.objects import Echo
from benchmarks.report import Check, Options, Report
from goverse.coordination.supervised import EtcdOptions, EtcdProcess
from goverse.testing.processes import ProcessCluster, process_cluster

CALLERS = 128
WARMUP_S = 1.0


def run(options: Options) -> Report:
    return asyncio.run(_run(options))


async def _run(options: Options) -> Report:
    report = Report("calls")
    with tempfile.TemporaryDirectory() as folder:
        etcd = EtcdProcess(EtcdOptions(Path(folder) / "etcd"))
        await etcd.start()
        try:
            async with process_cluster(
                etcd.endpoint,
                Path(folder),
                modules=("benchmarks.objects",),
                environment={"GOVERSE_CLUSTER__STABILITY_DURATION": "200ms"},
            ) as cluster:
                await cluster.start_node("node")
                await cluster.start_gate("gate")
                await cluster.wait_ready()
                await _measure(options, cluster, report)
        finally:
            await etcd.stop()
    return report


async def _measure(options: Options, cluster: ProcessCluster, report: Report) -> None:
    gate = cluster.servers["gate"]
    echo_server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.echo", "serve", stdout=asyncio.subprocess.PIPE
    )
    assert echo_server.stdout is not None
    try:
        echo_address = (await echo_server.stdout.readline()).decode().strip()
        ratios, calls, echoes = [], [], []
        cpu: list[dict[str, float]] = []
        for round_number in range(options.rounds):
            before = _cpu(cluster)
            ours = await _load("benchmarks.calls", gate.address, CALLERS, options.seconds)
            after = _cpu(cluster)
            bare = await _load("benchmarks.echo", "load", echo_address, CALLERS, options.seconds)
            cpu.append({name: round(after[name] - before[name], 2) for name in after})
            ratios.append(ours.per_second / bare.per_second)
            calls.append(ours)
            echoes.append(bare)
            print(
                f"round {round_number + 1}/{options.rounds}: {ours.per_second:,.0f} calls/s, "
                f"bare echo {bare.per_second:,.0f}/s, ratio {ratios[-1]:.3f}",
                file=sys.stderr,
            )
        report.checks.append(
            Check("calls through gate and node / bare echo", statistics.median(ratios), 0.25)
        )
        report.figures["calls_per_s"] = round(statistics.median(c.per_second for c in calls))
        report.figures["bare_echo_per_s"] = round(statistics.median(c.per_second for c in echoes))
        report.figures["cpu_s_by_process"] = cpu[-1]
        report.raw = {
            "calls": [asdict(c) for c in calls],
            "echo": [asdict(c) for c in echoes],
            "cpu": cpu,
        }
        latency: dict[str, Any] = {}
        for callers in (1, 16, CALLERS, 1024):
            seen = await _load("benchmarks.calls", gate.address, callers, options.seconds)
            latency[str(callers)] = {
                "p50_ms": seen.p50_ms,
                "p99_ms": seen.p99_ms,
                "calls_per_s": round(seen.per_second),
            }
            print(f"{callers} callers: {latency[str(callers)]}", file=sys.stderr)
        report.figures["latency_by_callers"] = latency
    finally:
        echo_server.kill()
        await echo_server.wait()


def _cpu(cluster: ProcessCluster) -> dict[str, float]:
    return {name: server.cpu_seconds() for name, server in cluster.servers.items()}


async def _load(module: str, *arguments: object) -> Load:
    *where, callers, seconds = arguments
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *map(str, (*where, callers, WARMUP_S, seconds)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"load generator {module} failed")
    return Load(**json.loads(out))


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
