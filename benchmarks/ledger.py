"""The store alone, on the PostgreSQL that comes with the extra ``dev``, with fsync.

Accepts are measured in turn in a database without and in one with many finished calls.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from benchmarks.report import Check, Options, Report
from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.ids import NUM_SLOTS, Epoch, ObjectId
from goverse.storage.api import Store
from goverse.storage.postgres import PostgresStore
from goverse.storage.supervised import PostgresOptions, PostgresProcess
from goverse.storage.values import (
    Acceptance,
    CallStatus,
    Fence,
    ObjectCommit,
    Outcome,
    Payload,
    ReliableCall,
    State,
    Verdict,
)

FINISHED = 2_000_000
BOUND = 0.8
EPOCH = Epoch(1, 1)
BATCH = 64

_FILL = """
INSERT INTO goverse_reliable_calls (
    call_id, slot, seq, status, object_type, object_id, method, arguments, codec, digest,
    principal, context, parent, attempts, result, result_codec, created_at, finished_at
)
SELECT md5(n::text) || '/' || n, n %% 65536, n, 'success', 'Thing', 'o' || n %% 100000, 'add',
    '\\x81a6616d6f756e7405', 0, sha256(n::text::bytea), 'somebody', '', '', 0,
    '\\x05', 0, n, n
FROM generate_series(%s::int, %s::int) AS n
"""

_numbers = itertools.count(1)


@dataclass
class Load:
    """One store's callers: objects with their versions."""

    store: Store
    versions: dict[ObjectId, int] = field(default_factory=dict)

    def fence(self, object: ObjectId) -> Fence:
        return Fence(int(object.id), EPOCH, 1)

    async def commit(self, objects: list[ObjectId]) -> int:
        batch = [
            ObjectCommit(self.fence(o), o, self.versions.get(o, 0), State(b"\x81\xa1v\x05" * 16))
            for o in objects
        ]
        for result, object in zip(await self.store.commit(batch), objects, strict=True):
            assert result.verdict is Verdict.DONE, result
            self.versions[object] = result.version
        return len(batch)

    async def accept_and_finish(self, objects: list[ObjectId]) -> int:
        calls = [
            ReliableCall(
                f"{time.monotonic_ns()}-{next(_numbers)}", o, "add", Payload(b"\x05"), b"d" * 32
            )
            for o in objects
        ]
        accepted = await self.store.accept([Acceptance(self.fence(c.object), c) for c in calls])
        assert all(result.verdict is Verdict.DONE for result in accepted)
        batch = [
            ObjectCommit(
                self.fence(call.object),
                call.object,
                self.versions.get(call.object, 0),
                State(b"\x81\xa1v\x05"),
                (Outcome(call.call_id, CallStatus.SUCCESS, Payload(b"\x05")),),
            )
            for call in calls
        ]
        for result, call in zip(await self.store.commit(batch), calls, strict=True):
            assert result.verdict is Verdict.DONE, result
            self.versions[call.object] = result.version
        return len(calls)


def run(options: Options) -> Report:
    return asyncio.run(_run(options))


async def _run(options: Options) -> Report:
    report = Report("ledger")
    async with _server() as server:
        empty = await _database(server, "without")
        full = await _database(server, "with")
        began = time.perf_counter()
        await _fill(server, "with")
        report.figures["fill_s"] = round(time.perf_counter() - began, 1)
        await _ledger(report, options, empty, full)
        await _batches(report, options, empty)
        await _states(report, empty)
        report.figures["raise_65536_fences_s"] = await _fences(empty)
        await empty.close()
        await full.close()
    return report


@asynccontextmanager
async def _server() -> AsyncIterator[PostgresProcess]:
    folder = _folder()
    settings = ("shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=30min")
    server = PostgresProcess(PostgresOptions(folder / "data", settings=settings))
    try:
        await server.start()
        yield server
    finally:
        await server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _folder() -> Path:
    """One that the user nobody can reach."""
    folder = Path(tempfile.mkdtemp(prefix="goverse-benchmark."))
    folder.chmod(0o755)
    return folder


