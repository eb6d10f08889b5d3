"""Delayed calls that are due while nodes are killed and shards move: each runs once, and in time.

Three nodes, a gate, etcd and PostgreSQL. Calls are spread over the length of the run, 333 a second;
two nodes are killed and started again, and ten shards are moved by pins meanwhile. Beside them
repeated calls tick, of which each tick is to be run. Lateness is from the time that a call was
accepted for to the begin of its turn; calls that were due within a failover (lease TTL + 2 s from a
kill) are told apart.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Container, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

import goverse
import goverse.client
from benchmarks.cluster import etcd_process, postgres_process, socket_url
from benchmarks.delayed_objects import Diary
from benchmarks.report import Check, Options, Report
from goverse.aio.runtime import Runtime
from goverse.client import Client
from goverse.config.settings import StorageSettings
from goverse.sharding.placement import shard_of
from goverse.storage.postgres import PostgresStore
from goverse.storage.supervised import PostgresProcess
from goverse.testing.processes import ProcessCluster, process_cluster

NODES = ("node-1", "node-2", "node-3")
NUM_SHARDS = 64
OBJECTS = 500
CALLS_PER_S = 20_000 / 60
REMINDERS = 20
PERIOD_S = 0.5
MOVES = 10
LEASE_TTL_S = 3.0
FAILOVER_S = LEASE_TTL_S + 2.0
UNDER_WAY_S = 0.5
#: When nodes are killed, as parts of the run, and how long they are away. A run that is too short
#: for both kills one, and moves fewer shards.
KILLS = (0.25, 0.6)
LONG_S = 30.0
FEW_MOVES = 3
AWAY_S = 4.0
#: Before the first call is due: for scheduling them.
LEAD_S = 4.0
SCHEDULERS = 64
DRAINED_S = 60.0
P99_S = 1.0


@dataclass(frozen=True)
class Window:
    """A failover: what is due in it may be late, and what was due just before it, as that may not
    have been committed."""

    since: float
    until: float


@dataclass
class Scene:
    cluster: ProcessCluster
    client: Client
    store: PostgresProcess
    windows: list[Window]
    moved: int = 0

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.store.url, password=self.store.password) as session:
            return session.execute(statement.encode()).fetchall()


async def run(options: Options, report: Report) -> None:
    calls = round(options.seconds * CALLS_PER_S)
    report.settings = {
        "nodes": len(NODES),
        "shards": NUM_SHARDS,
        "objects": OBJECTS,
        "calls": calls,
        "seconds": options.seconds,
        "reminders": REMINDERS,
        "period_s": PERIOD_S,
        "moves": _moves(options.seconds),
        "kills": len(_kills(options.seconds)),
        "lease_ttl_s": LEASE_TTL_S,
    }
    for _ in range(options.rounds):
        async with _scene() as scene:
            await _round(scene, calls, options.seconds, report)


@asynccontextmanager
async def _scene() -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = await stack.enter_async_context(postgres_process())
        settings = StorageSettings(url=socket_url(store), password=store.password)
        prepared = PostgresStore(settings, Runtime())
        await prepared.migrate()
        await prepared.close()
        etcd = await stack.enter_async_context(etcd_process(folder))
        cluster = await stack.enter_async_context(
            process_cluster(
                etcd.endpoint,
                folder,
                modules=("benchmarks.delayed_objects",),
                environment={
                    "GOVERSE_NUM_SHARDS": str(NUM_SHARDS),
                    "GOVERSE_CLUSTER__LEASE_TTL": f"{LEASE_TTL_S:g}s",
                    "GOVERSE_CLUSTER__STABILITY_DURATION": "500ms",
                    "GOVERSE_STORAGE__URL": socket_url(store),
                    "GOVERSE_STORAGE__PASSWORD": store.password,
                },
            )
        )
        for name in NODES:
            await cluster.start_node(name)
        await cluster.start_gate("gate")
        await cluster.wait_ready()
        client = await stack.enter_async_context(
            goverse.client.connect(cluster.servers["gate"].address)
        )
        yield Scene(cluster, client, store, [])


async def _round(scene: Scene, calls: int, seconds: float, report: Report) -> None:
    begin = time.time() + max(LEAD_S, calls / 1500)
    scheduled = await _schedule(scene.client, calls, begin, seconds)
    if time.time() > begin:
        report.faults.append(f"scheduling took {time.time() - begin:.1f} s too long")
    disturbing = [
        asyncio.create_task(_kill(scene, name, begin + part * seconds))
        for name, part in zip(NODES, _kills(seconds), strict=False)
    ]
    disturbing.append(asyncio.create_task(_move(scene, begin, seconds)))
    await asyncio.sleep(begin + seconds - time.time())
    await asyncio.gather(*disturbing)
    await _drained(scene)
    await _stop_reminders(scene)
    await _judge(scene, scheduled, report, _moves(seconds))


def _kills(seconds: float) -> tuple[float, ...]:
    return KILLS if seconds >= LONG_S else KILLS[:1]


def _moves(seconds: float) -> int:
    return MOVES if seconds >= LONG_S else FEW_MOVES


async def _schedule(
    client: Client, calls: int, begin: float, seconds: float
) -> dict[int, tuple[str, float]]:
    """Have all calls accepted; call id and time by number."""
    found: dict[int, tuple[str, float]] = {}
    numbers = iter(range(calls))

    async def some() -> None:
        for number in numbers:
            run_at = begin + seconds * number / calls
            diary = client.get(Diary, f"diary-{number % OBJECTS}")
            ref = goverse.options(diary, call_id=f"delayed-{number}")
            found[number] = (await client.schedule(ref.write(number=number), run_at=run_at), run_at)

    reminders = [
        client.schedule(
            goverse.options(_reminded(client, number), call_id=f"reminder-{number}").tick(),
            run_at=begin,
            every_s=PERIOD_S,
            catch_up="each",
        )
        for number in range(REMINDERS)
    ]
    await asyncio.gather(*(some() for _ in range(SCHEDULERS)), *reminders)
    return found


def _reminded(client: Client, number: int) -> Diary:
    return client.get(Diary, f"reminded-{number}")


async def _kill(scene: Scene, name: str, at: float) -> None:
    await asyncio.sleep(max(0.0, at - time.time()))
    killed_at = time.time()
    await scene.cluster.kill(name)
    scene.windows.append(Window(killed_at - UNDER_WAY_S, killed_at + FAILOVER_S))
    print(f"killed {name}", file=sys.stderr, flush=True)
    await asyncio.sleep(AWAY_S)
    await scene.cluster.start_node(name)


async def _move(scene: Scene, begin: float, seconds: float) -> None:
    """Pin one shard after the other to a node that does not have it."""
    shards = list(dict.fromkeys(shard_of(f"diary-{n}", NUM_SHARDS) for n in range(OBJECTS)))
    moves = _moves(seconds)
    for move in range(moves):
        await asyncio.sleep(max(0.0, begin + seconds * (move + 0.5) / moves - time.time()))
        shard = shards[move]
        owner = (await scene.cluster.admin("shard", "get", str(shard)))["owner"]
        joined = [node["name"] for node in await scene.cluster.admin("node", "list")]
        to = another(owner, joined, scene.cluster.servers)
        await scene.cluster.admin("shard", "pin", str(shard), "--node", to)
        async with asyncio.timeout(DRAINED_S):
            while (await scene.cluster.admin("shard", "get", str(shard)))["owner"] != to:
                await asyncio.sleep(0.1)
        scene.moved += 1


def another(owner: str, joined: Iterable[str], running: Container[str]) -> str:
    """A node to move to: one that was killed stays in the cluster until its lease ends, and one
    that was started again is not in it at once."""
    return next(name for name in joined if name != owner and name in running)


async def _drained(scene: Scene) -> None:
    """Wait until nothing that runs once is unfinished. Raises RuntimeError."""
    statement = (
        "SELECT status, count(*) FROM goverse_reliable_calls "
        "WHERE call_id LIKE 'delayed-%' AND finished_at IS NULL GROUP BY status"
    )
    until = time.monotonic() + DRAINED_S
    while left := dict(scene.rows(statement)):
        if time.monotonic() > until:
            raise RuntimeError(f"unfinished after {DRAINED_S:g} s: {left}")
        await asyncio.sleep(0.2)


async def _stop_reminders(scene: Scene) -> None:
    for number in range(REMINDERS):
        await scene.client.cancel(_reminded(scene.client, number), f"reminder-{number}")


async def _judge(
    scene: Scene, scheduled: dict[int, tuple[str, float]], report: Report, moves: int
) -> None:
    statuses = dict(
        scene.rows(
            "SELECT status, count(*) FROM goverse_reliable_calls "
            "WHERE call_id LIKE 'delayed-%' GROUP BY status"
        )
    )
    diaries = await asyncio.gather(
        *(scene.client.get(Diary, f"diary-{number}").read() for number in range(OBJECTS))
    )
    ran = Counter(number for diary in diaries for number, _ in diary)
    began = {number: at for diary in diaries for number, at in diary}
    late = {
        number: began[number] - run_at
        for number, (_, run_at) in scheduled.items()
        if number in began
    }
    calm = [
        seconds
        for number, seconds in late.items()
        if not any(w.since <= scheduled[number][1] <= w.until for w in scene.windows)
    ]
    wrong_ticks = await _wrong_ticks(scene)
    checks = report.checks
    checks.append(Check("calls that did not run", len(scheduled) - len(ran), 0, True))
    checks.append(Check("calls that ran twice", sum(n > 1 for n in ran.values()), 0, True))
    not_finished = len(scheduled) - int(str(statuses.get("success", 0)))
    checks.append(Check("calls without success in the ledger", not_finished, 0, True))
    checks.append(Check("parked calls", int(str(statuses.get("parked", 0))), 0, True))
    checks.append(Check("calls that ran early", sum(s < 0 for s in late.values()), 0, True))
    checks.append(Check("reminders whose ticks were lost or doubled", wrong_ticks, 0, True))
    checks.append(Check("planned moves", scene.moved, moves))
    checks.append(Check("lateness outside failovers, p99, s", _p99(calm), P99_S, True))
    report.figures = {
        "lateness_s": _told(list(late.values())),
        "outside_failovers_s": _told(calm),
        "due_in_failovers": len(late) - len(calm),
        "most_attempts": scene.rows("SELECT max(attempts) FROM goverse_reliable_calls")[0][0],
    }
    report.raw.setdefault("lateness", []).append([round(s, 4) for s in late.values()])


async def _wrong_ticks(scene: Scene) -> int:
    """A reminder has ticked as often as its time was set on: the cancelled tick did not run, or
    was the last one."""
    wrong = 0
    rows = scene.rows(
        "SELECT call_id, run_at, created_at, status FROM goverse_reliable_calls "
        "WHERE call_id LIKE 'reminder-%'"
    )
    first = min(
        int(str(row[1]))
        for row in scene.rows(
            "SELECT call_id, run_at FROM goverse_reliable_calls WHERE call_id = 'delayed-0'"
        )
    )
    for call_id, run_at, _, status in rows:
        number = int(str(call_id).rpartition("-")[2])
        ticked = await _reminded(scene.client, number).ticked()
        passed = round((int(str(run_at)) - first) / 1_000_000 / PERIOD_S)
        wrong += ticked != passed + (status != "skipped")
    return wrong


def _p99(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98] if len(seconds) > 1 else float("nan")


def _told(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "calls": len(seconds),
        "p50": round(statistics.median(seconds), 4),
        "p99": round(_p99(seconds), 4),
        "max": round(max(seconds), 4),
    }
