"""Calls from our client through a gate to a node, beside a bare batched echo of one hop and peers.

All echo 64 bytes for the same number of callers in one client process. Client, gate and node are
what a compiled wheel installs; the same as Python is shown beside it.

``python -m benchmarks.calls ADDRESS CALLERS WARMUP SECONDS`` is the load generator.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import uvloop

import goverse.client
from benchmarks import compiled
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
AS_PYTHON = "the same, not compiled"
ECHO = "bare echo"
#: What a peer is called in checks, and how many of its calls one must make for each.
PEER_BOUNDS = {"xoscar": ("xoscar actor calls", 2.0), "ray": ("Ray actor calls", 8.0)}


async def run(options: Options, report: Report) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands, faults = await outside.driver_commands(options.peers)
        report.faults += faults
        form = await compiled.environment()
        async with AsyncExitStack() as stack:
            ours, as_python = [
                Form(await stack.enter_async_context(one_node_and_a_gate(of, chosen)), chosen)
                for of, chosen in ((_within(folder, "c"), form), (_within(folder, "p"), {}))
            ]
            echo = await stack.enter_async_context(
                serving([sys.executable, "-m", "benchmarks.echo", "serve"], log=folder / "echo.log")
            )
            subjects = [
                Subject(OURS, ours.run),
                Subject(AS_PYTHON, as_python.run),
                Subject(ECHO, partial(_echo, echo)),
            ]
            running, faults = await outside.started(stack, folder, commands)
            report.faults += faults
            for peer in running:
                report.settings[peer.name] = peer.about
                run_of = partial(peer.run, CALLERS, WARMUP_S)
                subjects.append(Subject(PEER_BOUNDS[peer.name][0], run_of, required=False))
            samples = await interleaved(subjects, options.rounds, options.seconds, report.faults)
            _judge(options, samples, report)
            both = {OURS: ours, AS_PYTHON: as_python}
            report.figures["cpu_us_per_call"] = {name: of.median_cpu for name, of in both.items()}
            report.raw = {
                **raw(samples),
                "cpu_us_per_call": {name: of.cpu for name, of in both.items()},
            }
            report.figures["latency_by_callers"] = await _latencies(ours, options.seconds)


def _judge(options: Options, samples: Samples, report: Report) -> None:
    # Beside peers more is asked for than alone.
    bound = 0.3 if options.peers else 0.25
    report.checks.append(Check(f"{OURS} / {ECHO}", ratio(samples, OURS, ECHO), bound))
    for peer in options.peers:
        name, bound = PEER_BOUNDS[peer]
        if name in samples:
            report.checks.append(Check(f"{OURS} / {name}", ratio(samples, OURS, name), bound))
    report.figures["ratios"] = {
        f"{AS_PYTHON} / {ECHO}": round(ratio(samples, AS_PYTHON, ECHO), 3),
        f"{OURS} / {AS_PYTHON}": round(ratio(samples, OURS, AS_PYTHON), 3),
    }
    report.figures["medians"] = medians(samples)
    report.settings["callers"] = CALLERS
    report.settings["payload_bytes"] = 64


@dataclass
class Form:
    """Client, gate and node, compiled or as Python.

    :param environment: with which processes import that form.
    :param cpu: microseconds of processor time per call in each process, of every run.
    """

    cluster: ProcessCluster
    environment: Mapping[str, str]
    cpu: list[dict[str, float]] = field(default_factory=list)

    async def run(self, seconds: float) -> Load:
        before = cpu_seconds(self.cluster)
        seen = await self.load(CALLERS, seconds)
        after = cpu_seconds(self.cluster)
        used = {"client": seen.cpu_s, **{name: after[name] - before[name] for name in after}}
        self.cpu.append({name: round(s / seen.all_calls * 1e6, 1) for name, s in used.items()})
        return seen

    async def load(self, callers: int, seconds: float) -> Load:
        gate = self.cluster.servers["gate"].address
        generator = ("benchmarks.calls", gate, callers, WARMUP_S, seconds)
        return await load(*generator, environment=self.environment)

    @property
    def median_cpu(self) -> dict[str, float]:
        return {
            name: round(statistics.median(one[name] for one in self.cpu), 1) for name in self.cpu[0]
        }


def _within(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


async def _echo(address: str, seconds: float) -> Load:
    return await load("benchmarks.echo", "load", address, CALLERS, WARMUP_S, seconds)


async def _latencies(form: Form, seconds: float) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for callers in (1, 16, CALLERS, 1024):
        seen = await form.load(callers, seconds)
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
