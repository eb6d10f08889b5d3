"""A stuck event loop is noticed from outside, by a clock that runs while it does not."""

import logging
import threading

import pytest

from goverse.observability.health import LoopWatchdog, Readiness
from tests.support.eventually import eventually


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


async def test_L23_health_is_red_while_the_loop_hangs_and_green_again_after() -> None:
    clock = Clock()
    watchdog = LoopWatchdog(stuck_after_s=5, beat_s=0.01, now=clock)
    watchdog.start()
    try:
        assert watchdog.report().healthy
        # No await from here on: the loop cannot come round, as in a method that blocks it.
        clock.time += 4
        assert watchdog.report().healthy
        clock.time += 2
        report = watchdog.report()
        assert not report.healthy
        assert str(report) == "the event loop has been stuck for 6.0 s"
        # Another thread sees the same.
        seen: list[bool] = []
        thread = threading.Thread(target=lambda: seen.append(watchdog.report().healthy))
        thread.start()
        thread.join()
        assert seen == [False]
        # The loop runs again.
        await eventually(lambda: watchdog.report().healthy)
        assert str(watchdog.report()) == "ok"
    finally:
        watchdog.stop()


async def test_it_logs_once_where_the_loop_hangs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    clock = Clock()
    watchdog = LoopWatchdog(stuck_after_s=5, beat_s=0.01, now=clock)
    watchdog.start()
    try:
        clock.time += 60

        def blocking_method() -> None:
            watchdog.look()
            watchdog.look()

        blocking_method()
        stuck = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(stuck) == 1
        assert "in blocking_method" in (stuck[0].stack_info or "")
        await eventually(lambda: watchdog.report().healthy)
        watchdog.look()
        assert "the event loop runs again" in caplog.text
    finally:
        watchdog.stop()


async def test_its_thread_looks_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    watchdog = LoopWatchdog(stuck_after_s=5, beat_s=0.01, now=clock)
    watchdog.start()
    try:
        clock.time += 60
        noticed = threading.Event()
        for _ in range(1000):
            if "stuck for" in caplog.text:
                noticed.set()
                break
            noticed.wait(0.01)  # blocks the loop on purpose
        assert noticed.is_set()
    finally:
        watchdog.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "goverse-watchdog"]


async def test_a_loop_that_runs_has_no_lag() -> None:
    watchdog = LoopWatchdog(stuck_after_s=5, beat_s=0.01)
    watchdog.start()
    try:
        await eventually(lambda: watchdog.lag_s() < 1)
        assert watchdog.report().healthy
    finally:
        watchdog.stop()


def test_readiness_reads_as_lines() -> None:
    assert str(Readiness(True, text="claimed 2048/2048")) == "ready\nclaimed 2048/2048"
    assert str(Readiness(False, ("lease lost", "no link"))) == "not ready\n- lease lost\n- no link"
