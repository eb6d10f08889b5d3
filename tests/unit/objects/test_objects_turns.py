"""Turns: order, exclusion, deadlines, cancellation, failures, rollback."""

import asyncio
import dataclasses
import logging
import random
from typing import Any

import pytest
from objects_kit import make_call, running, turns_of_the_loop, value_of

import goverse
from goverse.config.settings import LimitSettings, ObjectSettings
from goverse.errors import Fenced, NotOwner, Overloaded


@dataclasses.dataclass
class Box:
    items: list[int] = dataclasses.field(default_factory=list)


class Worker(goverse.Object):
    """Methods that a test holds open with the events of ``gates``."""

    value: int = 0
    box: Box = Box()
    table: dict[str, list[int]] = {}
    odd: Any = None

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.log: list[str] = []
        self.active = 0
        self.most = 0

    def gate(self, name: str) -> asyncio.Event:
        return self.gates.setdefault(name, asyncio.Event())

    async def _work(self, name: str) -> str:
        self.active += 1
        self.most = max(self.most, self.active)
        self.log.append(f"begin {name}")
        try:
            await self.gate(name).wait()
        finally:
            self.log.append(f"end {name}")
            self.active -= 1
        return name

    @goverse.method
    async def write(self, name: str) -> str:
        return await self._work(name)

    @goverse.method(read_only=True)
    async def read(self, name: str) -> str:
        return await self._work(name)

    @goverse.method
    async def change(self, how: str) -> None:
        self.value += 1
        self.box.items.append(1)
        self.table.setdefault("a", []).append(1)
        if how == "raise":
            raise ValueError("secret text")
        if how == "application":
            raise goverse.ApplicationError("no_money", "not enough", {"missing": 3})
        if how == "bad application":
            raise goverse.ApplicationError("no_money", "x", {"what": object()})
        if how == "exit":
            raise SystemExit(3)
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "cancelled":
            raise asyncio.CancelledError
        if how == "generator exit":
            raise GeneratorExit
        if how == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(self.fails())
        if how == "unencodable state":
            self.odd = object()
        if how == "huge state":
            self.value = 2**70
        if how == "wait":
            await self.gate("change").wait()

    async def fails(self) -> None:
        raise ValueError("in a task")

    @goverse.method(rollback=False)
    async def keep(self, how: str = "raise") -> None:
        self.value += 1
        if how == "raise":
            raise ValueError("kept")
        if how == "odd":
            self.odd = [object()]
        if how == "clean":
            self.odd = None

    @goverse.method
    async def stubborn(self) -> str:
        self.value += 1
        try:
            await self.gate("stubborn").wait()
        except asyncio.CancelledError:
            self.log.append("ignored a cancellation")
        return "finished all the same"

    @goverse.method(read_only=True)
    async def state(self) -> list[Any]:
        return [self.value, self.box, self.table, self.odd]


UNTOUCHED = [0, {"items": []}, {}, None]


class Concurrent(Worker, concurrent=True):
    pass


def instance_of(node, type_name="Worker", id="x"):
    return node.catalog._activations[(type_name, id)].instance


async def test_one_call_at_a_time_in_arrival_order():
    async with running(Worker) as node:
        calls = [node.call("Worker", "x", "write", name=str(n)) for n in range(5)]
        await turns_of_the_loop()
        worker = instance_of(node)
        for n in range(5):
            worker.gate(str(n)).set()
        assert [value_of(await call) for call in calls] == ["0", "1", "2", "3", "4"]
        assert worker.log == [f"{what} {n}" for n in range(5) for what in ("begin", "end")]
        assert worker.most == 1


async def test_read_only_methods_interleave_and_do_not_starve_writers():
    async with running(Worker) as node:
        readers = [node.call("Worker", "x", "read", name=f"r{n}") for n in range(3)]
        writer = node.call("Worker", "x", "write", name="w")
        late = node.call("Worker", "x", "read", name="late")
        await turns_of_the_loop()
        worker = instance_of(node)
        assert worker.log == ["begin r0", "begin r1", "begin r2"]
        worker.gate("late").set()
        worker.gate("w").set()
        for n in range(3):
            worker.gate(f"r{n}").set()
        await asyncio.gather(*readers, writer, late)
        assert worker.log.index("end w") < worker.log.index("begin late")


