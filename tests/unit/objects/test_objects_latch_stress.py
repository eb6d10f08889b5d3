"""Thousands of callers, nested calls within, across and back into shards that are closed and opened
all the time, and holders that hang: nobody runs beside another, and everybody comes to an end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from objects_kit import Node, make_call, turns_of_the_loop

import goverse
from goverse.call import Call, Reply
from goverse.errors import Executed, Fenced, GoverseError, NotOwner, ObjectFailed, Unavailable
from goverse.ids import Epoch
from goverse.objects.latch import Holds
from goverse.testing import SimLoop, run_virtual
from tests.support.virtual import elapse

SHARDS = 4
OBJECTS = 12


@dataclass
class Play:
    """What is played, and what was seen."""

    seed: int
    callers: int
    calls: int
    holds: Holds
    spread_s: float
    """Longest pause between two calls of a caller."""
    pause: Callable[[float], Awaitable[None]]
    """Let about so many seconds pass."""
    over: bool = False
    inside: dict[str, str] = field(default_factory=dict)
    """Which caller's chain runs in each object."""
    depth: Counter[str] = field(default_factory=Counter)
    epochs: dict[str, Epoch] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    moves: Counter[bool] = field(default_factory=Counter)
    hung: dict[str, None] = field(default_factory=dict)
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    back: int = 0
    """Calls that came back into a turn of their own chain."""

    def enter(self, id: str, who: str, epoch: Epoch) -> None:
        now = self.inside.setdefault(id, who)
        if now != who:
            self.wrong.append(f"{who} runs in {id} beside {now}")
        if self.epochs.setdefault(id, epoch) > epoch:
            self.wrong.append(f"{id} runs under {epoch} after {self.epochs[id]}")
        self.epochs[id] = epoch
        self.back += self.depth[id] > 0
        self.depth[id] += 1

    def leave(self, id: str) -> None:
        self.depth[id] -= 1
        if not self.depth[id]:
            del self.inside[id]


play: Play


@pytest.fixture(autouse=True)
def way() -> None:
    """Once is enough: no method here could run in place."""


class Worker(goverse.Object, reentrancy="allow"):
    """Runs through other objects, each within the turn of the one before."""

    @goverse.method
    async def work(self, who: str, path: list[str], work_s: float) -> int:
        mine = play
        mine.enter(self.id, who, goverse.context().epoch)
        try:
            await mine.pause(work_s)
            if path:
                return 1 + await goverse.get(Worker, path[0]).work(who, path[1:], work_s)
            return 1
        finally:
            mine.leave(self.id)

    @goverse.method
    async def hang(self, who: str) -> None:
        """Swallows whatever tells it to end, and goes on when its shard is long somebody else's."""
        mine = play
        mine.enter(self.id, who, goverse.context().epoch)
        mine.hung[self.id] = None
        while not mine.freed.is_set():
            try:
                await mine.freed.wait()
            except asyncio.CancelledError:
                mine.outcomes["swallowed"] += 1
        mine.leave(self.id)
        try:
            await goverse.get(Worker, name(0, 0)).work(who, [], 0.0)
            mine.wrong.append(f"{who} called after it was removed")
        except Fenced:
            mine.outcomes["refused"] += 1


def name(shard: int, number: int) -> str:
    return f"shard#{shard}/w{number}"


class Patient(Node):
    """Its router asks again when the shard was not open, as that of a node does."""

    async def invoke(self, call: Call) -> Reply:
        while True:
            try:
                return await super().invoke(call)
            except NotOwner as error:
                if play.over or error.executed is not Executed.NO:
                    raise
                await play.pause(0.001)


async def _caller(node: Patient, number: int) -> None:
    chance = random.Random(f"{play.seed} {number}")
    for turn in range(play.calls):
        await play.pause(chance.random() * play.spread_s)
        home = chance.randrange(SHARDS)
        who = f"{number}-{turn}"
        shards = [home if chance.random() < 0.5 else chance.randrange(SHARDS) for _ in range(4)]
        places = {(chance.randrange(OBJECTS), shard) for shard in shards[: chance.randrange(1, 5)]}
        # In one order, by number: chains that cross would wait for each other's objects. Shards
        # are crossed in every direction.
        path = [name(shard, number) for number, shard in sorted(places)]
        if chance.random() < 0.3:
            path.append(path[0])  # and back into the turn that waits
        call = make_call(
            "Worker", path[0], "work", timeout_s=1e6,
            who=who, path=path[1:], work_s=chance.random() * 0.002,
        )  # fmt: skip
        await _outcome(node, call)


