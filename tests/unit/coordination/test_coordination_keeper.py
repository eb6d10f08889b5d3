"""The thread that renews a lease, against scripted answers and a clock that the test moves."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

import pytest

from goverse.aio.runtime import Runtime
from goverse.coordination.etcd.keeper import Keeper
from goverse.coordination.etcd.renewal import RenewalFailed
from tests.support.eventually import eventually


class FakeClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time


class Script:
    """A renewal that answers what the test says; asks past the end of the script wait."""

    lease = 0x77

    def __init__(self, *answers: Callable[[], float]) -> None:
        self._answers: Iterator[Callable[[], float]] = iter(answers)
        self._interrupted = threading.Event()
        self.asked = 0
        self.done = False
        self.closed = False
        self.outstanding = 0
        self.most_outstanding = 0

    def ask(self, timeout_s: float) -> float:
        self.asked += 1
        self.outstanding += 1
        self.most_outstanding = max(self.most_outstanding, self.outstanding)
        try:
            answer = next(self._answers, None)
            if answer is not None:
                return answer()
            self.done = True
            self._interrupted.wait(10)
            raise RenewalFailed("interrupted")
        finally:
            self.outstanding -= 1

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self.closed = True


def fail() -> float:
    raise RenewalFailed("no")


class Running:
    def __init__(self, script: Script, ttl_s: float, stall_limit_s: float = 10.0) -> None:
        self.clock = FakeClock()
        self.over: list[str] = []
        runtime = Runtime(clock=self.clock, random=random.Random(1))
        self.keeper = Keeper(script, ttl_s, self.clock.now(), runtime, stall_limit_s)
        self._thread = threading.Thread(
            target=self.keeper.run, args=(lambda: self.over.append("over"), lambda: None)
        )

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.keeper.stop()
        self._thread.join(5)
        assert not self._thread.is_alive()


async def test_an_answer_extends_from_the_sending_of_its_question() -> None:
    def late() -> float:
        running.clock.time += 1.5  # the answer takes this long
        return 2.0

    script = Script(late)
    running = Running(script, ttl_s=0.5)
    with running:
        await eventually(lambda: script.done)
        assert running.keeper.deadline == 1000.0 + 2.0
    assert script.closed


async def test_the_ttl_is_the_one_that_the_answer_states() -> None:
    script = Script(lambda: 0.3)
    with Running(script, ttl_s=0.5) as running:
        await eventually(lambda: script.done)
        assert running.keeper.deadline == 1000.3


async def test_failures_leave_the_deadline_and_are_repeated_soon() -> None:
    script = Script(*[fail] * 20, lambda: 7.0)
    with Running(script, ttl_s=0.5) as running:
        await eventually(lambda: script.asked >= 5)
        assert running.keeper.deadline == 1000.5
        await eventually(lambda: script.done)
        assert running.keeper.deadline == 1007.0
        assert not running.over
        assert script.most_outstanding == 1


async def test_L22_pauses_after_failures_do_not_grow_beyond_the_interval() -> None:
    """Whatever went wrong for however long, the next question is at most TTL/5 away."""
    keeper = Keeper(Script(*[fail] * 200), 3.0, 0.0, Runtime(random=random.Random(1)), 1e9)
    pauses = [keeper._round(lambda: None) for _ in range(200)]
    assert max(pauses) <= 3.0 / 5
    assert max(pauses[100:]) <= max(pauses[:100]) + 0.1
    assert min(pauses) > 0.01


async def test_ttl_0_is_the_end() -> None:
    script = Script(lambda: 0.0, lambda: 9.0)
    with Running(script, ttl_s=0.05) as running:
        await eventually(lambda: running.over)
        await eventually(lambda: script.closed)
        assert running.keeper.deadline == 0
        assert running.over == ["over"]
        assert script.asked == 1


async def test_without_ticks_nothing_is_asked_and_ticks_bring_it_back() -> None:
    script = Script(lambda: 5.0)
    running = Running(script, ttl_s=0.05, stall_limit_s=1.0)
    running.clock.time += 1.1
    with running:
        thread_has_looked = threading.Event()
        original = running.clock.now

        def now() -> float:
            thread_has_looked.set()
            return original()

        running.clock.now = now  # type: ignore[method-assign]
        await eventually(thread_has_looked.is_set)
        assert script.asked == 0
        assert running.keeper.deadline == 1000.05
        running.keeper.tick()
        await eventually(lambda: script.done)
        assert running.keeper.deadline == 1001.1 + 5.0


async def test_stopping_does_not_wait_for_an_answer() -> None:
    script = Script()
    with Running(script, ttl_s=0.05):
        await eventually(lambda: script.done)
    assert script.closed


async def test_a_thread_that_crashes_leaves_the_deadline(caplog: pytest.LogCaptureFixture) -> None:
    def crash() -> float:
        raise ZeroDivisionError

    script = Script(crash)
    with Running(script, ttl_s=0.05) as running:
        await eventually(lambda: script.closed)
        assert running.keeper.deadline == 1000.05
        assert not running.over
    assert "the thread of lease 77 ended" in caplog.text
