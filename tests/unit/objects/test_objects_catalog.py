"""Shards of a node: opening, draining, closing, losing the lease."""

import asyncio

import pytest
from objects_kit import EPOCH, NUM_SHARDS, make_call, running, turns_of_the_loop, value_of

import goverse
from goverse.call import ChainEntry, Verb
from goverse.config.settings import LimitSettings
from goverse.errors import Fenced, NotOwner, Outranked, Overloaded
from goverse.ids import Epoch
from goverse.sharding import shard_of

NEWER = Epoch(1, 200)


class Thing(goverse.Object):
    value: int = 0

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    @goverse.method
    async def bump(self) -> int:
        self.value += 1
        return self.value

    @goverse.method
    async def hold(self) -> int:
        self.value += 1
        await self.gate.wait()
        return self.value

    @goverse.method
    async def stubborn(self) -> int:
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.value += 100
                return self.value
        return self.value


class Slow(Thing):
    async def on_deactivate(self) -> None:
        await self.gate.wait()


def instance_of(node, id="x", type_name="Thing"):
    return node.catalog._activations[(type_name, id)].instance


def shard_x():
    return shard_of("x", NUM_SHARDS)


async def test_a_shard_that_is_not_open_answers_with_the_newest_epoch_known():
    async with running(Thing, opened=False) as node:
        with pytest.raises(NotOwner) as caught:
            await node.call("Thing", "x", "bump")
        assert caught.value.epoch == Epoch(0, 0)
        await node.catalog.shards.open_shard(shard_x(), EPOCH)
        assert value_of(await node.call("Thing", "x", "bump")) == 1
        assert await node.catalog.shards.close_shard(shard_x(), drain_timeout_s=1)
        with pytest.raises(NotOwner) as caught:
            await node.call("Thing", "x", "bump")
        assert caught.value.epoch == EPOCH
        assert caught.value.executed is goverse.Executed.NO


async def test_calls_wait_in_order_while_the_shard_opens():
    async with running(Thing, opened=False) as node:
        node.catalog.shards.begin_opening(shard_x(), EPOCH)
        calls = [node.call("Thing", "x", "bump") for _ in range(5)]
        await turns_of_the_loop()
        assert node.catalog.snapshot().held == 5 and node.ids() == []
        opening = asyncio.ensure_future(node.catalog.shards.open_shard(shard_x(), EPOCH))
        # It arrives in the same pass of the loop, and must not overtake those that waited.
        late = node.call("Thing", "x", "bump")
        await opening
        assert [value_of(await call) for call in calls] == [1, 2, 3, 4, 5]
        assert value_of(await late) == 6
        assert node.catalog.snapshot().held == 0


async def test_waiting_for_a_shard_is_bounded_cancellable_and_has_a_deadline():
    async with running(Thing, opened=False, limits=LimitSettings(max_waiting_calls=2)) as node:
        node.catalog.shards.begin_opening(shard_x(), EPOCH)
        first = node.call("Thing", "x", "bump")
        second = node.send(make_call("Thing", "x", "bump", timeout_s=0.03))
        await turns_of_the_loop()
        with pytest.raises(Overloaded):
            await node.call("Thing", "x", "bump")
        with pytest.raises(goverse.DeadlineExceeded) as caught:
            await second
        assert caught.value.executed is goverse.Executed.NO
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert node.catalog.snapshot().held == 0
        third = node.call("Thing", "x", "bump")
        await turns_of_the_loop()
        assert await node.catalog.shards.close_shard(shard_x(), drain_timeout_s=1)
        with pytest.raises(NotOwner):
            await third


