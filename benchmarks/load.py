"""A load generator: so many callers, each with one call at a time, latencies kept."""

from __future__ import annotations

import array
import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What one run of a load generator saw.

    :param calls: finished within the measured time.
    :param seconds: the measured time.
    :param p50_ms: median latency. :param p99_ms: 99th percentile.
    :param all_calls: finished at all, in the warm-up and at the end too.
    :param cpu_s: processor time that this process used for all of them.
    :param settled_s: from the last answer until all that the calls have set going was over.
    """

    calls: int
    seconds: float
    p50_ms: float
    p99_ms: float
    all_calls: int
    cpu_s: float
    settled_s: float = 0.0

    @property
    def per_second(self) -> float:
        return self.calls / self.seconds


async def drive(
    call: Callable[[int], Awaitable[object]], callers: int, warmup_s: float, seconds: float
) -> Load:
    """Run ``callers`` tasks that each repeat ``call(caller number)``; the first error ends it."""
    latencies = array.array("d")
    outside = 0
    cpu_before = time.process_time()
    measuring_from = time.perf_counter() + warmup_s
    end = measuring_from + seconds

    async def caller(number: int) -> None:
        nonlocal outside
        while True:
            began = time.perf_counter()
            await call(number)
            now = time.perf_counter()
            if measuring_from <= began and now < end:
                latencies.append(now - began)
                continue
            outside += 1
            if now >= end:
                return

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(caller(number))
    cpu_s = time.process_time() - cpu_before
    ordered = sorted(latencies)
    if not ordered:
        raise RuntimeError("no call finished within the measured time")
    return Load(
        calls=len(ordered),
        seconds=seconds,
        p50_ms=round(ordered[len(ordered) // 2] * 1000, 3),
        p99_ms=round(ordered[int(len(ordered) * 0.99)] * 1000, 3),
        all_calls=len(ordered) + outside,
        cpu_s=round(cpu_s, 3),
    )