async def test_concurrent_classes_interleave_everything_up_to_the_limit():
    async with running(Concurrent, limits=LimitSettings(max_mailbox_calls=3)) as node:
        calls = [node.call("Concurrent", "x", "write", name=str(n)) for n in range(3)]
        await turns_of_the_loop()
        worker = instance_of(node, "Concurrent")
        assert worker.most == 3
        with pytest.raises(Overloaded):
            await node.call("Concurrent", "x", "write", name="more")
        for n in range(3):
            worker.gate(str(n)).set()
        await asyncio.gather(*calls)


async def test_past_the_limit_of_the_mailbox_the_caller_is_refused_at_once():
    async with running(Worker, limits=LimitSettings(max_mailbox_calls=2)) as node:
        calls = [node.call("Worker", "x", "write", name=str(n)) for n in range(3)]
        await turns_of_the_loop()
        with pytest.raises(Overloaded) as caught:
            await node.call("Worker", "x", "write", name="more")
        assert caught.value.executed is goverse.Executed.NO
        for n in range(3):
            instance_of(node).gate(str(n)).set()
        await asyncio.gather(*calls)


async def test_a_deadline_while_waiting_removes_the_waiter_at_once():
    async with running(Worker) as node:
        first = node.call("Worker", "x", "write", name="first")
        second = node.send(make_call("Worker", "x", "write", name="second", timeout_s=0.03))
        third = node.call("Worker", "x", "write", name="third")
        with pytest.raises(goverse.DeadlineExceeded, match=r"busy with write \(turn 1\)") as caught:
            await second
        assert caught.value.executed is goverse.Executed.NO
        assert node.catalog.census.objects()[0].waiting == 1
        worker = instance_of(node)
        worker.gate("first").set()
        worker.gate("third").set()
        await asyncio.gather(first, third)
        assert "begin second" not in worker.log


async def test_a_deadline_of_a_running_turn_ends_it_and_rolls_it_back():
    async with running(Worker) as node:
        with pytest.raises(goverse.DeadlineExceeded, match="ran past its deadline") as caught:
            await node.send(make_call("Worker", "x", "change", how="wait", timeout_s=0.03))
        assert caught.value.executed is goverse.Executed.UNKNOWN
        assert caught.value.details["rolled_back"] is True
        assert value_of(await node.call("Worker", "x", "state")) == UNTOUCHED


async def test_a_deadline_in_the_past_begins_nothing():
    async with running(Worker) as node:
        with pytest.raises(goverse.DeadlineExceeded) as caught:
            await node.send(make_call("Worker", "x", "change", how="ok", timeout_s=-1))
        assert caught.value.executed is goverse.Executed.NO
        assert node.ids() == []


async def test_a_method_that_swallows_its_cancellation_cannot_answer_after_its_deadline():
    async with running(Worker) as node:
        with pytest.raises(goverse.DeadlineExceeded):
            await node.send(make_call("Worker", "x", "stubborn", timeout_s=0.03))
        assert instance_of(node).log == ["ignored a cancellation"]
        assert value_of(await node.call("Worker", "x", "state")) == UNTOUCHED


async def test_cancelling_a_waiting_call_frees_its_place():
    async with running(Worker) as node:
        first = node.call("Worker", "x", "write", name="first")
        second = node.call("Worker", "x", "write", name="second")
        third = node.call("Worker", "x", "write", name="third")
        await turns_of_the_loop()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        worker = instance_of(node)
        worker.gate("first").set()
        worker.gate("third").set()
        await asyncio.gather(first, third)
        assert "begin second" not in worker.log


async def test_a_call_granted_and_cancelled_in_the_same_pass_hands_its_grant_on():
    async with running(Worker) as node:
        calls = [node.call("Worker", "x", "write", name=str(n)) for n in range(3)]
        await turns_of_the_loop()
        worker = instance_of(node)
        worker.gate("2").set()

        def cancel_second(*_: Any) -> None:
            calls[1].cancel()

        # The observer is told just after the first call granted the second, before that wakes.
        node.observer.turn_ended = cancel_second
        worker.gate("0").set()
        assert value_of(await calls[2]) == "2"
        with pytest.raises(asyncio.CancelledError):
            await calls[1]
        assert "begin 1" not in worker.log