async def test_opening_is_idempotent_and_epochs_only_grow():
    async with running(Thing) as node:
        await node.call("Thing", "x", "bump")
        await node.catalog.shards.open_shard(shard_x(), EPOCH)
        assert value_of(await node.call("Thing", "x", "bump")) == 2
        with pytest.raises(Outranked, match="is older than") as outranked:
            await node.catalog.shards.open_shard(shard_x(), Epoch(1, 5))
        assert outranked.value.epoch == EPOCH
        running_call = node.call("Thing", "x", "hold")
        queued = node.call("Thing", "x", "bump")
        await turns_of_the_loop()
        await node.catalog.shards.open_shard(shard_x(), NEWER)
        with pytest.raises(Fenced) as fenced:
            await running_call
        assert fenced.value.executed is goverse.Executed.UNKNOWN
        with pytest.raises(NotOwner) as caught:
            await queued
        assert caught.value.epoch == EPOCH
        assert value_of(await node.call("Thing", "x", "bump")) == 1
        assert node.catalog.census.objects()[0].epoch == NEWER


@pytest.mark.parametrize("id", ["x", f"shard#{shard_of('x', NUM_SHARDS)}/x", "node#n1/x"])
async def test_L04_every_object_is_evicted_with_its_shard(id):
    """Also objects placed on a fixed shard or node by their id."""
    async with running(Thing) as node:
        shard = shard_of(id, NUM_SHARDS)
        assert value_of(await node.call("Thing", id, "bump")) == 1
        assert node.catalog.census.objects()[0].shard == shard
        other = (shard + 1) % NUM_SHARDS if shard >= 0 else 0
        assert await node.catalog.shards.close_shard(other, drain_timeout_s=1)
        assert node.ids() == [id]
        assert await node.catalog.shards.close_shard(shard, drain_timeout_s=1)
        assert node.ids() == []
        with pytest.raises(NotOwner):
            await node.call("Thing", id, "bump")
        # Back under a newer epoch: a new activation, not the old one.
        await node.catalog.shards.open_shard(shard, NEWER)
        assert value_of(await node.call("Thing", id, "bump")) == 1


async def test_L05_no_activation_is_made_on_a_shard_that_left_in_between():
    """Whatever waited when the shard left is refused; nothing is made after the check."""
    made: list[str] = []

    class Counted(goverse.Object):
        async def on_activate(self) -> None:
            made.append(self.id)
            await turns_of_the_loop(3)

        @goverse.method
        async def go(self) -> str:
            return self.id

    loop = asyncio.get_running_loop()
    for passes in range(12):
        async with running(Counted) as node:
            calls = [node.call("Counted", "x", "go") for _ in range(3)]

            def leave(after: int, node=node) -> None:
                # Behind the calls in the loop's queue: each of their steps is followed by it.
                if after:
                    loop.call_soon(leave, after - 1)
                else:
                    node.catalog.shards.discard_all("lost")

            loop.call_soon(leave, passes)
            results = await asyncio.gather(*calls, return_exceptions=True)
            await turns_of_the_loop()
            assert node.ids() == []
            for result in results:
                assert not isinstance(result, Exception) or isinstance(result, NotOwner), result


async def test_a_drain_waits_for_the_running_turn_and_sends_the_queued_ones_back_in_order():
    async with running(Thing) as node:
        first = node.call("Thing", "x", "hold")
        queued = [node.call("Thing", "x", "bump") for _ in range(3)]
        await turns_of_the_loop()
        thing = instance_of(node)
        closing = asyncio.ensure_future(
            node.catalog.shards.close_shard(shard_x(), drain_timeout_s=3)
        )
        await turns_of_the_loop()
        queued.append(node.call("Thing", "x", "bump"))
        await turns_of_the_loop()
        order: list[int] = []
        for number, call in enumerate(queued):
            call.add_done_callback(lambda _, number=number: order.append(number))
        assert node.catalog.snapshot().held == 4
        thing.gate.set()
        assert value_of(await first) == 1
        assert await closing
        for call in queued:
            with pytest.raises(NotOwner) as caught:
                await call
            assert caught.value.epoch == EPOCH
        await turns_of_the_loop()
        assert order == [0, 1, 2, 3]
        assert thing.value == 1


