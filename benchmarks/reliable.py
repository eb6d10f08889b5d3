"""Calls that take effect once: through gate and node on PostgreSQL, beside Restate.

Both keep counters and the bank of samples/bank, write with fsync, and are asked for their sums
after each run: a run whose sums are not those of the calls made is none.

``python -m benchmarks.reliable ADDRESS WORK CALLERS WARMUP SECONDS`` is the load generator.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

import goverse
import goverse.client
from benchmarks.cluster import cpu_seconds, one_node_and_a_gate, postgres_process
from benchmarks.durable_objects import Counter
from benchmarks.load import Load, drive
from benchmarks.peers import outside
from benchmarks.processes import load
from benchmarks.report import Check, Options, Report
from benchmarks.rounds import Samples, Subject, interleaved, medians, ratio, raw
from goverse.testing.processes import ProcessCluster
from samples.bank.bank import AUDITOR, Account, Auditor

CALLERS = 64
WARMUP_S = 1.0
SETTLE_S = 120.0
DEPOSIT = 1_000_000_000
MODULES = ("benchmarks.durable_objects", "samples.bank.bank")

OURS = "reliable calls"
#: A peer's drivers: deployed as its documentation says, which bounds are for, and as fast as we
#: could make it, which is shown beside it.
DRIVERS = {"restate": ("restate", "restate-tuned")}
THEIRS = {"restate": "Restate calls", "restate-tuned": "tuned Restate calls"}
#: How many of a peer's calls one must make for each, and in what part of its median time.
RATE_BOUND = 6.0
LATENCY_BOUND = 0.7

#: What is run, by its name in the report: the work, and how many callers.
SHAPES = {
    "64 callers": ("counter", CALLERS),
    "1 caller": ("counter", 1),
    "bank, 64 callers": ("bank", CALLERS),
}


async def run(options: Options, report: Report) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drivers = [driver for peer in options.peers for driver in DRIVERS[peer]]
        commands, faults = await outside.driver_commands(drivers)
        report.faults += faults
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(postgres_process())
            cluster = await stack.enter_async_context(
                one_node_and_a_gate(folder, modules=MODULES, store=store)
            )
            running, faults = await outside.started(stack, folder, commands)
            report.faults += faults
            cpu: list[dict[str, float]] = []
            samples: Samples = {}
            for shape, (work, callers) in SHAPES.items():
                subjects = [
                    Subject(f"{OURS}, {shape}", partial(_measured, cluster, cpu, work, callers))
                ]
                for peer in running:
                    report.settings[peer.name] = peer.about
                    warmup_s = min(WARMUP_S, options.seconds)
                    run_of = partial(peer.run, callers, warmup_s, work=work)
                    name = f"{THEIRS[peer.name]}, {shape}"
                    subjects.append(Subject(name, run_of, required=False))
                samples |= await interleaved(
                    subjects, options.rounds, options.seconds, report.faults
                )
            _judge(options, samples, report)
            report.raw = {**raw(samples), "cpu_us_per_call": cpu}
            report.figures["cpu_us_per_call"] = _of_processor(cpu)


def _judge(options: Options, samples: Samples, report: Report) -> None:
    for name, runs in samples.items():
        assert all(run.calls for run in runs), name
    for peer in options.peers:
        documented, *others = DRIVERS[peer]
        report.checks += _checks(samples, documented)
        shown = [check for other in others for check in _checks(samples, other)]
        report.figures["ratios"] = {check.name: check.value for check in shown}
    calls = sum(run.all_calls for name, runs in samples.items() if OURS in name for run in runs)
    # A run whose sums are wrong has failed before; this keeps a run without peers from saying ok
    # of nothing.
    report.checks.append(Check("calls whose sums were compared", calls, 1))
    report.figures["medians"] = medians(samples)
    report.figures["transfers_per_s_until_all_has_arrived"] = {
        name: round(statistics.median(_settled_per_s(run) for run in runs))
        for name, runs in samples.items()
        if "bank" in name
    }
    report.settings["store"] = "PostgreSQL, fsync, synchronous_commit and full_page_writes on"


def _checks(samples: Samples, driver: str) -> list[Check]:
    """How many of our calls are made for each of theirs, and in what part of its median time."""
    many, one = "64 callers", "1 caller"
    theirs, found = THEIRS[driver], []
    if f"{theirs}, {many}" in samples:
        value = ratio(samples, f"{OURS}, {many}", f"{theirs}, {many}")
        found.append(Check(f"{OURS} / {theirs}, {many}", value, RATE_BOUND))
    if f"{theirs}, {one}" in samples:
        value = _latencies(samples[f"{OURS}, {one}"], samples[f"{theirs}, {one}"])
        what = f"p50 of {OURS} / {theirs}, {one}"
        found.append(Check(what, value, LATENCY_BOUND, at_most=True))
    return found


def _latencies(ours: list[Load], theirs: list[Load]) -> float:
    """Median over the rounds of one median time divided by the other's in the same round."""
    pairs = zip(ours, theirs, strict=True)
    return statistics.median(mine.p50_ms / other.p50_ms for mine, other in pairs)


