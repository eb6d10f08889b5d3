"""Who reads nothing is given up on; who reads slowly is not."""

from __future__ import annotations

from goverse.testing import SimLoop, run_virtual
from goverse_gate.stall import StallTimer
from tests.support.virtual import elapse


def test_L25_a_slow_reader_is_no_dead_one() -> None:
    async def main(loop: SimLoop) -> None:
        unsent = 1_000
        given_up: list[float] = []
        timer = StallTimer(loop, 30, lambda: unsent, lambda: given_up.append(loop.elapsed_s))
        timer.start()
        for _ in range(10):
            await elapse(29)
            unsent -= 10
            timer.start()  # paused again, or still: it is one stall
        assert given_up == []
        await elapse(61)
        assert len(given_up) == 1

    run_virtual(main, seed=1, max_time_s=1_000)


def test_a_stall_that_ends_in_time_is_forgotten() -> None:
    async def main(loop: SimLoop) -> None:
        given_up: list[str] = []
        timer = StallTimer(loop, 30, lambda: 5, lambda: given_up.append("given up"))
        for _ in range(5):
            timer.start()
            await elapse(29)
            timer.stop()
            await elapse(5)
        assert given_up == []

    run_virtual(main, seed=1, max_time_s=1_000)
