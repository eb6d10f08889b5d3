"""Many deadlines behind one timer."""

from __future__ import annotations

import asyncio
import random

import pytest

from goverse.aio.deadlines import Deadlines
from tests.support.virtual import elapse

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_each_is_told_once_its_time_has_come_and_not_before() -> None:
    deadlines, told, source = Deadlines(), [], random.Random(5)
    whens = [now() + source.uniform(0.0, 20.0) for _ in range(500)]
    for when in whens:
        deadlines.add(when, lambda when=when: told.append((when, now())))
    await elapse(25.0)
    assert sorted(when for when, _ in told) == sorted(whens)
    assert all(0 <= at - when <= 0.05 for when, at in told)
    assert len(deadlines) == 0


async def test_a_nearer_one_is_not_held_up_by_a_farther_one() -> None:
    deadlines, told = Deadlines(), []
    deadlines.add(now() + 10.0, lambda: told.append("far"))
    deadlines.add(now() + 1.0, lambda: told.append("near"))
    await elapse(2.0)
    assert told == ["near"]


async def test_what_was_cancelled_is_never_told_also_by_one_due_at_the_same_time() -> None:
    deadlines, told = Deadlines(), []
    handles = [deadlines.add(now() + 5.0, lambda: told.append("cancelled"))]
    # A loop that stood still finds both due in one pass.
    deadlines.add(now() + 4.9, lambda: deadlines.cancel(handles[0]))
    deadlines._armed, timer = 0, deadlines._timer
    assert timer is not None
    timer.cancel()
    await elapse(10.0)
    deadlines._fire()
    assert told == []


async def test_one_that_is_added_while_others_are_told_is_told_too() -> None:
    deadlines, told = Deadlines(), []
    deadlines.add(now() + 1.0, lambda: deadlines.add(now() - 1.0, lambda: told.append("late")))
    deadlines.add(now() + 1.0, lambda: deadlines.add(now() + 1.0, lambda: told.append("next")))
    await elapse(3.0)
    assert sorted(told) == ["late", "next"]


async def test_closed_it_tells_nothing() -> None:
    deadlines, told = Deadlines(), []
    deadlines.add(now() + 1.0, lambda: told.append("closed"))
    deadlines.close()
    await elapse(3.0)
    assert told == [] and len(deadlines) == 0
