"""Cleaning up a ledger of 1,000,000 calls of all statuses and ages, beside live calls.

What ``goverse-cli reliable-calls cleanup --older-than 30d --dry-run`` counts is compared with SQL,
and the tables before and after it with each other. The real run is stopped in each round, and
repeated until it is done; then what is gone is compared with what SQL had named. In each round the
99th percentile of live reliable calls is measured without a cleanup, and then beside one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.cluster import one_node_and_a_gate, postgres_process
from benchmarks.load import Load
from benchmarks.processes import kill, load, start
from benchmarks.report import Check, Options, Report
from goverse.storage.supervised import PostgresProcess
from goverse.testing.processes import ProcessCluster

CALLS = 1_000_000
BOUND = 3.0
CALLERS = 16
WARMUP_S = 0.5
MODULES = ("benchmarks.durable_objects",)
OLDER_THAN = "30d"

_DAY_US = 86_400_000_000

# Ages are halves of days, so that none comes of age meanwhile. One in 50 is live, whatever its age,
# of a type that nobody hosts and in no node's memory: the shards are open already.
_FILL = f"""
INSERT INTO goverse_reliable_calls (
    call_id, slot, seq, status, object_type, object_id, method, arguments, codec, digest,
    principal, context, parent, attempts, run_at, catch_up, result, result_codec, reason,
    created_at, finished_at
)
SELECT md5(n::text) || '/' || n, n %% 65536, n, s.status, 'Ghost', 'o' || n %% 1000, 'add',
    '\\x81a6616d6f756e7405', 0, sha256(n::text::bytea), 'somebody', '', '', 0,
    CASE WHEN s.status = 'delayed' THEN %(now)s + 365 * {_DAY_US}::int8 END,
    CASE WHEN s.status = 'delayed' THEN 'one' END,
    CASE WHEN s.status IN ('success', 'failed') THEN '\\x05'::bytea END,
    CASE WHEN s.status IN ('success', 'failed') THEN 0 END, '',
    %(now)s - (n %% 60) * {_DAY_US}::int8 - {_DAY_US // 2} - 1000000,
    CASE WHEN s.status IN ('success', 'failed', 'skipped')
        THEN %(now)s - (n %% 60) * {_DAY_US}::int8 - {_DAY_US // 2} END
FROM generate_series(%(first)s::int, %(last)s::int) AS n, LATERAL (SELECT CASE
    WHEN n %% 150 = 0 THEN 'pending' WHEN n %% 150 = 50 THEN 'parked'
    WHEN n %% 150 = 100 THEN 'delayed' WHEN n %% 7 = 0 THEN 'failed'
    WHEN n %% 11 = 0 THEN 'skipped' ELSE 'success' END AS status) AS s
"""
# Some deliveries still stand, aside.
_OUTBOX = """
INSERT INTO goverse_outbox (
    call_id, slot, position, sender_type, sender_id, object_type, object_id, method, arguments,
    codec, digest, principal, context, parent, parked, created_at
)
SELECT call_id, slot, seq, 'Ghost', 'o', object_type, object_id, method, arguments, codec, digest,
    principal, context, parent, 'refused', created_at
FROM goverse_reliable_calls WHERE object_type = 'Ghost' AND seq %% 1009 = 0
"""
_OLD = """
SELECT call_id, status FROM goverse_reliable_calls c
WHERE status IN ('success', 'failed', 'skipped')
  AND finished_at < extract(epoch FROM now() - interval '30 days') * 1000000
  AND NOT EXISTS (SELECT FROM goverse_outbox o WHERE o.call_id = c.call_id)
"""
#: The ids that were filled in, and what is in their rows.
_SUM = """
SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {} t WHERE object_type = 'Ghost'
"""


@dataclass(frozen=True)
class Size:
    """:param options: further ones of the command that live calls are measured beside."""

    calls: int
    callers: int
    options: tuple[str, ...] = ()


async def run(options: Options, report: Report) -> None:
    await measure(options, report, Size(CALLS, CALLERS))


async def measure(options: Options, report: Report, size: Size) -> None:
    with tempfile.TemporaryDirectory() as name:
        async with postgres_process() as server:
            async with one_node_and_a_gate(Path(name), modules=MODULES, store=server) as cluster:
                await _measured(options, report, size, server, cluster)


async def _measured(
    options: Options,
    report: Report,
    size: Size,
    server: PostgresProcess,
    cluster: ProcessCluster,
) -> None:
    ledger = _Ledger(server)
    await asyncio.to_thread(ledger.fill, size.calls)
    before = await asyncio.to_thread(ledger.sums)
    began = time.perf_counter()
    counted = json.loads(await _cleanup(server, ["--dry-run", "-o", "json"]))
    report.figures["dry_run_s"] = round(time.perf_counter() - began, 2)
    unchanged = await asyncio.to_thread(ledger.sums) == before
    wanted = await asyncio.to_thread(ledger.name_what_is_old)
    same = counted["by_status"] == wanted
    report.figures["to_be_deleted"] = counted["by_status"] | {"spared": counted["spared"]}
    report.checks += [
        Check("a dry run counts what SQL counts", float(same), 1.0),
        Check("a dry run leaves the tables as they are", float(unchanged), 1.0),
    ]
    ratios, runs = [], []
    for number in range(options.rounds):
        alone = await _load(cluster, size, options.seconds)
        beside, deleted = await _beside_a_cleanup(cluster, server, size, options.seconds)
        ratios.append(beside.p99_ms / alone.p99_ms)
        runs.append({"alone_p99_ms": alone.p99_ms, "beside_p99_ms": beside.p99_ms,
                     "alone_per_s": alone.per_second, "beside_per_s": beside.per_second,
                     "deleted": deleted})  # fmt: skip
        print(f"round {number + 1}: p99 {alone.p99_ms} ms alone, {beside.p99_ms} ms beside a "
              f"cleanup, {deleted} calls deleted so far", file=sys.stderr, flush=True)  # fmt: skip
    report.raw["rounds"] = runs
    report.figures["p99_ratios"] = [round(one, 3) for one in ratios]
    report.checks.append(
        Check(
            "p99 of live calls during a cleanup / before",
            statistics.median(ratios),
            BOUND,
            at_most=True,
        )
    )
    began = time.perf_counter()
    rest = json.loads(await _cleanup(server, ["--yes", "-o", "json"]))
    report.figures["deleted_per_s_without_load"] = round(
        rest["deleted"] / (time.perf_counter() - began)
    )
    left, gone = await asyncio.to_thread(ledger.compare)
    report.figures["left_of_what_was_to_go"], report.figures["gone_of_the_others"] = left, gone
    report.checks += [
        Check("calls that were to be deleted and are there", left, 0, at_most=True),
        Check("other calls that are gone", gone, 0, at_most=True),
        Check("deleted by the last run", rest["deleted"], 1),
    ]


async def _load(cluster: ProcessCluster, size: Size, seconds: float) -> Load:
    address = cluster.servers["gate"].address
    return await load("benchmarks.reliable", address, "counter", size.callers, WARMUP_S, seconds)


async def _beside_a_cleanup(
    cluster: ProcessCluster, server: PostgresProcess, size: Size, seconds: float
) -> tuple[Load, int]:
    """What calls see while calls are deleted, and how many are deleted then. Raises RuntimeError if
    the cleanup did not last."""
    with tempfile.NamedTemporaryFile() as log:
        process = await start(_command(server, ["--yes", *size.options]), Path(log.name))
        try:
            while b"begun" not in Path(log.name).read_bytes():
                if process.returncode is not None:
                    raise RuntimeError(f"the cleanup ended: {Path(log.name).read_text()[-500:]}")
                await asyncio.sleep(0.05)
            seen = await _load(cluster, size, seconds)
            if process.returncode is not None:
                raise RuntimeError("the cleanup was over before the calls were")
            process.send_signal(signal.SIGINT)
            await process.wait()
        finally:
            await kill(process)
        said = Path(log.name).read_text()
    if process.returncode != 130:
        raise RuntimeError(f"the cleanup ended with status {process.returncode}: {said[-500:]}")
    return seen, int(said.rpartition("stopped, ")[2].split()[0])


def _command(server: PostgresProcess, arguments: Sequence[str]) -> list[str]:
    common = ("--older-than", OLDER_THAN, "--url", server.url, "--timeout", "60s")
    # The password is in the environment, as an operator's would be.
    os.environ["GOVERSE_POSTGRES_PASSWORD"] = server.password
    return [
        sys.executable, "-m", "goverse_cli", "reliable-calls", "cleanup", *common, *arguments,
    ]  # fmt: skip


async def _cleanup(server: PostgresProcess, arguments: Sequence[str]) -> bytes:
    process = await start(_command(server, arguments), None)
    try:
        out, _ = await process.communicate()
    finally:
        await kill(process)
    if process.returncode != 0:
        raise RuntimeError(f"cleanup failed with status {process.returncode}")
    return out


class _Ledger:
    """The tables, as SQL sees them."""

    def __init__(self, server: PostgresProcess) -> None:
        self._server = server

    def _ask(self, *statements: str) -> list[tuple[Any, ...]]:
        server = self._server
        with psycopg.connect(server.url, password=server.password, autocommit=True) as session:
            for statement in statements[:-1]:
                session.execute(statement.encode())
            cursor = session.execute(statements[-1].encode())
            return cursor.fetchall() if cursor.description else []

    def fill(self, calls: int) -> None:
        server, step = self._server, 100_000
        now = int(time.time() * 1_000_000)
        with psycopg.connect(server.url, password=server.password, autocommit=True) as session:
            for first in range(1, calls + 1, step):
                last = min(first + step - 1, calls)
                session.execute(_FILL.encode(), {"now": now, "first": first, "last": last})
        self._ask(
            _OUTBOX.replace("%%", "%"),
            "VACUUM ANALYZE goverse_reliable_calls",
            "VACUUM ANALYZE goverse_outbox",
            "CHECKPOINT",
        )

    def sums(self) -> list[tuple[Any, ...]]:
        tables = ("goverse_reliable_calls", "goverse_outbox")
        return [self._ask(_SUM.format(table))[0] for table in tables]

    def name_what_is_old(self) -> dict[str, int]:
        """Keep the ids; how many there are of each status."""
        counts = self._ask(
            f"CREATE TABLE expected AS {_OLD}",
            "CREATE TABLE others AS SELECT call_id FROM goverse_reliable_calls c "
            "WHERE object_type = 'Ghost' AND NOT EXISTS "
            "(SELECT FROM expected e WHERE e.call_id = c.call_id)",
            "ANALYZE expected",
            "ANALYZE others",
            "SELECT status, count(*) FROM expected GROUP BY status",
        )
        return {"success": 0, "failed": 0, "skipped": 0} | dict(counts)

    def compare(self) -> tuple[int, int]:
        """How many of those that were to go are there, and how many of the others are not."""
        [[left]] = self._ask(
            "SELECT count(*) FROM expected JOIN goverse_reliable_calls USING (call_id)"
        )
        [[gone]] = self._ask(
            "SELECT count(*) FROM others o WHERE NOT EXISTS "
            "(SELECT FROM goverse_reliable_calls c WHERE c.call_id = o.call_id)"
        )
        return int(left), int(gone)