async def test_a_drain_that_takes_too_long_is_called_off_and_nothing_is_lost():
    async with running(Thing) as node:
        first = node.call("Thing", "x", "hold")
        queued = [node.call("Thing", "x", "bump") for _ in range(2)]
        await turns_of_the_loop()
        closing = asyncio.ensure_future(
            node.catalog.shards.close_shard(shard_x(), drain_timeout_s=0.03)
        )
        await turns_of_the_loop()
        queued.append(node.call("Thing", "x", "bump"))
        assert await closing is False
        instance_of(node).gate.set()
        assert value_of(await first) == 1
        assert [value_of(await call) for call in queued] == [2, 3, 4]


async def test_a_cancelled_drain_opens_the_shard_again():
    async with running(Thing) as node:
        first = node.call("Thing", "x", "hold")
        await turns_of_the_loop()
        closing = asyncio.ensure_future(
            node.catalog.shards.close_shard(shard_x(), drain_timeout_s=5)
        )
        await turns_of_the_loop()
        with pytest.raises(RuntimeError, match="being closed already"):
            await node.catalog.shards.close_shard(shard_x(), drain_timeout_s=5)
        queued = node.call("Thing", "x", "bump")
        await turns_of_the_loop()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        instance_of(node).gate.set()
        await first
        assert value_of(await queued) == 2


async def test_a_hook_that_hangs_does_not_keep_the_shard():
    async with running(Slow) as node:
        await node.call("Slow", "x", "bump")
        assert await node.catalog.shards.close_shard(shard_x(), drain_timeout_s=0.03)
        assert node.ids() == []


async def test_calls_of_a_chain_can_come_to_objects_that_were_closed_already():
    class Chatty(goverse.Object):
        async def on_deactivate(self) -> None:
            if self.id == f"shard#{shard_x()}/a":
                await goverse.get(Chatty, f"shard#{shard_x()}/b").ping()

        @goverse.method
        async def ping(self) -> None: ...

    async with running(Chatty) as node:
        await node.call("Chatty", f"shard#{shard_x()}/a", "ping")
        await node.call("Chatty", f"shard#{shard_x()}/b", "ping")
        assert await node.catalog.shards.close_shard(shard_x(), drain_timeout_s=1)
        assert node.ids() == []


async def test_discarding_is_synchronous_and_nothing_leaves_afterwards():
    async with running(Thing) as node:
        first = node.call("Thing", "x", "hold")
        queued = node.call("Thing", "x", "bump")
        other = node.call("Thing", "y", "stubborn")
        await turns_of_the_loop()
        node.catalog.shards.discard_all("the lease is lost")
        assert node.ids() == [] and node.catalog.snapshot().shards == ()
        with pytest.raises(Fenced, match="the lease is lost") as caught:
            await first
        assert caught.value.executed is goverse.Executed.UNKNOWN
        with pytest.raises(NotOwner):
            await queued
        # It ignored its cancellation and returned a value: that does not leave either, although
        # a new lease is valid by now.
        with pytest.raises(Fenced):
            await other
        with pytest.raises(NotOwner):
            await node.call("Thing", "x", "bump")
        await node.catalog.shards.open_shard(shard_x(), NEWER)
        assert value_of(await node.call("Thing", "x", "bump")) == 1


