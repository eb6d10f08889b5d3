"""Calls of durable objects, acknowledged once they are committed, through gate and node.

Measured beside the same calls of volatile objects, and beside bare commits: psycopg in pipeline
mode with the same rows and nothing else to do, on one connection in batches of 64, and with the
connections and the batches that the node had.

``python -m benchmarks.durable ADDRESS WORK CALLERS WARMUP SECONDS`` is the load generator, and
``python -m benchmarks.durable commits URL CONNECTIONS BATCH WARMUP SECONDS`` the bare commits; the
password is in the environment.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import statistics
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import uvloop

import goverse.client
from benchmarks.cluster import cpu_seconds, one_node_and_a_gate, postgres_process, socket_url
from benchmarks.durable_objects import Counter, Large
from benchmarks.load import Load, drive
from benchmarks.objects import Small
from benchmarks.processes import load
from benchmarks.report import Check, Options, Report
from benchmarks.rounds import Samples, Subject, interleaved, medians, ratio, raw
from goverse.config.settings import StorageSettings
from goverse.storage.supervised import PostgresProcess
from goverse.testing.processes import ProcessCluster, http_get

OBJECTS = 1000
#: One for each object.
CALLERS = OBJECTS
WARMUP_S = 1.0
CONNECTIONS = StorageSettings().max_connections
PASSWORD = "GOVERSE_BENCHMARK_PASSWORD"

VOLATILE = "volatile objects"
DURABLE = "durable objects"
ONE = "one durable object"
BARE = "bare commits"
BARE_BATCH = 64
#: All that PostgreSQL and psycopg can do here, with nobody else on the machine.
LIMIT = f"bare commits, {CONNECTIONS} connections"

#: Bytes of state, by how they are called.
STATES = {"1 KiB": 1024, "64 KiB": 64 * 1024, "1 MiB": 1024 * 1024}
#: Callers, of objects of their own: as many as a MiB each lets the store take at once.
STATE_CALLERS = 8


async def run(options: Options, report: Report) -> None:
    with tempfile.TemporaryDirectory() as name:
        async with (
            postgres_process() as store,
            one_node_and_a_gate(
                Path(name), modules=("benchmarks.durable_objects",), store=store
            ) as cluster,
        ):
            os.environ[PASSWORD] = store.password
            batches: list[float] = []
            cpu: list[dict[str, Any]] = []
            ours = partial(_measured, cluster, cpu, batches)
            # The limit takes its batch from a run before it.
            await ours("durable", options.seconds)
            subjects = [
                Subject(VOLATILE, partial(ours, "volatile")),
                Subject(DURABLE, partial(ours, "durable")),
                Subject(ONE, partial(ours, "one")),
                Subject(BARE, partial(_bare, store, 1, [BARE_BATCH])),
                Subject(LIMIT, partial(_bare, store, CONNECTIONS, batches)),
            ]
            samples = await interleaved(subjects, options.rounds, options.seconds, report.faults)
            _judge(samples, report)
            report.figures["objects_per_commit"] = round(statistics.median(batches), 1)
            report.figures["cpu_us_per_call"] = _of_processor(cpu)
            report.figures["states"] = await _states(cluster, options)
            report.raw = {**raw(samples), "cpu_us_per_call": cpu, "objects_per_commit": batches}
            report.settings |= {"callers": CALLERS, "connections": CONNECTIONS}


def _judge(samples: Samples, report: Report) -> None:
    for ours, other, bound in (
        (DURABLE, VOLATILE, 0.3),
        (DURABLE, BARE, 0.4),
        (ONE, DURABLE, 0.3),
    ):
        report.checks.append(Check(f"{ours} / {other}", ratio(samples, ours, other), bound))
    report.figures["ratios"] = {f"{DURABLE} / {LIMIT}": ratio(samples, DURABLE, LIMIT)}
    report.figures["medians"] = medians(samples)


def _of_processor(cpu: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for work in dict.fromkeys(one["work"] for one in cpu):
        of_work = [one["us"] for one in cpu if one["work"] == work]
        found[work] = {
            name: round(statistics.median(one[name] for one in of_work), 1) for name in of_work[0]
        }
    return found


async def _measured(
    cluster: ProcessCluster,
    cpu: list[dict[str, Any]],
    batches: list[float],
    work: str,
    seconds: float,
) -> Load:
    """One run of ours; with the mean size of a commit's batch, if objects are durable."""
    before, commits_before = cpu_seconds(cluster), await _commits(cluster)
    address, warmup_s = cluster.servers["gate"].address, min(WARMUP_S, seconds)
    seen = await load("benchmarks.durable", address, work, CALLERS, warmup_s, seconds)
    after, commits_after = cpu_seconds(cluster), await _commits(cluster)
    used = {"client": seen.cpu_s, **{name: after[name] - before[name] for name in after}}
    us = {name: round(s / seen.all_calls * 1e6, 1) for name, s in used.items()}
    cpu.append({"work": work, "us": us})
    if work == "durable":
        commits, objects = (b - a for a, b in zip(commits_before, commits_after, strict=True))
        batches.append(objects / commits)
    return seen


_COMMITS = re.compile(
    r'^goverse_store_operation_duration_seconds_count\{operation="commit",status="ok"\} (\S+)',
    re.MULTILINE,
)
_OBJECTS = re.compile(r"^goverse_committed_objects_total(?:\{[^}]*\})? (\S+)", re.MULTILINE)


