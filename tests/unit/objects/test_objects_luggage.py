"""Declared state of volatile objects that goes along with their shard: what is packed, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

import goverse
from goverse.call import ChainEntry, Verb
from goverse.config.settings import AutoloadSettings, LimitSettings, ObjectSettings
from goverse.errors import (
    Conflict,
    FailedPrecondition,
    GoverseError,
    NotOwner,
    Overloaded,
    PermissionDenied,
)
from goverse.ids import NO_EPOCH, Epoch
from goverse.objects.luggage import KEPT_S, PIECE_BYTES, Arrivals, Luggage, Packed, Piece
from tests.support.eventually import eventually
from tests.support.virtual import elapse
from tests.unit.objects.objects_kit import (
    EPOCH,
    NUM_SHARDS,
    Node,
    make_call,
    running,
    turns_of_the_loop,
    value_of,
)

NEXT = Epoch(1, 200)
SHARD = 3
A, B = f"shard#{SHARD}/a", f"shard#{SHARD}/b"
OTHER = f"shard#{SHARD + 1}/c"


class Counter(goverse.Object):
    value: int = 0

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @goverse.method
    async def wait(self) -> int:
        await WAITING[self.id].wait()
        self.value += 1
        return self.value

    @goverse.method
    async def add_there(self, there: str) -> int:
        """A turn that waits, and then calls another object."""
        await WAITING[self.id].wait()
        self.value += 1
        return await goverse.get(Counter, there).add()


class Hooked(goverse.Object):
    value: int = 0
    ends: int = 0

    async def on_activate(self) -> None:
        if FAULTS.pop(f"activate {self.id}", None):
            raise RuntimeError("not now")

    async def on_deactivate(self) -> None:
        self.ends += 1
        if FAULTS.pop(f"deactivate {self.id}", None):
            raise RuntimeError("not like that")
        if FAULTS.pop(f"hang {self.id}", None):
            await goverse.get(Counter, A).wait()
        if self.id == B:
            await goverse.get(Counter, A).add(amount=100)

    @goverse.method
    async def add(self) -> list[int]:
        self.value += 1
        return [self.value, self.ends]


class Crowd(goverse.Object, concurrent=True):
    value: int = 0

    @goverse.method
    async def add(self) -> int:
        self.value += 1
        return self.value


class Stateless(goverse.Object):
    @goverse.method
    async def add(self) -> int:
        return 0


class Loose(goverse.Object):
    """A read may leave what cannot be encoded."""

    value: Any = 0

    @goverse.method(read_only=True)
    async def spoil(self) -> None:
        self.value = object()

    @goverse.method
    async def add(self) -> int:
        self.value += 1
        return int(self.value)


class Brief(goverse.Object, idle_timeout_s=10.0):
    value: int = 0

    @goverse.method
    async def add(self) -> int:
        self.value += 1
        return self.value


WAITING: dict[str, asyncio.Event] = {}
FAULTS: dict[str, bool] = {}


@dataclass
class Hand:
    """A courier that carries by hand, once it is let go."""

    pieces: list[Piece] = field(default_factory=list)
    free: asyncio.Event = field(default_factory=asyncio.Event)
    away: bool = True
    begun: int = 0

    def leads_away(self, shard: int) -> bool:
        return self.away

    async def deliver(self, shard: int, epoch: Epoch, luggage: Luggage) -> None:
        self.begun += 1
        now = asyncio.get_running_loop().time()
        self.pieces += [Piece(shard, epoch, objects) for objects in luggage.pieces(now)]
        await self.free.wait()

    @property
    def objects(self) -> dict[str, Packed]:
        return {packed.id: packed for piece in self.pieces for packed in piece.objects}


CLASSES = (Counter, Hooked, Crowd, Stateless, Loose, Brief)


@asynccontextmanager
async def old_owner(*, let_go: bool = True, **options: Any) -> AsyncIterator[tuple[Node, Hand]]:
    WAITING.clear()
    FAULTS.clear()
    for id in (A, B, OTHER):
        WAITING[id] = asyncio.Event()
    hand = Hand()
    if let_go:
        hand.free.set()
    async with running(*CLASSES, courier=hand, **options) as node:
        yield node, hand


async def closes(node: Node, timeout_s: float = 3.0) -> bool:
    return await node.catalog.shards.close_shard(SHARD, drain_timeout_s=timeout_s)


@asynccontextmanager
async def new_owner(
    pieces: list[Piece], *classes: type, released: Epoch = EPOCH, **options: Any
) -> AsyncIterator[Node]:
    """A node that gets ``pieces``, and the shard."""
    async with running(*(classes or CLASSES), opened=False, **options) as node:
        for piece in pieces:
            node.arrivals.add(msgspec.msgpack.decode(msgspec.msgpack.encode(piece), type=Piece))
        await node.catalog.shards.open_shard(SHARD, NEXT, released=released)
        yield node


async def do(node: Node, type: str, id: str, method: str, **arguments: Any) -> Any:
    return value_of(await node.call(type, id, method, **arguments))


# -- what goes along ---------------------------------------------------------------------------


async def test_state_goes_along_and_nothing_else_does() -> None:
    async with old_owner() as (old, hand):
        await do(old, "Counter", A, "add", amount=5)
        await do(old, "Crowd", A, "add")
        await do(old, "Stateless", A, "add")
        await do(old, "Counter", OTHER, "add")
        assert await closes(old)
        assert sorted((packed.type, packed.id) for packed in hand.pieces[0].objects) == [
            ("Counter", A),
            ("Crowd", A),
        ]
        assert hand.pieces[0].epoch == EPOCH
        assert await do(old, "Counter", OTHER, "add") == 2
    async with new_owner(hand.pieces) as new:
        assert new.ids() == []  # nobody has called them yet
        assert await do(new, "Counter", A, "add") == 6
        assert await do(new, "Crowd", A, "add") == 2
        assert await do(new, "Counter", B, "add") == 1
        assert new.outcomes == {"restored": 2}
        assert [limit.used for limit in new.arrivals.limits()] == [0]


async def test_a_shard_with_nothing_to_take_along_asks_no_courier() -> None:
    async with old_owner() as (old, hand):
        await do(old, "Stateless", A, "add")
        assert await closes(old)
        assert hand.begun == 0
        hand.away = False
        await old.catalog.shards.open_shard(SHARD, NEXT)
        await do(old, "Counter", A, "add")
        assert await closes(old)
        assert hand.begun == 0 and old.outcomes == {}


async def test_what_a_hook_does_at_the_end_goes_along_and_what_it_fails_at_does_not() -> None:
    async with old_owner() as (old, hand):
        await do(old, "Hooked", A, "add")
        await do(old, "Hooked", OTHER.replace("4/", "3/"), "add")
        FAULTS[f"deactivate {OTHER.replace('4/', '3/')}"] = True
        assert await closes(old)
    async with new_owner(hand.pieces) as new:
        assert await do(new, "Hooked", A, "add") == [2, 1]
        assert await do(new, "Hooked", OTHER.replace("4/", "3/"), "add") == [2, 0]


async def test_a_hook_that_calls_an_object_that_was_packed_already_changes_what_is_sent() -> None:
    async with old_owner() as (old, hand):
        await do(old, "Counter", A, "add")
        await do(old, "Hooked", B, "add")
        assert await closes(old)
    async with new_owner(hand.pieces) as new:
        assert await do(new, "Counter", A, "add") == 102


@pytest.mark.virtual_time
async def test_an_object_that_does_not_end_is_cut_off_and_counted() -> None:
    """The hook of one waits for a turn of another, which was packed before and now never ends."""
    async with old_owner() as (old, hand):
        await do(old, "Counter", A, "add")
        await do(old, "Hooked", B, "add")
        FAULTS[f"hang {B}"] = True
        assert await closes(old, 1.0)
        assert old.outcomes == {"cut_off": 1}
    async with new_owner(hand.pieces) as new:
        assert await do(new, "Hooked", B, "add") == [2, 0]  # as its last turn left it
        assert await do(new, "Counter", A, "add") == 1


# -- while it is sent --------------------------------------------------------------------------


async def test_L14_a_chained_call_that_comes_while_state_is_sent_does_not_run_on_it() -> None:
    """The naive version admits it, answers it, and throws its effect away."""
    async with old_owner(let_go=False) as (old, hand):
        await do(old, "Counter", A, "add")
        closing = asyncio.ensure_future(closes(old))
        await eventually(lambda: hand.pieces)
        chain = (ChainEntry("Counter", OTHER, EPOCH, 1),)
        chained = old.send(make_call("Counter", A, "add", chain=chain))
        plain = old.send(make_call("Counter", A, "add"))
        await turns_of_the_loop()
        assert not chained.done() and not plain.done()
        hand.free.set()
        assert await closing
        for call in (chained, plain):
            with pytest.raises(NotOwner) as caught:
                await call
            assert caught.value.executed.value == "no"
    async with new_owner(hand.pieces) as new:
        assert await do(new, "Counter", A, "add") == 2


async def test_L21_chains_within_a_draining_shard_and_across_two_come_to_their_end() -> None:
    async with old_owner() as (old, hand):
        inside = old.send(make_call("Counter", A, "add_there", there=B))
        across = old.send(make_call("Counter", OTHER, "add_there", there=B))
        await turns_of_the_loop()
        closing = asyncio.gather(
            closes(old), old.catalog.shards.close_shard(SHARD + 1, drain_timeout_s=3.0)
        )
        await turns_of_the_loop()
        held = old.send(make_call("Counter", B, "add"))
        WAITING[A].set()
        WAITING[OTHER].set()
        assert sorted([value_of(await inside), value_of(await across)]) == [1, 2]
        assert await closing == [True, True]
        with pytest.raises(NotOwner):
            await held
    here = [piece for piece in hand.pieces if piece.shard == SHARD]
    async with new_owner(here) as new:
        assert await do(new, "Counter", B, "add") == 3
        assert await do(new, "Counter", A, "add") == 2


async def test_a_move_that_is_called_off_sends_nothing() -> None:
    async with old_owner() as (old, hand):
        slow = old.call("Counter", A, "wait")
        await do(old, "Counter", B, "add")
        await turns_of_the_loop()
        assert not await closes(old, 0.02)
        assert hand.begun == 0
        assert await do(old, "Counter", B, "add") == 2
        WAITING[A].set()
        assert value_of(await slow) == 1
        assert await closes(old)
        assert sorted(hand.objects) == [A, B]


async def test_a_lease_that_ends_while_state_is_sent_ends_everything() -> None:
    async with old_owner(let_go=False) as (old, hand):
        await do(old, "Counter", A, "add")
        closing = asyncio.ensure_future(closes(old))
        await eventually(lambda: hand.pieces)
        old.facts.lease = False
        old.catalog.shards.discard_all("its lease ended")
        assert old.catalog.snapshot().shards == ()
        hand.free.set()
        assert await closing


# -- at its next node --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("released", "why"), [(NO_EPOCH, "unsure"), (Epoch(1, 150), "stale"), (Epoch(1, 99), "stale")]
)
async def test_L04_state_comes_alive_under_the_very_next_claim_alone(
    released: Epoch, why: str
) -> None:
    async with old_owner() as (old, hand):
        await do(old, "Counter", A, "add")
        assert await closes(old)
    async with new_owner(hand.pieces, released=released) as new:
        assert await do(new, "Counter", A, "add") == 1
        assert new.outcomes == {why: 1}


async def test_later_state_replaces_earlier_and_earlier_is_refused() -> None:
    async with running(*CLASSES, opened=False) as node:
        later, earlier = (Packed("Counter", A, 0, packed(value)) for value in (7, 3))
        node.arrivals.add(Piece(SHARD, Epoch(1, 100), (earlier,)))
        node.arrivals.add(Piece(SHARD, Epoch(1, 150), (later,)))
        with pytest.raises(FailedPrecondition, match="newer"):
            node.arrivals.add(Piece(SHARD, Epoch(1, 100), (earlier,)))
        assert node.outcomes == {"superseded": 1}
        await node.catalog.shards.open_shard(SHARD, NEXT, released=Epoch(1, 150))
        assert await do(node, "Counter", A, "add") == 8


def packed(value: int) -> bytes:
    form = Counter.__goverse__.packed
    assert form is not None
    counter = Counter()
    counter.value = value
    return form.pack(Counter.__goverse__.state.encode(counter), None).data


async def test_what_nobody_has_called_is_deleted_and_is_not_created_again() -> None:
    async with old_owner() as (old, hand):
        for id in (A, B):
            await do(old, "Counter", id, "add")
        for id in (A, B):
            await do(old, "Hooked", id, "add")
        assert await closes(old)
    async with new_owner(hand.pieces) as new:
        await new.send(make_call("Counter", A, "", verb=Verb.DELETE))
        assert await do(new, "Counter", A, "add") == 1
        for type in ("Counter", "Hooked"):
            with pytest.raises(Conflict):
                await new.send(make_call(type, B, "", verb=Verb.CREATE))
        assert await do(new, "Counter", B, "add") == 2
        assert await do(new, "Hooked", B, "add") == [2, 1]
        assert new.outcomes == {"deleted": 1, "restored": 2}


async def test_a_hook_that_fails_leaves_the_state_for_the_next_attempt() -> None:
    async with old_owner() as (old, hand):
        await do(old, "Hooked", A, "add")
        assert await closes(old)
    async with new_owner(hand.pieces) as new:
        FAULTS[f"activate {A}"] = True
        with pytest.raises(GoverseError, match="RuntimeError"):
            await do(new, "Hooked", A, "add")
        assert new.outcomes == {}
        assert await do(new, "Hooked", A, "add") == [2, 1]
        assert new.outcomes == {"restored": 1}


async def test_autoload_wakes_what_came_with_the_shard() -> None:
    settings = ObjectSettings(autoload=(AutoloadSettings(type="Brief", name="a", scope="shard"),))
    async with old_owner(settings=settings) as (old, hand):
        await eventually(lambda: A in old.ids())
        await do(old, "Brief", A, "add")
        assert await closes(old)
    async with new_owner(hand.pieces, settings=settings) as new:
        await eventually(lambda: new.ids() == [A])
        assert await do(new, "Brief", A, "add") == 2


@pytest.mark.virtual_time
async def test_what_nobody_calls_goes_when_it_is_idle_and_moves_on_as_old_as_it_is() -> None:
    async with old_owner() as (old, hand):
        await do(old, "Brief", A, "add")
        await do(old, "Brief", B, "add")
        await elapse(4)
        assert await closes(old)
        assert 3_900 < hand.objects[A].idle_ms < 4_200
    second = Hand()
    second.free.set()
    async with new_owner(hand.pieces, courier=second) as new:
        await elapse(3)
        assert await do(new, "Brief", B, "add") == 2
        assert await closes(new)
        assert 6_900 < second.objects[A].idle_ms < 7_200
        assert second.objects[B].idle_ms < 100
        assert second.pieces[0].epoch == NEXT
    async with running(*CLASSES, opened=False) as third:
        for piece in second.pieces:
            third.arrivals.add(piece)
        await third.catalog.shards.open_shard(SHARD, Epoch(1, 300), released=NEXT)
        await elapse(4.5)
        assert third.outcomes == {"idle": 1}
        assert await do(third, "Brief", A, "add") == 1
        assert await do(third, "Brief", B, "add") == 3


@pytest.mark.virtual_time
async def test_what_is_not_opened_in_time_is_dropped() -> None:
    async with running(*CLASSES, opened=False) as node:
        node.arrivals.add(Piece(SHARD, EPOCH, (Packed("Counter", A, 0, packed(1)),)))
        await elapse(KEPT_S + 0.1)
        assert node.outcomes == {"overdue": 1} and len(node.arrivals) == 0
        assert [limit.used for limit in node.arrivals.limits()] == [0]


# -- classes that differ -----------------------------------------------------------------------


def version(number: int) -> type[goverse.Object]:
    """A class as it changes: ``total`` is called ``sum`` from version 2 on, and has company."""
    if number == 1:

        class First(goverse.Object, name="Changed", state_version=1):
            total: int = 0

            @goverse.method
            async def add(self) -> int:
                self.total += 1
                return self.total

        return First

    class Second(goverse.Object, name="Changed", state_version=number):
        sum: int = 0
        note: str = "none"

        @classmethod
        def upgrade_state(cls, version: int, state: dict[str, Any]) -> dict[str, Any]:
            return {"sum": state["total"] * 1000}

        @goverse.method
        async def add(self) -> int:
            self.sum += 1
            return self.sum

    return Second


async def pieces_of(cls: type, calls: int = 1) -> list[Piece]:
    hand = Hand()
    hand.free.set()
    async with running(cls, courier=hand) as node:
        for _ in range(calls):
            await do(node, cls.__goverse__.name, A, "add")
        assert await closes(node)
    return hand.pieces


async def test_L12_older_state_is_upgraded_and_newer_is_left_alone() -> None:
    async with new_owner(await pieces_of(version(1)), version(2)) as node:
        assert await do(node, "Changed", A, "add") == 1001
    async with new_owner(await pieces_of(version(2)), version(1)) as node:
        assert await do(node, "Changed", A, "add") == 1
        assert node.outcomes == {"undecodable": 1}


async def test_a_class_that_is_not_there_or_is_durable_there_begins_afresh() -> None:
    pieces = await pieces_of(version(1))
    async with new_owner(pieces, Counter) as node:
        assert node.outcomes == {"unknown_type": 1}
        assert await do(node, "Counter", A, "add") == 1


async def test_fields_that_a_class_does_not_have_go_on_with_the_next_move() -> None:
    class Wide(goverse.Object, name="Wide"):
        value: int = 0
        extra: list[int] = []

        @goverse.method
        async def add(self) -> int:
            self.value += 1
            self.extra.append(self.value)
            return len(self.extra)

    class Narrow(goverse.Object, name="Wide"):
        value: int = 0

        @goverse.method
        async def add(self) -> int:
            self.value += 1
            return self.value

    hand = Hand()
    hand.free.set()
    async with new_owner(await pieces_of(Wide, 2), Narrow, courier=hand) as narrow:
        assert await do(narrow, "Wide", A, "add") == 3
        assert await closes(narrow)
    async with running(Wide, opened=False) as wide:
        for piece in hand.pieces:
            wide.arrivals.add(piece)
        await wide.catalog.shards.open_shard(SHARD, Epoch(1, 300), released=NEXT)
        assert await do(wide, "Wide", A, "add") == 3


async def test_what_cannot_be_encoded_or_is_too_large_begins_afresh() -> None:
    limits = replace(LimitSettings(), max_state_bytes=100)
    async with old_owner(limits=limits) as (old, hand):
        await do(old, "Loose", A, "spoil")
        await do(old, "Counter", A, "add", amount=7)

        assert await closes(old)
        assert old.outcomes == {"unencodable": 1}
        assert [packed.type for packed in hand.pieces[0].objects] == ["Counter"]


# -- limits ------------------------------------------------------------------------------------


def heavy(id: str, size: int) -> Packed:
    return Packed("Counter", id, 0, bytes(size))


async def test_L29_state_that_waits_is_bounded_in_bytes_and_given_back() -> None:
    limits = replace(LimitSettings(), max_moved_bytes=10_000)
    async with running(*CLASSES, opened=False, limits=limits) as node:
        node.arrivals.add(Piece(1, EPOCH, (heavy("shard#1/a", 5_000),)))
        with pytest.raises(Overloaded, match=r"limits\.max_moved_bytes"):
            node.arrivals.add(Piece(2, EPOCH, (heavy("shard#2/a", 5_000),)))
        assert used(node.arrivals) > 5_000
        # Opened, it still counts, as long as nobody has called it.
        await node.catalog.shards.open_shard(1, NEXT, released=EPOCH)
        with pytest.raises(Overloaded):
            node.arrivals.add(Piece(2, EPOCH, (heavy("shard#2/a", 5_000),)))
        # Small ones have their price too.
        many = tuple(heavy(f"shard#2/{n}", 0) for n in range(40))
        with pytest.raises(Overloaded):
            node.arrivals.add(Piece(2, EPOCH, many))
        node.catalog.shards.discard_all("its lease ended")
        assert used(node.arrivals) == 0
        assert node.outcomes == {"left_behind": 1}
        node.arrivals.add(Piece(2, EPOCH, (heavy("shard#2/a", 5_000),)))
        node.arrivals.drop_all("lease_lost")
        assert used(node.arrivals) == 0


def used(arrivals: Arrivals) -> int:
    (limit,) = arrivals.limits()
    return limit.used


async def test_luggage_is_sent_in_pieces() -> None:
    luggage = Luggage()
    for number in range(50):
        luggage.put(heavy(f"o{number}", 20_000), 0.0)
    luggage.put(heavy("large", 2 * PIECE_BYTES), 0.0)
    pieces = list(luggage.pieces(0.0))
    assert sorted(packed.id for piece in pieces for packed in piece) == sorted(
        [*(f"o{number}" for number in range(50)), "large"]
    )
    for piece in pieces:
        assert len(piece) == 1 or sum(packed.size for packed in piece) <= PIECE_BYTES
    assert len(luggage) == luggage.bytes == 0 and len(pieces) < 10


async def test_nobody_but_a_node_brings_state() -> None:
    async with running(*CLASSES) as node:
        await do(node, "Counter", A, "add")
        piece = msgspec.msgpack.encode(Piece(SHARD, EPOCH, (Packed("Counter", A, 0, b""),)))
        for id in ("", A):
            with pytest.raises(PermissionDenied):
                await node.send(
                    make_call("Counter" if id else "", id, "", verb=Verb.MOVE, payload=piece)
                )
        assert await do(node, "Counter", A, "add") == 2
        assert NUM_SHARDS > SHARD + 1