async def test_turns_never_overlap_even_if_a_discarded_one_takes_its_time_to_end():
    class Lingers(Thing):
        @goverse.method
        async def linger(self) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                log.append("told to end")
                await self.gate.wait()
                log.append("ended")

        @goverse.method
        async def next(self) -> int:
            log.append("next")
            return 1

    log: list[str] = []
    async with running(Lingers) as node:
        first = node.call("Lingers", "x", "linger")
        await turns_of_the_loop()
        old = instance_of(node, type_name="Lingers")
        node.catalog.shards.discard_all("lost")
        await node.catalog.shards.open_shard(shard_x(), NEWER)
        second = node.call("Lingers", "x", "next")
        await turns_of_the_loop()
        assert not second.done() and log == ["told to end"]
        # Discarded while it waits: the one after it waits for the same old turn.
        node.catalog.shards.discard_all("lost again")
        with pytest.raises(NotOwner):
            await second
        await node.catalog.shards.open_shard(shard_x(), Epoch(1, 300))
        third = node.call("Lingers", "x", "next")
        await turns_of_the_loop()
        assert not third.done()
        old.gate.set()
        assert value_of(await third) == 1
        assert log == ["told to end", "ended", "next"]
        with pytest.raises(Fenced):
            await first


@pytest.mark.parametrize("method", ["hold", "fails"])
async def test_a_reply_or_error_does_not_leave_once_the_lease_is_over(method):
    """The process was paused during the turn, and nothing told the catalog yet."""

    class Fails(Thing):
        @goverse.method
        async def fails(self) -> None:
            await self.gate.wait()
            raise goverse.ApplicationError("seen")

    async with running(Fails) as node:
        call = node.call("Fails", "x", method)
        await turns_of_the_loop()
        node.facts.lease = False
        instance_of(node, type_name="Fails").gate.set()
        with pytest.raises(Fenced) as caught:
            await call
        assert caught.value.executed is goverse.Executed.UNKNOWN


async def test_a_deletion_does_not_answer_without_a_lease():
    async with running(Thing) as node:
        node.facts.lease = False
        with pytest.raises(NotOwner):
            await node.send(make_call("Thing", "x", "", verb=Verb.DELETE))


async def test_an_orderly_stop_lets_turns_end_and_then_cuts_them_off():
    async with running(Thing, Slow) as node:
        first = node.call("Thing", "x", "hold")
        endless = node.call("Thing", "y", "hold")
        await node.call("Slow", "z", "bump")
        await turns_of_the_loop()
        stopping = asyncio.ensure_future(node.catalog.stop(0.1))
        await turns_of_the_loop()
        late = node.call("Thing", "w", "bump")
        instance_of(node).gate.set()
        assert value_of(await first) == 1
        await stopping
        with pytest.raises(goverse.Unavailable) as caught:
            await endless
        assert caught.value.executed is goverse.Executed.UNKNOWN
        with pytest.raises(NotOwner):
            await late
        assert node.catalog.snapshot().stopped and node.ids() == []
        with pytest.raises(goverse.Unavailable, match="stopping"):
            await node.catalog.shards.open_shard(0, NEWER)


async def test_snapshots_tell_what_is_there():
    async with running(Thing) as node:
        call = node.call("Thing", "x", "hold")
        queued = node.call("Thing", "x", "bump")
        await turns_of_the_loop()
        (one,) = node.catalog.census.objects()
        assert (one.type, one.id, one.state, one.running, one.waiting) == (
            "Thing", "x", "active", 1, 1,
        )  # fmt: skip
        assert one.epoch == EPOCH and one.shard == shard_x() and one.age_s >= 0
        shards = {shard.number: shard for shard in node.catalog.snapshot().shards}
        assert len(shards) == NUM_SHARDS + 1
        assert (shards[shard_x()].holders, shards[shard_x()].state) == (2, "open")
        instance_of(node).gate.set()
        await asyncio.gather(call, queued)
        assert node.catalog.census.objects()[0].running == 0


async def test_a_chain_entry_of_an_older_epoch_is_not_a_turn_of_this_activation():
    async with running(Thing) as node:
        call = node.call("Thing", "x", "hold")
        await turns_of_the_loop()
        chain = (ChainEntry("Thing", "x", Epoch(1, 1), 1),)
        queued = node.send(make_call("Thing", "x", "bump", chain=chain))
        await turns_of_the_loop()
        assert not queued.done()
        instance_of(node).gate.set()
        await asyncio.gather(call, queued)