async def _commits(cluster: ProcessCluster) -> tuple[float, float]:
    """Transactions of the node so far, and objects committed by them."""
    _, text = await http_get(cluster.servers["node"].ops_address, "/metrics")
    found = (_COMMITS.search(text), _OBJECTS.search(text))
    commits, objects = (float(match.group(1)) if match else 0.0 for match in found)
    return commits, objects


async def _bare(
    store: PostgresProcess, connections: int, batches: list[float], seconds: float
) -> Load:
    """:param batches: transactions have as many updates as the median of these says."""
    batch = max(1, round(statistics.median(batches)))
    arguments = ("commits", socket_url(store), connections, batch, min(WARMUP_S, seconds), seconds)
    return await load("benchmarks.durable", *arguments)


async def _states(cluster: ProcessCluster, options: Options) -> dict[str, dict[str, float]]:
    """What a call costs whose state has so many bytes, and is written whole."""
    found: dict[str, dict[str, float]] = {}
    for name, size in STATES.items():
        address = cluster.servers["gate"].address
        work = f"state-{size}"
        shape = (STATE_CALLERS, min(WARMUP_S, options.seconds), options.seconds)
        runs = [
            await load("benchmarks.durable", address, work, *shape) for _ in range(options.rounds)
        ]
        per_s = statistics.median(one.per_second for one in runs)
        found[name] = {
            "calls_per_s": round(per_s, 1),
            "MiB_per_s": round(per_s * size / 1024 / 1024, 1),
            "p50_ms": statistics.median(one.p50_ms for one in runs),
            "p99_ms": statistics.median(one.p99_ms for one in runs),
        }
        print(f"states of {name}: {found[name]}", file=sys.stderr)
    return found


# -- the load generator


async def _generate(address: str, work: str, callers: int, warmup_s: float, seconds: float) -> Load:
    name = secrets.token_hex(8)
    async with goverse.client.connect(address) as client:
        if work.startswith("state-"):
            large = [client.get(Large, f"{name}-{number}") for number in range(callers)]
            for one in large:
                await one.fill(int(work.removeprefix("state-")))
            return await drive(lambda n: large[n].touch(), callers, warmup_s, seconds)
        if work == "volatile":
            small = [client.get(Small, f"{name}-{number}") for number in range(callers)]
            return await drive(lambda n: small[n].add(1), callers, warmup_s, seconds)
        count = 1 if work == "one" else callers
        counters = [client.get(Counter, f"{name}-{number}") for number in range(count)]
        result = await drive(lambda n: counters[n % count].add(1), callers, warmup_s, seconds)
        total = sum([await counter.get_value() for counter in counters])
        if total != result.all_calls:
            raise RuntimeError(f"{result.all_calls} calls were made, the counters say {total}")
        return result


# -- bare commits

_TABLE = """
CREATE TABLE IF NOT EXISTS benchmark_objects (
    object_type text COLLATE "C", object_id text COLLATE "C", slot integer NOT NULL,
    version bigint NOT NULL, state bytea, updated_at bigint NOT NULL,
    PRIMARY KEY (object_type, object_id)
);
INSERT INTO benchmark_objects
SELECT 'Counter', 'bare-' || n, n, 1, '\\x81a576616c756501', 0 FROM generate_series(0, 999) AS n
ON CONFLICT DO NOTHING
"""

_UPDATE = """
UPDATE benchmark_objects SET version = version + 1, state = %b, updated_at = %s
WHERE object_type = 'Counter' AND object_id = %s
"""


async def _bare_commits(
    url: str, connections: int, batch: int, warmup_s: float, seconds: float
) -> Load:
    """Each connection commits the states of a batch of objects of its own, again and again."""
    sessions = [
        await psycopg.AsyncConnection.connect(
            url, password=os.environ[PASSWORD], autocommit=True, prepare_threshold=1
        )
        for _ in range(connections)
    ]
    await sessions[0].execute(_TABLE)
    each = OBJECTS // connections
    size = min(batch, each)
    state = b"\x81\xa5value\xcd\x12\x34"
    starts = [0] * connections

    async def commit(number: int) -> None:
        session, start = sessions[number], starts[number]
        starts[number] = (start + size) % (each - size + 1)
        rows = [(state, 0, f"bare-{number * each + start + n}") for n in range(size)]
        # One transaction, and one journey there and back, as executemany sends a pipeline.
        async with session.pipeline(), session.transaction():
            await session.cursor().executemany(_UPDATE, rows)

    result = await drive(commit, connections, warmup_s, seconds)
    for session in sessions:
        await session.close()
    # What is compared is objects, not transactions.
    return Load(
        result.calls * size,
        result.seconds,
        result.p50_ms,
        result.p99_ms,
        result.all_calls * size,
        result.cpu_s,
    )


async def _main(first: str, *rest: str) -> None:
    if first == "commits":
        url, connections, batch, warmup, seconds = rest
        result = await _bare_commits(
            url, int(connections), int(batch), float(warmup), float(seconds)
        )
    else:
        work, callers, warmup, seconds = rest
        result = await _generate(first, work, int(callers), float(warmup), float(seconds))
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