async def test_cancelling_a_running_call_rolls_it_back():
    async with running(Worker) as node:
        call = node.call("Worker", "x", "change", how="wait")
        await turns_of_the_loop()
        assert instance_of(node).value == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert value_of(await node.call("Worker", "x", "state")) == UNTOUCHED


@pytest.mark.parametrize(
    "how",
    ["raise", "application", "cancelled", "group", "unencodable state", "huge state", "exit"],
)
async def test_L10_state_changed_by_a_failed_turn_is_rolled_back(how):
    async with running(Worker) as node:
        with pytest.raises(goverse.GoverseError):
            await node.call("Worker", "x", "change", how=how)
        assert value_of(await node.call("Worker", "x", "state")) == UNTOUCHED
        await node.call("Worker", "x", "change", how="ok")
        with pytest.raises(goverse.GoverseError):
            await node.call("Worker", "x", "change", how=how)
        after = value_of(await node.call("Worker", "x", "state"))
        assert after == [1, {"items": [1]}, {"a": [1]}, None]
        assert isinstance(instance_of(node).box, Box)


async def test_L10_a_turn_without_rollback_keeps_what_it_did_and_later_ones_begin_there():
    async with running(Worker) as node:
        await node.call("Worker", "x", "change", how="ok")
        with pytest.raises(goverse.ObjectFailed) as caught:
            await node.call("Worker", "x", "keep")
        assert caught.value.details["rolled_back"] is False
        await node.call("Worker", "x", "keep", how="ok")
        with pytest.raises(goverse.ObjectFailed):
            await node.call("Worker", "x", "change", how="raise")
        assert value_of(await node.call("Worker", "x", "state"))[0] == 3


async def test_state_that_cannot_be_kept_fails_the_next_turn_before_it_begins():
    async with running(Worker) as node:
        await node.call("Worker", "x", "keep", how="odd")
        with pytest.raises(goverse.ObjectFailed, match=r"odd\[0\]: type object") as caught:
            await node.call("Worker", "x", "change", how="ok")
        assert caught.value.executed is goverse.Executed.NO
        await node.call("Worker", "x", "keep", how="clean")
        await node.call("Worker", "x", "change", how="ok")
        assert sum(shard.holders for shard in node.catalog.snapshot().shards) == 0


async def test_L10_random_turns_leave_what_the_successful_ones_did():
    choose = random.Random(7)
    async with running(Worker) as node:
        expected = 0
        for _ in range(200):
            how = choose.choice(["ok", "raise", "application", "huge state"])
            try:
                await node.call("Worker", "x", "change", how=how)
                expected += 1
            except goverse.GoverseError:
                pass
        state = value_of(await node.call("Worker", "x", "state"))
        assert state[0] == len(state[1]["items"]) == len(state[2]["a"]) == expected


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("raise", "ValueError"),
        ("exit", "SystemExit"),
        ("interrupt", "KeyboardInterrupt"),
        ("cancelled", "CancelledError"),
        ("generator exit", "GeneratorExit"),
        ("group", "ExceptionGroup"),
        ("bad application", "TypeError"),
    ],
)
async def test_L20_whatever_a_method_raises_fails_that_call_only(how, name, caplog):
    async with running(Worker) as node:
        with pytest.raises(goverse.ObjectFailed) as caught:
            await node.call("Worker", "x", "change", how=how)
        error = caught.value
        assert error.executed is goverse.Executed.YES
        assert error.details["type"] == name
        assert error.details["rolled_back"] is True
        assert "secret" not in str(error)
        # The log has what the caller is not told, under the same name.
        record = next(r for r in caplog.records if r.levelno == logging.ERROR)
        assert error.details["call"] in record.getMessage()
        assert record.exc_info
        assert value_of(await node.call("Worker", "x", "state")) == UNTOUCHED


async def test_texts_of_errors_are_shown_in_development():
    async with running(Worker, settings=ObjectSettings(expose_errors=True)) as node:
        with pytest.raises(goverse.ObjectFailed, match="raised ValueError: secret text"):
            await node.call("Worker", "x", "change", how="raise")


