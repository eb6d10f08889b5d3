"""Reminders: many deadlines of things that wait long."""

from __future__ import annotations

import asyncio

from goverse.aio.deadlines import Reminders
from goverse.testing.loop import SimLoop, run_virtual
from tests.support.virtual import elapse


def test_each_thing_is_due_once_its_time_has_come_and_not_before() -> None:
    async def scenario(_: SimLoop) -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        seen: list[tuple[str, float]] = []
        reminders = Reminders[str](
            lambda thing: seen.append((thing, loop.time() - began)), step_s=0.25
        )
        for thing, delay_s in (("late", 10.0), ("early", 1.0), ("same", 1.0)):
            reminders.add(began + delay_s, thing)
        await elapse(20)
        assert len(reminders) == 0
        return seen

    seen = run_virtual(scenario)
    assert [thing for thing, _ in seen] == ["early", "same", "late"]
    for (_, at), due in zip(seen, (1.0, 1.0, 10.0), strict=True):
        assert due <= at <= due + 0.3


def test_what_is_cancelled_is_not_due() -> None:
    async def scenario(_: SimLoop) -> list[str]:
        now = asyncio.get_running_loop().time()
        seen: list[str] = []
        reminders = Reminders[str](seen.append, step_s=0.25)
        step = reminders.add(now + 1, "cancelled")
        reminders.add(now + 1, "other")
        reminders.cancel(step, "cancelled")
        await elapse(2)
        reminders.cancel(step, "other")  # its time has come: nothing happens
        return seen

    assert run_virtual(scenario) == ["other"]


def test_a_thing_may_cancel_and_add_others_when_it_is_due() -> None:
    async def scenario(_: SimLoop) -> list[str]:
        now = asyncio.get_running_loop().time()
        seen: list[str] = []

        def due(thing: str) -> None:
            seen.append(thing)
            if thing == "first":
                reminders.cancel(step, "second")
                reminders.add(now + 1, "again")  # a time that has come: in the next step

        reminders = Reminders[str](due, step_s=0.25)
        step = reminders.add(now + 1, "first")
        assert reminders.add(now + 1, "second") is step
        reminders.add(now + 1, "third")
        await elapse(3)
        return seen

    assert run_virtual(scenario) == ["first", "third", "again"]


def test_nothing_is_due_after_close() -> None:
    async def scenario(_: SimLoop) -> list[str]:
        seen: list[str] = []
        reminders = Reminders[str](seen.append, step_s=0.25)
        reminders.add(asyncio.get_running_loop().time() + 1, "thing")
        reminders.close()
        await elapse(2)
        assert len(reminders) == 0
        return seen

    assert run_virtual(scenario) == []
