"""The virtual-time loop: time, processes, pauses, kills, order, limits."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from goverse.testing.loop import (
    ProcessKilled,
    SimLoop,
    SimulationError,
    current_process,
    run_virtual,
    sim_runtime,
)

wait = asyncio.sleep


def test_an_hour_passes_at_once() -> None:
    async def main(loop: SimLoop) -> float:
        await wait(3000)
        return loop.elapsed_s

    started = time.monotonic()
    assert run_virtual(main) == pytest.approx(3000)
    assert time.monotonic() - started < 5


def test_a_deadlock_names_who_waits() -> None:
    async def main(loop: SimLoop) -> None:
        loop.spawn("n1", asyncio.Event().wait(), name="stuck")
        await asyncio.Event().wait()

    with pytest.raises(SimulationError, match=r"(?s)no timer.*n1 n1:stuck in Event.wait"):
        run_virtual(main)


def test_limits_of_time_and_steps() -> None:
    async def sleepy(loop: SimLoop) -> None:
        while True:
            await wait(1)

    async def busy(loop: SimLoop) -> None:
        while True:
            await wait(0)

    with pytest.raises(SimulationError, match="virtual s"):
        run_virtual(sleepy, max_time_s=10)
    with pytest.raises(SimulationError, match="steps"):
        run_virtual(busy, max_steps=1000)


def test_a_paused_process_gets_no_time_and_then_catches_up_in_order() -> None:
    async def main(loop: SimLoop) -> None:
        log: list[tuple[str, float]] = []

        async def tick(name: str) -> None:
            for _ in range(4):
                await wait(1)
                log.append((name, loop.elapsed_s))

        a, b = loop.spawn("a", tick("a")), loop.spawn("b", tick("b"))
        await wait(1.5)
        loop.pause("a")
        assert loop.is_paused("a")
        await wait(9)
        assert log == [("a", 1), ("b", 1), ("b", 2), ("b", 3), ("b", 4)]
        loop.resume("a")
        await asyncio.gather(a, b)
        assert log[5:] == [("a", 10.5), ("a", 11.5), ("a", 12.5)]

    run_virtual(main)


def test_messages_to_a_paused_process_wait_for_it() -> None:
    async def main(loop: SimLoop) -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        got: list[int] = []

        async def consume() -> None:
            while True:
                got.append(await queue.get())

        loop.spawn("a", consume())
        await wait(0.1)
        loop.pause("a")
        for number in range(3):
            queue.put_nowait(number)
            await wait(1)
        assert got == []
        loop.resume("a")
        await wait(0)
        await wait(0)
        assert got == [0, 1, 2]

    run_virtual(main)


def test_a_killed_process_runs_nothing_again_not_even_cleanup() -> None:
    log: list[str] = []

    async def main(loop: SimLoop) -> None:
        async def numbers() -> AsyncIterator[int]:
            try:
                while True:
                    await wait(1)
                    yield 1
            finally:
                log.append("generator cleaned up")

        async def work() -> None:
            loop.call_later(5, log.append, "timer")
            try:
                async for _ in numbers():
                    log.append("tick")
            finally:
                log.append("cleaned up")
                await wait(1)
                log.append("never")

        loop.spawn("a", work())
        await wait(2.5)
        loop.kill("a")
        await wait(100)
        assert log == ["tick", "tick"]
        assert loop.is_killed("a")
        with pytest.raises(ProcessKilled):
            await loop.run_in("a", wait(1))

    run_virtual(main)
    assert "never" not in log and "timer" not in log


def test_whoever_awaits_a_killed_process_is_told() -> None:
    async def main(loop: SimLoop) -> None:
        loop.call_later(1, loop.kill, "a")
        with pytest.raises(ProcessKilled):
            await loop.run_in("a", wait(10))
        assert loop.elapsed_s == pytest.approx(1)
        assert await loop.run_in("b", wait(1, result=7)) == 7

    run_virtual(main)


def test_children_belong_to_the_process_of_their_parent() -> None:
    async def main(loop: SimLoop) -> None:
        async def child() -> str:
            return current_process.get()

        async def parent() -> tuple[str, str]:
            async with asyncio.timeout(5):
                return current_process.get(), await asyncio.create_task(child())

        assert await loop.run_in("a", parent()) == ("a", "a")
        assert current_process.get() == ""

    run_virtual(main)


def order_of(seed: int | None) -> list[str]:
    async def main(loop: SimLoop) -> list[str]:
        log: list[str] = []

        async def steps(name: str) -> None:
            for number in range(3):
                log.append(f"{name}{number}")
                await wait(0)

        await asyncio.gather(*(loop.spawn(name, steps(name)) for name in "abc"))
        return log

    return run_virtual(main, seed=seed)


def test_seeds_explore_orders_of_processes_but_never_within_one() -> None:
    assert order_of(None) == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]
    orders = [order_of(seed) for seed in range(20)]
    assert len({tuple(order) for order in orders}) > 5
    assert all([s for s in order if s[0] == "a"] == ["a0", "a1", "a2"] for order in orders)
    assert orders == [order_of(seed) for seed in range(20)]


def test_runtime_has_a_clock_and_chance_of_its_own() -> None:
    async def main(loop: SimLoop) -> None:
        a, b, again = sim_runtime(1, "a"), sim_runtime(1, "b"), sim_runtime(1, "a")
        assert a.clock.now() == again.clock.now() != b.clock.now()
        assert a.random.random() == again.random.random() != b.random.random()
        before = a.clock.now()
        await wait(2)
        assert a.clock.now() - before == pytest.approx(2)

    run_virtual(main)


def test_threads_are_refused() -> None:
    async def main(loop: SimLoop) -> None:
        with pytest.raises(RuntimeError, match="no threads"):
            await asyncio.to_thread(print)

    run_virtual(main)


PROGRAM = """
import asyncio
from goverse.testing.loop import SimLoop, run_virtual
from tests.support.virtual import elapse

async def main(loop):
    async def worker(name):
        for _ in range(20):
            await elapse(0.1)
            loop.record(name)
    group = {loop.spawn(f"p{n}", worker(f"p{n}")) for n in range(8)}
    done, _ = await asyncio.wait(group)
    for task in done:
        loop.record(task.get_name())
    return loop.trace.digest

print(run_virtual(main, seed=4))
"""


def test_the_trace_is_the_same_in_another_process_with_another_hash_seed() -> None:
    root = Path(__file__).parents[3]
    digests = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 33