async def test_an_application_error_passes_as_it_is():
    async with running(Worker) as node:
        with pytest.raises(goverse.ApplicationError) as caught:
            await node.call("Worker", "x", "change", how="application")
        assert caught.value.code == "no_money"
        assert caught.value.message == "not enough"
        assert caught.value.details == {"missing": 3}
        assert caught.value.executed is goverse.Executed.YES


async def test_unknown_methods_and_call_ids():
    async with running(Worker) as node:
        with pytest.raises(goverse.NotFound, match="has no method 'nothing'"):
            await node.call("Worker", "x", "nothing")
        with pytest.raises(goverse.NotFound, match="not decorated"):
            await node.call("Worker", "x", "gate")
        call = make_call("Worker", "x", "state")
        call.call_id = "1"
        with pytest.raises(goverse.FailedPrecondition, match=r"storage\.url"):
            await node.send(call)
        for id in ("", "a\0b", "shard#x/y", "shard#99999/y", "node#/"):
            with pytest.raises(goverse.InvalidArgument, match="object id"):
                await node.call("Worker", id, "state")


async def test_without_a_lease_no_turn_begins():
    async with running(Worker) as node:
        await node.call("Worker", "x", "change", how="ok")
        node.facts.lease = False
        with pytest.raises(NotOwner) as caught:
            await node.call("Worker", "x", "change", how="ok")
        assert caught.value.executed is goverse.Executed.NO
        assert instance_of(node).value == 1


async def test_a_turn_that_was_granted_does_not_begin_without_a_lease():
    async with running(Worker) as node:
        first = node.call("Worker", "x", "write", name="first")
        second = node.call("Worker", "x", "write", name="second")
        await turns_of_the_loop()
        worker = instance_of(node)
        node.facts.lease = False
        worker.gate("first").set()
        with pytest.raises(NotOwner) as caught:
            await second
        assert caught.value.executed is goverse.Executed.NO
        assert worker.log == ["begin first", "end first"]
        with pytest.raises(Fenced):
            await first


async def test_the_observer_sees_every_turn_once():
    async with running(Worker) as node:
        await node.call("Worker", "x", "change", how="ok")
        with pytest.raises(goverse.ObjectFailed):
            await node.call("Worker", "x", "change", how="raise")
        with pytest.raises(goverse.ApplicationError):
            await node.call("Worker", "x", "change", how="application")
        assert node.observer.seen == [
            ("activated", "Worker"),
            ("ended", "Worker", "change", "ok"),
            ("ended", "Worker", "change", "object_failed"),
            ("ended", "Worker", "change", "application_error"),
        ]


async def test_no_waiter_is_lost_under_random_cancellations():
    """Whatever is cancelled when, everything else runs, and never together with a writer."""
    choose = random.Random(3)
    async with running(Hurried) as node:
        await node.call("Hurried", "x", "write", steps=0)
        hurried = instance_of(node, "Hurried")
        for _ in range(200):
            calls = []
            for _ in range(12):
                kind = choose.choice(["write", "read"])
                calls.append(node.call("Hurried", "x", kind, steps=choose.randrange(4)))
                await turns_of_the_loop(choose.randrange(2))
            doomed = choose.sample(calls, 5)
            for call in doomed:
                call.cancel()
                await turns_of_the_loop(choose.randrange(3))
            done, waiting = await asyncio.wait(calls, timeout=5)
            assert not waiting
            assert all(not call.cancelled() for call in done if call not in doomed)
        assert hurried.overlaps == 0
        assert node.catalog.census.objects()[0].waiting == 0
        assert sum(shard.holders for shard in node.catalog.snapshot().shards) == 0


class Hurried(goverse.Object):
    """Counts turns that overlap although they must not."""

    def __init__(self) -> None:
        self.readers = self.writers = self.overlaps = 0

    @goverse.method
    async def write(self, steps: int) -> None:
        self.overlaps += self.readers or self.writers
        self.writers += 1
        try:
            await turns_of_the_loop(steps)
        finally:
            self.writers -= 1

    @goverse.method(read_only=True)
    async def read(self, steps: int) -> None:
        self.overlaps += self.writers
        self.readers += 1
        try:
            await turns_of_the_loop(steps)
        finally:
            self.readers -= 1
