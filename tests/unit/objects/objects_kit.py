"""One node's catalog, and a router that gives every call a task of its own, as a node does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.call import Call, ChainEntry, Codec, Reply, Verb
from goverse.config.settings import LimitSettings, ObjectSettings
from goverse.ids import Epoch
from goverse.objects import CallDefaults, Catalog, Moves, Registry, interface_of, reference
from goverse.objects.durability.service import Durability
from goverse.objects.latch import Holds, LatchObserver
from goverse.objects.luggage import Arrivals, Courier, Luggage
from goverse.objects.recording import ReliableCalls
from goverse.sharding import shard_of

NUM_SHARDS = 8
EPOCH = Epoch(1, 100)


class Facts:
    node_name = "n1"

    def __init__(self) -> None:
        self.lease = True

    def lease_valid(self) -> bool:
        return self.lease

    def shard_of(self, id: str) -> int:
        return shard_of(id, NUM_SHARDS)


class Observer:
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def activated(self, type_name: str) -> None:
        self.seen.append(("activated", type_name))

    def deactivated(self, type_name: str) -> None:
        self.seen.append(("deactivated", type_name))

    def turn_ended(self, type_name: str, method: str, status: str, seconds: float) -> None:
        assert seconds >= 0
        self.seen.append(("ended", type_name, method, status))


class Homebound:
    """A courier of a node whose shards go nowhere."""

    def leads_away(self, shard: int) -> bool:
        return False

    async def deliver(self, shard: int, epoch: Epoch, luggage: Luggage) -> None:
        raise AssertionError("there is nothing to deliver")


class Node:
    """The catalog under test. It is its own router: what leaves an object comes back to it."""

    def __init__(
        self,
        *classes: type,
        settings: ObjectSettings | None = None,
        limits: LimitSettings | None = None,
        durability: Durability | None = None,
        reliable: Callable[[Node], ReliableCalls] | None = None,
        courier: Courier | None = None,
        holds: Holds | None = None,
        latch_observer: LatchObserver | None = None,
    ) -> None:
        self.facts = Facts()
        self.observer = Observer()
        self.registry = Registry()
        for cls in classes:
            self.registry.add(cls)
        self.tasks = Tasks("router")
        self.sent: list[Call] = []
        self.outcomes: dict[str, int] = {}
        limits = limits or LimitSettings()
        self.arrivals = Arrivals(self.registry, self, limits.max_moved_bytes)
        self.catalog = Catalog(
            self.registry,
            self.facts,
            self,
            settings or ObjectSettings(),
            limits,
            Runtime(),
            observer=self.observer,
            durability=durability,
            reliable=reliable(self) if reliable is not None else None,
            moves=Moves(self.arrivals, courier or Homebound()),
            holds=holds,
            latch_observer=latch_observer,
        )

    def moved(self, outcome: str, objects: int) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + objects

    async def invoke(self, call: Call) -> Reply:
        self.sent.append(call)
        task = asyncio.get_running_loop().create_task(self.catalog.invoke(call))
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            raise

    def get(self, target: Any, id: str = "x", timeout_s: float = 5.0) -> Any:
        return reference(interface_of(target), id, self, CallDefaults(timeout_s, 5.0, 5.0))

    def call(self, type_name: str, id: str, method: str, **arguments: Any) -> asyncio.Task[Reply]:
        return self.send(make_call(type_name, id, method, **arguments))

    def send(self, call: Call) -> asyncio.Task[Reply]:
        return asyncio.get_running_loop().create_task(self.catalog.invoke(call))

    async def open_all(self, epoch: Epoch = EPOCH) -> None:
        for shard in range(-1, NUM_SHARDS):
            await self.catalog.shards.open_shard(shard, epoch)

    def ids(self) -> list[str]:
        return [one.id for one in self.catalog.census.objects()]


def make_call(
    type_name: str,
    id: str,
    method: str,
    *,
    timeout_s: float = 5.0,
    codec: Codec = Codec.MSGPACK,
    verb: Verb = Verb.CALL,
    chain: tuple[ChainEntry, ...] = (),
    payload: bytes | None = None,
    call_id: str = "",
    **arguments: Any,
) -> Call:
    if payload is None:
        encode = msgspec.json.encode if codec is Codec.JSON else msgspec.msgpack.encode
        payload = encode(arguments) if arguments else b""
    deadline = asyncio.get_running_loop().time() + timeout_s
    return Call(
        type_name,
        id,
        method,
        payload,
        deadline,
        codec=codec,
        verb=verb,
        chain=chain,
        call_id=call_id,
    )


def value_of(reply: Reply) -> Any:
    decode = msgspec.json.decode if reply.codec is Codec.JSON else msgspec.msgpack.decode
    return decode(reply.payload)


@asynccontextmanager
async def running(*classes: type, opened: bool = True, **options: Any):
    node = Node(*classes, **options)
    if opened:
        await node.open_all()
    try:
        yield node
    finally:
        node.facts.lease = True
        await node.catalog.stop(0.0)
        await node.tasks.close()
        left = [
            task
            for task in asyncio.all_tasks()
            if task is not asyncio.current_task() and not task.done()
        ]
        if left:
            _, stuck = await asyncio.wait(left, timeout=2)
            assert not stuck, f"tasks left behind: {stuck}"


async def turns_of_the_loop(count: int = 20) -> None:
    """Let everything that is ready run."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        passed = loop.create_future()
        loop.call_soon(passed.set_result, None)
        await passed