async def _hang(node: Patient, number: int) -> None:
    await play.pause(number * play.spread_s / 3)
    id, who = f"shard#{number % SHARDS}/h{number}", f"h{number}"
    await _outcome(node, make_call("Worker", id, "hang", timeout_s=1e6, who=who))


async def _outcome(node: Patient, call: Call) -> None:
    try:
        await node.invoke(call)
        play.outcomes["ok"] += 1
    except Unavailable as error:
        good = error.executed is Executed.UNKNOWN and "cut off" in error.message
        play.outcomes["cut off" if good else f"{error}"] += 1
    except ObjectFailed as error:
        cause = error.details.get("cause")
        play.outcomes[f"within: {cause}"] += 1
    except GoverseError as error:
        play.outcomes[f"{error!r}"] += 1


async def _mover(node: Patient, shard: int) -> None:
    """Closes a shard as ownership does, and opens it under the next epoch."""
    chance = random.Random(f"{play.seed} mover {shard}")
    loop = asyncio.get_running_loop()
    wanted_at: float | None = None
    epoch = 100
    while not play.over:
        await play.pause(chance.random() * 0.05)
        wanted_at = loop.time() if wanted_at is None else wanted_at
        wanted_s = loop.time() - wanted_at
        closed = await node.catalog.shards.close_shard(
            shard, drain_timeout_s=0.02, wanted_s=wanted_s
        )
        play.moves[closed] += 1
        if closed:
            wanted_at = None
            await play.pause(0.001)
            epoch += 1
            await node.catalog.shards.open_shard(shard, Epoch(1, epoch))


async def _run(hanging: int) -> None:
    node = Patient(Worker, holds=play.holds)
    await node.open_all()
    callers = [asyncio.create_task(_caller(node, number)) for number in range(play.callers)]
    hung = [asyncio.create_task(_hang(node, number)) for number in range(hanging)]
    movers = [asyncio.create_task(_mover(node, shard)) for shard in range(SHARDS)]
    await asyncio.gather(*callers)
    while len(node.catalog.shards.holders.loose()) < hanging:
        await play.pause(0.05)
    named = {
        latch.object for latch in node.catalog.census.latches(100) if latch.state == "cut_loose"
    }
    assert named == {f"Worker/{id}" for id in play.hung} and len(named) == hanging
    play.over = True
    await asyncio.gather(*movers)
    play.freed.set()
    await asyncio.gather(*hung)
    assert [shard.holders for shard in node.catalog.snapshot().shards] == [0] * len(
        node.catalog.snapshot().shards
    )
    assert node.catalog.census.latches(100) == () and play.inside == {}
    await node.catalog.stop(0.0)
    await node.tasks.close()


def _judge(hanging: int, caplog: pytest.LogCaptureFixture, *, virtual: bool) -> None:
    assert play.wrong == []
    total = play.callers * play.calls
    assert play.outcomes.pop("swallowed") == play.outcomes.pop("refused") == hanging
    others = set(play.outcomes) - {"ok", "cut off"}
    if virtual:
        assert play.outcomes == {"ok": total, "cut off": hanging}, "nobody else is cut off"
    else:  # a machine that stands still for a moment holds up everybody
        assert all(text.startswith("within: ") for text in others), play.outcomes
        assert play.outcomes.total() == total + hanging
    assert play.moves[True] > 4 * SHARDS and play.back > total / 20
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    for id in play.hung:
        assert any(f"Worker/{id}.hang" in text and "cut loose" in text for text in errors)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_L14_thousands_of_nested_calls_while_shards_close_and_open(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """In virtual time: a deadlock is an error there."""
    global play

    async def main(loop: SimLoop) -> None:
        await _run(hanging=6)

    play = Play(seed, 1_000, 3, Holds(max_hold_s=3.0, warn_after_s=0.1), 8.0, elapse)
    with caplog.at_level(logging.ERROR, "goverse.objects.holders"):
        run_virtual(main)
    _judge(6, caplog, virtual=True)


async def test_L14_the_same_on_a_real_loop_and_shorter(caplog: pytest.LogCaptureFixture) -> None:
    global play

    async def passes(seconds: float) -> None:
        await turns_of_the_loop(1 + int(seconds * 1000))

    play = Play(4, 100, 3, Holds(max_hold_s=0.3, warn_after_s=0.1), 0.05, passes)
    with caplog.at_level(logging.ERROR, "goverse.objects.holders"):
        await _run(hanging=2)
    _judge(2, caplog, virtual=False)