def _settled_per_s(run: Load) -> float:
    return run.all_calls / (min(WARMUP_S, run.seconds) + run.seconds + run.settled_s)


def _of_processor(cpu: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Medians, by the work and the process."""
    found: dict[str, dict[str, float]] = {}
    for shape in dict.fromkeys(one["shape"] for one in cpu):
        of_shape = [one["us"] for one in cpu if one["shape"] == shape]
        found[shape] = {
            name: round(statistics.median(one[name] for one in of_shape), 1) for name in of_shape[0]
        }
    return found


async def _measured(
    cluster: ProcessCluster, cpu: list[dict[str, Any]], work: str, callers: int, seconds: float
) -> Load:
    before = cpu_seconds(cluster)
    address, warmup_s = cluster.servers["gate"].address, min(WARMUP_S, seconds)
    seen = await load("benchmarks.reliable", address, work, callers, warmup_s, seconds)
    after = cpu_seconds(cluster)
    used = {"client": seen.cpu_s, **{name: after[name] - before[name] for name in after}}
    per_call = {name: round(s / seen.all_calls * 1e6, 1) for name, s in used.items()}
    cpu.append({"shape": f"{work}, {callers} callers", "us": per_call})
    return seen


# -- the load generator


async def _generate(address: str, work: str, callers: int, warmup_s: float, seconds: float) -> None:
    works = {"counter": _counter, "bank": _bank}
    async with goverse.client.connect(address) as client:
        result = await works[work](client, callers, warmup_s, seconds)
    print(json.dumps(asdict(result)))


async def _counter(
    client: goverse.client.Client, callers: int, warmup_s: float, seconds: float
) -> Load:
    """Each caller adds to a counter of its own. Raises RuntimeError if the sum is wrong."""
    name = secrets.token_hex(8)
    numbers = iter(range(sys.maxsize))
    counters = [client.get(Counter, f"{name}-{number}") for number in range(callers)]
    result = await drive(
        lambda n: goverse.options(counters[n], call_id=f"{name}/{next(numbers)}").add(1),
        callers,
        warmup_s,
        seconds,
    )
    total = sum([await counter.get_value() for counter in counters])
    if total != result.all_calls:
        raise RuntimeError(f"{result.all_calls} calls were made, and the counters say {total}")
    return result


async def _bank(
    client: goverse.client.Client, callers: int, warmup_s: float, seconds: float
) -> Load:
    """Each caller sends from an account of its own to the next. Raises RuntimeError if money is
    lost or made."""
    name = secrets.token_hex(8)
    numbers = iter(range(sys.maxsize))

    def once(account: Account) -> Account:
        return goverse.options(account, call_id=f"{name}/{next(numbers)}")

    # The same accounts in each run: what the auditor keeps of them is written with every note.
    ids = [f"account-{number}" for number in range(callers)]
    accounts = [client.get(Account, id) for id in ids]
    total = sum([await account.get_balance() for account in accounts]) + DEPOSIT * callers
    for account in accounts:
        await once(account).deposit(DEPOSIT)
    result = await drive(
        lambda n: once(accounts[n]).transfer(ids[n - 1], 1 + n % 7),
        callers,
        warmup_s,
        seconds,
    )
    auditor = client.get(Auditor, AUDITOR)
    began = time.perf_counter()
    while True:
        differences = await auditor.audit()
        paid_in = await auditor.get_paid_in()
        balances = sum([await account.get_balance() for account in accounts])
        if not differences and balances == paid_in == total:
            return replace(result, settled_s=round(time.perf_counter() - began, 3))
        if time.perf_counter() - began > SETTLE_S:
            raise RuntimeError(f"the bank's sums are wrong after {SETTLE_S:.0f} s: {differences}")
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    _, address, work, callers, warmup, seconds = sys.argv
    uvloop.run(_generate(address, work, int(callers), float(warmup), float(seconds)))
