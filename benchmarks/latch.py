"""What callers of one shard see while a writer comes each second, at four levels of contention.

One catalog, without network: its shard is closed and opened under the next epoch as a move does it,
by callers' own process, so that what is measured is the latch and nothing else. Every caller has an
object of its own, whose method gives way once. A call that finds the shard closed is made again, as
a router does, and its time counts from the first attempt. Beside it the same without a writer.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from dataclasses import asdict, dataclass

import goverse
from benchmarks.report import Check, Options, Report
from goverse.aio.runtime import Runtime
from goverse.call import Call, Reply
from goverse.config.settings import LimitSettings, ObjectSettings
from goverse.errors import GoverseError, NotOwner
from goverse.ids import Epoch
from goverse.objects import Catalog, Registry

LEVELS = (1, 16, 128, 1_024)
WRITER_EVERY_S = 1.0
DRAIN_S = 2.0
SHARD = 0


class Held(goverse.Object):
    """Gives way once in each turn, so that its shard is held for a while."""

    value: int = 0

    @goverse.method
    async def add(self) -> int:
        await asyncio.sleep(0)
        self.value += 1
        return self.value


@dataclass(frozen=True)
class Level:
    """One run.

    :param waits_ms: the longest wait of a writer for the turns that ran.
    :param moves: how often the shard was closed and opened.
    """

    callers: int
    writer: bool
    calls: int
    failed: int
    per_s: float
    p50_ms: float
    p99_ms: float
    longest_ms: float
    moves: int
    called_off: int
    waits_ms: float


class _Facts:
    node_name = "n1"

    def lease_valid(self) -> bool:
        return True

    def shard_of(self, id: str) -> int:
        return SHARD


class _Nobody:
    async def invoke(self, call: Call) -> Reply:
        raise NotImplementedError


class _Waits:
    """A `goverse.objects.latch.LatchObserver`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.called_off = 0

    def acquired(self, purpose: str, outcome: str, seconds: float) -> None:
        if purpose != "open":
            self.seconds.append(seconds)
            self.called_off += outcome == "called_off"

    def removed(self, how: str) -> None:
        self.called_off += 1


async def run(options: Options, report: Report) -> None:
    report.settings = {"levels": list(LEVELS), "writer_every_s": WRITER_EVERY_S}
    seconds = max(options.seconds, 2.5 * WRITER_EVERY_S)
    found: dict[tuple[int, bool], list[Level]] = {}
    for _ in range(options.rounds):
        for callers in LEVELS:
            for writer in (False, True):
                level = await _level(callers, seconds, writer=writer)
                found.setdefault((callers, writer), []).append(level)
                print(level, file=sys.stderr, flush=True)
    report.raw["levels"] = [asdict(level) for levels in found.values() for level in levels]
    for (callers, writer), levels in found.items():
        name = f"{callers} callers" + (", a writer each second" if writer else "")
        report.figures[name] = {
            field: round(statistics.median(getattr(level, field) for level in levels), 4)
            for field in ("per_s", "p50_ms", "p99_ms", "longest_ms", "waits_ms", "moves")
        }
    everything = [level for levels in found.values() for level in levels]
    failed = sum(level.failed for level in everything)
    called_off = sum(level.called_off for level in everything)
    moves = min(level.moves for level in everything if level.writer)
    report.checks += [
        Check("failed calls", failed, 0, at_most=True),
        Check("writers called off, or turns removed", called_off, 0, at_most=True),
        Check("moves of a run", moves, 2),
    ]


async def _level(callers: int, seconds: float, *, writer: bool) -> Level:
    registry, waits = Registry(), _Waits()
    registry.add(Held)
    catalog = Catalog(
        registry,
        _Facts(),
        _Nobody(),
        ObjectSettings(),
        LimitSettings(),
        Runtime(),
        latch_observer=waits,
    )
    await catalog.shards.open_shard(SHARD, Epoch(1, 1))
    until = time.perf_counter() + seconds
    took: list[float] = []
    failed = [0]
    tasks = [
        asyncio.create_task(_caller(catalog, f"o{number}", until, took, failed))
        for number in range(callers)
    ]
    moves = await _writer(catalog, until) if writer else 0
    await asyncio.gather(*tasks)
    await catalog.stop(1.0)
    took.sort()
    return Level(
        callers=callers,
        writer=writer,
        calls=len(took),
        failed=failed[0],
        per_s=len(took) / seconds,
        p50_ms=1000 * took[len(took) // 2],
        p99_ms=1000 * took[len(took) * 99 // 100],
        longest_ms=1000 * took[-1],
        moves=moves,
        called_off=waits.called_off,
        waits_ms=1000 * max(waits.seconds[:moves], default=0.0),
    )


async def _caller(
    catalog: Catalog, id: str, until: float, took: list[float], failed: list[int]
) -> None:
    loop = asyncio.get_running_loop()
    while (began := time.perf_counter()) < until:
        call = Call("Held", id, "add", b"", loop.time() + 30.0)
        while True:
            try:
                await asyncio.create_task(catalog.invoke(call))
            except NotOwner:
                await asyncio.sleep(0)
                continue
            except GoverseError:
                failed[0] += 1
            break
        took.append(time.perf_counter() - began)


async def _writer(catalog: Catalog, until: float) -> int:
    moves = 0
    while (left_s := until - time.perf_counter()) > WRITER_EVERY_S / 2:
        await asyncio.sleep(min(WRITER_EVERY_S, left_s))
        if not await catalog.shards.close_shard(SHARD, drain_timeout_s=DRAIN_S):
            continue
        moves += 1
        await catalog.shards.open_shard(SHARD, Epoch(1, 1 + moves))
    return moves
