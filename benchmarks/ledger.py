"""The store alone, on the PostgreSQL that comes with the extra ``dev``, with fsync.

Accepts are measured in turn in a database without and in one with many finished calls. After a
checkpoint PostgreSQL writes each page whole that is touched for the first time, and random call ids
touch another page of a large index with every call; so there is a slow spell of some tens of
thousands of calls after each checkpoint. It is measured by itself, and then passed.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import psycopg

from benchmarks.cluster import postgres_process
from benchmarks.report import Check, Options, Report
from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.ids import NUM_SLOTS, Epoch, ObjectId, new_token
from goverse.storage.api import Store
from goverse.storage.postgres import PostgresStore
from goverse.storage.supervised import PostgresProcess
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
SLOW_SPELL = 80_000  # calls; three times the pages of the index
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

Work = Callable[[], Awaitable[int]]

# Ids that clients choose are random, and each meets another page of the index.
_random = random.Random()


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
            ReliableCall(new_token(_random), o, "add", Payload(b"\x05"), b"d" * 32) for o in objects
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


async def run(options: Options, report: Report) -> None:
    async with postgres_process() as server:
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

    def work(load: Load) -> Work:
        return lambda: load.accept_and_finish(objects)

    await _rate(0.5, work(loads["without"]))
    await _rate(0.2, work(loads["with"]))
    after_checkpoint = await _rate(options.seconds, work(loads["with"]))
    report.figures["accepted_and_finished_per_s_just_after_a_checkpoint"] = round(after_checkpoint)
    for _ in range(SLOW_SPELL // BATCH):
        await loads["with"].accept_and_finish(objects)
    for number in range(options.rounds):
        # Each goes first as often as the other.
        for name in sorted(loads, reverse=bool(number % 2)):
            rates[name].append(await _rate(options.seconds, work(loads[name])))
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
    one = _objects(1, first=20_000)
    # Each lane has objects of its own: an object has one commit in flight.
    lanes = [_batches_of(512, 10_000), _batches_of(512, 11_000)]

    def commit_next(batches: Iterator[list[ObjectId]]) -> Work:
        return lambda: load.commit(next(batches))

    loads: list[tuple[str, list[Work]]] = [
        ("commits_per_s_one_by_one", [lambda: load.commit(one)]),
        ("commits_per_s_in_batches_of_64", [commit_next(lanes[0])]),
        ("commits_per_s_in_two_such_batches_at_once", [commit_next(lane) for lane in lanes]),
    ]
    for name, works in loads:
        await _rate(0.5, *works)
        rates = [await _rate(options.seconds, *works) for _ in range(options.rounds)]
        report.raw[name] = rates
        report.figures[name] = round(statistics.median(rates))


def _batches_of(count: int, first: int) -> Iterator[list[ObjectId]]:
    objects = _objects(count, first)
    return itertools.cycle(objects[start : start + BATCH] for start in range(0, count, BATCH))


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


async def _rate(seconds: float, *works: Work) -> float:
    """Items per second of all ``works`` at once, each done again and again."""
    began = time.perf_counter()
    done = 0

    async def lane(work: Work) -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            done += await work()

    await asyncio.gather(*map(lane, works))
    return done / (time.perf_counter() - began)