async def _database(server: PostgresProcess, name: str) -> Store:
    with psycopg.connect(server.url, password=server.password, autocommit=True) as session:
        session.execute(f'CREATE DATABASE "{name}"')
    settings = StorageSettings(url=server.url_of(name), password=server.password)
    store = PostgresStore(settings, Runtime())
    await store.migrate()
    await store.raise_fence(range(NUM_SLOTS), EPOCH, "benchmark", 1)
    return store


async def _fill(server: PostgresProcess, name: str) -> None:
    def fill() -> None:
        url = server.url_of(name)
        with psycopg.connect(url, password=server.password, autocommit=True) as session:
            step = 200_000
            for first in range(1, FINISHED + 1, step):
                session.execute(_FILL, (first, first + step - 1))
            session.execute("VACUUM ANALYZE goverse_reliable_calls")
            session.execute("CHECKPOINT")

    await asyncio.to_thread(fill)


async def _ledger(report: Report, options: Options, empty: Store, full: Store) -> None:
    loads = {"without": Load(empty), "with": Load(full)}
    objects = _objects(BATCH)
    rates: dict[str, list[float]] = {"without": [], "with": []}
    for load in loads.values():
        await _rate(0.5, lambda load=load: load.accept_and_finish(objects))  # type: ignore[misc]
    for number in range(options.rounds):
        # Each goes first as often as the other.
        for name in sorted(loads, reverse=bool(number % 2)):
            load = loads[name]
            rates[name].append(
                await _rate(options.seconds, lambda load=load: load.accept_and_finish(objects))  # type: ignore[misc]
            )
    report.raw["accept_and_finish"] = rates
    medians = {name: statistics.median(found) for name, found in rates.items()}
    report.figures["accepted_and_finished_per_s"] = {n: round(r) for n, r in medians.items()}
    report.checks.append(
        Check(
            f"accepts beside {FINISHED} finished calls, relative to none",
            medians["with"] / medians["without"],
            BOUND,
        )
    )


async def _batches(report: Report, options: Options, store: Store) -> None:
    load = Load(store)
    thousand = _objects(1000, first=10_000)
    batches = itertools.cycle(
        [thousand[start : start + BATCH] for start in range(0, len(thousand), BATCH)]
    )
    one = _objects(1, first=20_000)
    loads = [
        ("commits_per_s_one_by_one", 1, lambda: load.commit(one)),
        ("commits_per_s_in_batches_of_64", 1, lambda: load.commit(next(batches))),
        (
            "commits_per_s_in_batches_of_64_on_two_connections",
            2,
            lambda: load.commit(next(batches)),
        ),
    ]
    for name, lanes, work in loads:
        await _rate(0.5, work, lanes)
        rates = [await _rate(options.seconds, work, lanes) for _ in range(options.rounds)]
        report.raw[name] = rates
        report.figures[name] = round(statistics.median(rates))


async def _states(report: Report, store: Store) -> None:
    for mebibytes in (1, 10):
        object = ObjectId("Big", str(30_000 + mebibytes))
        state = State(bytes(range(256)) * (mebibytes * 4096))
        took = []
        for version in range(5):
            began = time.perf_counter()
            fence = Fence(int(object.id), EPOCH, 1)
            [result] = await store.commit([ObjectCommit(fence, object, version, state)])
            took.append(time.perf_counter() - began)
            assert result.verdict is Verdict.DONE
        report.figures[f"commit_{mebibytes}_MiB_ms"] = round(statistics.median(took) * 1000, 1)


async def _fences(store: Store) -> float:
    took = []
    for opening in range(2, 5):
        began = time.perf_counter()
        await store.raise_fence(range(NUM_SLOTS), EPOCH, "benchmark", opening)
        took.append(time.perf_counter() - began)
    return round(statistics.median(took), 3)


def _objects(count: int, first: int = 0) -> list[ObjectId]:
    return [ObjectId("Thing", str(first + n)) for n in range(count)]


async def _rate(seconds: float, work: Callable[[], Awaitable[int]], lanes: int = 1) -> float:
    """Items per second of ``lanes`` that each do one ``work`` after the other."""
    began = time.perf_counter()
    done = 0

    async def lane() -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            done += await work()

    await asyncio.gather(*(lane() for _ in range(lanes)))
    return done / (time.perf_counter() - began)
