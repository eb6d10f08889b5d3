"""A store in memory whose answers a test may lose, and a node of durable objects on it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from objects_kit import EPOCH, NUM_SHARDS, Node

from goverse.aio.runtime import Runtime
from goverse.config.settings import LimitSettings
from goverse.errors import Unavailable
from goverse.ids import NUM_SLOTS, Epoch, ObjectId
from goverse.objects.durability.service import Durability
from goverse.sharding import slot_of
from goverse.storage.api import StorageUnavailable
from goverse.storage.memory import MemoryStore
from goverse.storage.values import Fence, StoredObject

T = TypeVar("T")


class Wire:
    """The way to the tables; a test says what becomes of the next transactions."""

    def __init__(self) -> None:
        self.plans: list[str] = []
        self.held: list[Callable[[], Any]] = []
        self.requests = 0
        self.away = False
        self.gate = asyncio.Event()

    async def request(self, operation: Callable[[], T]) -> T:
        self.requests += 1
        if self.away:
            raise StorageUnavailable("away")
        plan = self.plans.pop(0) if self.plans else "do"
        if plan == "wait":
            await self.gate.wait()
        if plan in ("do", "wait"):
            return operation()
        if plan == "refuse":
            raise StorageUnavailable("refused")
        if plan == "do and lose the answer":
            operation()
        elif plan == "hold and lose the answer":
            self.held.append(operation)
        raise TimeoutError  # what a client's deadline makes of an answer that does not come

    def deliver(self) -> None:
        """What was held arrives at the tables now."""
        held, self.held = self.held, []
        for operation in held:
            try:
                operation()
            except ValueError:
                pass  # an opening that was overtaken: nobody is there to be told


class Counted:
    def __init__(self) -> None:
        self.objects = 0
        self.batches: list[int] = []
        self.reasons: list[str] = []

    def committed(self, objects: int) -> None:
        self.objects += objects
        self.batches.append(objects)

    def refused(self, reason: str) -> None:
        self.reasons.append(reason)


class Owner:
    """What a node knows of its shards."""

    def __init__(self, store: Any, incarnation: str) -> None:
        self.incarnation = incarnation
        self._store = store

    async def slots_of(self, shard: int) -> tuple[int, ...]:
        if shard < 0:
            return (await self._store.node_slot("n1"),)
        return tuple(range(shard, NUM_SLOTS, NUM_SHARDS))


class DurableNode(Node):
    """A node's catalog with a store; several of them may share one."""

    def __init__(
        self,
        *classes: type,
        store: MemoryStore,
        limits: LimitSettings,
        incarnation: str,
        **options: Any,
    ) -> None:
        self.wire = Wire()
        self.store = store
        self.client = store.connect(self.wire, operation_timeout_s=1.0)
        self.limits = limits
        self.counted = Counted()
        self.durability = Durability(
            self.client,
            Owner(self.client, incarnation),
            limits,
            Runtime(random=random.Random(1)),
            self.counted,
        )
        super().__init__(
            *classes,
            limits=limits,
            durability=self.durability,
            reliable=self.make_reliable,
            **options,
        )

    def make_reliable(self, node: Node) -> Any:
        """Nothing here: see the kit of reliable calls."""
        return None

    def fence(self, id: str) -> Fence:
        """As it stands in the store."""
        slot = slot_of(id)
        row = self.store.tables._fences[slot]
        return Fence(slot, row.epoch, row.opening)

    async def stored(self, type_name: str, id: str) -> StoredObject | None:
        object = ObjectId(type_name, id)
        return (await self.store.connect().load([object])).get(object)

    async def reopen(self, epoch: Epoch) -> None:
        """The shards were lost, and have come back."""
        self.catalog.shards.discard_all("the lease ended")
        while True:
            try:
                await self.open_all(epoch)
                return
            except Unavailable:
                pass  # as ownership does, if not as patiently


@asynccontextmanager
async def durable(
    *classes: type,
    store: MemoryStore | None = None,
    limits: LimitSettings | None = None,
    epoch: Epoch = EPOCH,
    incarnation: str = "first",
    make: type[DurableNode] = DurableNode,
):
    node = make(
        *classes,
        store=store or MemoryStore(Runtime(random=random.Random(2))),
        limits=limits or LimitSettings(),
        incarnation=incarnation,
    )
    node.durability.start()
    await node.open_all(epoch)
    try:
        yield node
    finally:
        node.facts.lease = True
        node.wire.away = False
        await node.catalog.stop(0.0)
        await node.durability.close()
        await node.tasks.close()
