"""The crash points of `goverse/reliable/DESIGN.md`, each reached on purpose: the process that comes
to it dies there, and what the page says stands in the store and is learnt by the caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import goverse
from goverse.errors import Executed, GoverseError
from goverse.ids import ObjectId
from goverse.storage.values import Act, CallStatus, OutboxStep, Step
from goverse.testing import Cluster
from tests.support.virtual import elapse

pytestmark = pytest.mark.virtual_time


class Account(goverse.Object, durability="acknowledged"):
    balance: int = 0
    received: list[str] = []

    @goverse.method
    async def deposit(self, amount: int, mark: str = "") -> int:
        self.balance += amount
        if mark:
            self.received.append(mark)
        await reach("turn")
        return self.balance

    @goverse.method
    async def transfer(self, to: str, amount: int) -> int:
        self.balance -= amount
        await reach("turn")
        goverse.issue(goverse.get(Account, to).deposit(amount))
        return self.balance

    @goverse.method(read_only=True)
    async def get(self) -> int:
        return self.balance


#: What happens where a method is in the middle of its turn.
_in_turn: list[Callable[[], Awaitable[None]]] = []


async def reach(place: str) -> None:
    for hook in list(_in_turn):
        await hook()


@dataclass
class Point:
    """Where to die: around the first use of a method of the store that ``wanted`` picks.

    :param when: before, sent (and not answered), or after.
    """

    method: str
    when: str
    wanted: Callable[[Any], bool] = lambda batch: True


class Crash:
    """Kills the process that comes to its point, once; then lets everybody live."""

    def __init__(self, cluster: Cluster, point: Point | None) -> None:
        self.cluster = cluster
        self.point = point
        self.reached = False
        self.seen: dict[str, Any] = {}

    def wrap(self, client: Any) -> Any:
        process = asyncio.current_task().process  # type: ignore[union-attr]
        for name in ("accept", "commit", "change_calls", "change_outbox"):
            setattr(client, name, self._wrapped(process, name, getattr(client, name)))
        return client

    def _wrapped(self, process: str, name: str, method: Any) -> Any:
        async def call(batch: Any) -> Any:
            point = self.point
            if point is None or self.reached or point.method != name or not point.wanted(batch):
                return await method(batch)
            self.reached = True
            if point.when == "before":
                await self.die(process)
            answer = asyncio.ensure_future(method(batch))
            if point.when == "sent":
                await elapse(0.0)  # it is on the wire, and nobody can call it back
                await self.die(process)
            result = await answer
            await self.die(process)
            return result

        return call

    async def in_turn(self) -> None:
        if not self.reached:
            self.reached = True
            await self.die(asyncio.current_task().process)  # type: ignore[union-attr]

    async def die(self, process: str) -> None:
        self.seen = {
            call_id: row.status for call_id, row in self.cluster.store.tables._calls.items()
        }
        self.cluster.kill(process.partition("#")[0])
        await asyncio.Event().wait()


@asynccontextmanager
async def crashing(point: Point | None) -> AsyncGenerator[tuple[Cluster, Any, Crash], None]:
    cluster = Cluster(Account, nodes=0, latency_s=(0.0002, 0.002))
    async with cluster:
        crash = Crash(cluster, point)
        connect = cluster.store.connect
        cluster.store.connect = lambda *a, **k: crash.wrap(connect(*a, **k))  # type: ignore[method-assign]
        await asyncio.gather(*(cluster.start_node(name) for name in ("n1", "n2")))
        cluster.store.connect = connect  # type: ignore[method-assign]
        await cluster.wait_all_claimed()
        try:
            yield cluster, await cluster.client(), crash
        finally:
            _in_turn.clear()


def tables(cluster: Cluster) -> Any:
    return cluster.store.tables


async def settled(cluster: Cluster) -> None:
    """Nothing is pending or on its way any more."""

    def quiet() -> bool:
        census = tables(cluster).census()
        return not (census.pending_calls or census.outbox_rows)

    await cluster.wait_until(quiet, 60)


async def learn(client: Any, call_id: str, id: str, *, timeout_s: float = 30.0) -> Any:
    return await goverse.options(
        client.get(Account, id), call_id=call_id, timeout_s=timeout_s
    ).deposit(5)


def has_outcome(batch: Any) -> bool:
    return any(commit.outcomes for commit in batch)


#: name: where, what stands in the store at that moment, and what it is in the end.
CALLS = {
    "C1 before the accept is sent": (Point("accept", "before"), {None}),
    "C2 after the accept is sent": (Point("accept", "sent"), {None, CallStatus.PENDING}),
    "C3 accepted, its turn has not begun": (Point("accept", "after"), {CallStatus.PENDING}),
    "C5 turn over, commit not sent": (
        Point("commit", "before", has_outcome),
        {CallStatus.PENDING},
    ),
    "C6 commit sent, no answer": (
        Point("commit", "sent", has_outcome),
        {CallStatus.PENDING, CallStatus.SUCCESS},
    ),
    "C7 committed, reply not sent": (
        Point("commit", "after", has_outcome),
        {CallStatus.SUCCESS},
    ),
}


@pytest.mark.parametrize("name", CALLS)
async def test_L01_L03_L36_a_call_takes_effect_once_wherever_its_owner_dies(name: str) -> None:
    point, standing = CALLS[name]
    async with crashing(point) as (cluster, client, crash):
        told = await learn(client, "c", "a")
        assert crash.reached, f"{name} was not reached"
        assert crash.seen.get("c") in standing
        assert told == 5  # the router has repeated it by itself
        assert await learn(client, "c", "a") == 5
        assert await client.get(Account, "a").get() == 5
        assert tables(cluster).get_calls(["c"])["c"].status is CallStatus.SUCCESS


@pytest.mark.parametrize("name", CALLS)
async def test_L07_L36_who_does_not_repeat_is_not_told_that_it_never_ran(name: str) -> None:
    point, _ = CALLS[name]
    async with crashing(point) as (cluster, client, crash):
        with pytest.raises(GoverseError) as told:
            await learn(client, "c", "a", timeout_s=1.0)  # shorter than the failover
        assert crash.reached, f"{name} was not reached"
        if name.startswith("C1"):
            assert crash.seen == {}
        else:
            assert told.value.executed is Executed.UNKNOWN
        await cluster.wait_all_claimed(60)
        await settled(cluster)
        # Nobody has called it again: what was accepted has run all the same, and once.
        row = tables(cluster).get_calls(["c"]).get("c")
        ran = row is not None and row.status is CallStatus.SUCCESS
        assert await client.get(Account, "a").get() == (5 if ran else 0)
        if name[:2] in ("C3", "C5", "C6", "C7"):
            assert ran
        assert await learn(client, "c", "a") == 5


async def test_C4_during_the_turn_attempts_are_counted_for_the_first_call_alone() -> None:
    async with crashing(None) as (cluster, client, crash):
        _in_turn.append(crash.in_turn)
        first = asyncio.ensure_future(learn(client, "c", "a"))
        await cluster.wait_until(lambda: crash.reached)
        behind = asyncio.ensure_future(learn(client, "d", "a"))
        assert (await first, await behind) == (5, 10)
        assert crash.seen == {"c": CallStatus.PENDING}
        rows = tables(cluster).get_calls(["c", "d"])
        assert (rows["c"].attempts, rows["d"].attempts) == (1, 0)


async def test_C4_what_a_planned_move_leaves_pending_is_not_counted() -> None:
    async with crashing(None) as (cluster, client, _):
        began, may_end = asyncio.Event(), asyncio.Event()

        async def hang() -> None:
            began.set()
            await may_end.wait()

        _in_turn.append(hang)
        first = asyncio.ensure_future(learn(client, "c", "a"))
        await began.wait()
        behind = asyncio.ensure_future(learn(client, "d", "a"))
        await cluster.wait_until(lambda: "d" in tables(cluster).get_calls(["d"]))
        shard = cluster.member("n1").node.member.view.shard_of("a")  # type: ignore[union-attr]
        old = cluster.owners()[shard]
        await cluster.pin(shard, "n2" if old == "n1" else "n1")
        await elapse(0.5)  # it is draining
        may_end.set()
        assert (await first, await behind) == (5, 10)
        assert cluster.owners()[shard] != old
        rows = tables(cluster).get_calls(["c", "d"])
        assert (rows["c"].attempts, rows["d"].attempts) == (0, 0)


async def test_C8_a_reply_that_is_lost_on_its_way_is_repeated_by_the_router() -> None:
    async with crashing(None) as (cluster, client, crash):

        async def cut() -> None:
            if not crash.reached:
                crash.reached = True
                process = asyncio.current_task().process  # type: ignore[union-attr]
                cluster.faults.cut_one_way(process.partition("#")[0], "g1")

        _in_turn.append(cut)
        call = asyncio.ensure_future(learn(client, "c", "a"))
        await cluster.wait_until(lambda: tables(cluster).get_calls(["c"]))
        await settled(cluster)
        assert crash.reached and not call.done()
        await elapse(5.0)  # the link is found to be dead
        cluster.heal()
        assert await call == 5
        assert await client.get(Account, "a").get() == 5


def is_child(call: Any) -> bool:
    return call.call_id.startswith("~")


TRANSFERS = {
    "C9 outbox rows committed, not delivered": Point(
        "commit", "after", lambda batch: any(commit.outbox for commit in batch)
    ),
    "C10 delivered, acknowledgement lost": Point(
        "accept", "after", lambda batch: any(is_child(one.call) for one in batch)
    ),
    "C11 acknowledged, row not removed": Point(
        "change_outbox",
        "before",
        lambda batch: any(change.step is OutboxStep.DELIVERED for change in batch),
    ),
    "C11 removed, and that not known": Point("change_outbox", "after"),
}


@pytest.mark.parametrize("name", TRANSFERS)
async def test_L01_a_transfer_arrives_once_wherever_somebody_dies(name: str) -> None:
    async with crashing(TRANSFERS[name]) as (cluster, client, crash):
        for number in range(4):
            account = client.get(Account, f"s{number}")
            sender = goverse.options(account, call_id=f"t{number}", timeout_s=60.0)
            assert await sender.transfer(f"r{number}", 7) == -7
        await settled(cluster)
        assert crash.reached, f"{name} was not reached"
        for number in range(4):
            assert await client.get(Account, f"s{number}").get() == -7
            assert await client.get(Account, f"r{number}").get() == 7


async def test_C12_a_deletion_whose_reply_is_lost_is_repeated_and_skips_its_calls_once() -> None:
    def deletes(batch: Any) -> bool:
        return any(commit.state is Act.DELETE for commit in batch)

    async with crashing(Point("commit", "after", deletes)) as (cluster, client, crash):
        assert await learn(client, "before", "a") == 5
        with pytest.raises(GoverseError) as told:
            await client.delete(Account, "a", timeout_s=1.0)
        assert crash.reached and told.value.executed is Executed.UNKNOWN
        assert tables(cluster).load([ObjectId("Account", "a")]) == {}
        await cluster.wait_all_claimed(60)
        await client.delete(Account, "a")
        assert await learn(client, "after", "a") == 5
        assert await learn(client, "before", "a") == 5  # its outcome is kept


async def test_C13_attempts_raised_and_the_turn_not_begun_counts_one_too_many() -> None:
    def attempt(batch: Any) -> bool:
        return any(step.step is Step.ATTEMPT for step in batch)

    async with crashing(Point("change_calls", "after", attempt)) as (cluster, client, crash):
        first = Crash(cluster, None)
        _in_turn.append(first.in_turn)
        call = asyncio.ensure_future(learn(client, "c", "a", timeout_s=120.0))
        await cluster.wait_until(lambda: first.reached)
        await cluster.wait_until(lambda: crash.reached, 60)
        assert tables(cluster).get_calls(["c"])["c"].attempts == 1
        for name in ("n1", "n2"):
            await cluster.start_node(name)
        assert await call == 5
        assert tables(cluster).get_calls(["c"])["c"].attempts == 2


async def test_C14_between_closing_and_release_everything_is_committed() -> None:
    async with crashing(None) as (cluster, client, crash):
        calls = [asyncio.ensure_future(learn(client, f"c{n}", f"a{n}")) for n in range(10)]
        node = cluster.member("n1").node
        assert node is not None
        close = node.catalog.shards.close_shard

        async def close_and_die(shard: int, **how: float) -> bool:
            closed = await close(shard, **how)
            if closed and not crash.reached:
                crash.reached = True
                await crash.die("n1")
            return closed

        node.catalog.shards.close_shard = close_and_die  # type: ignore[method-assign]
        shard = next(shard for shard, owner in cluster.owners().items() if owner == "n1")
        await cluster.pin(shard, "n2")
        assert await asyncio.gather(*calls) == [5] * 10
        await cluster.wait_until(lambda: crash.reached, 60)
        await settled(cluster)
        for number in range(10):
            assert await client.get(Account, f"a{number}").get() == 5
