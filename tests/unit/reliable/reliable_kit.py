"""A node of durable objects that takes reliable calls; several may share one store."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import Any

from durable_kit import DurableNode, durable
from objects_kit import EPOCH, NUM_SHARDS, Node, make_call, value_of

from goverse.aio.runtime import Runtime
from goverse.call import Call, Codec
from goverse.config.settings import LimitSettings
from goverse.ids import NO_EPOCH, Epoch
from goverse.reliable.service import Reliability
from goverse.storage.memory import MemoryStore
from goverse.storage.values import StoredCall
from tests.support.eventually import eventually


class Told:
    """A `ReliableObserver`."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.refusals: list[str] = []

    def accepted(self, type_name: str) -> None:
        self.seen.append("accepted")

    def refused(self, type_name: str, reason: str) -> None:
        self.refusals.append(reason)

    def repeated(self, type_name: str) -> None:
        self.seen.append("repeated")

    def finished(self, type_name: str, status: str, seconds: float) -> None:
        assert seconds >= 0
        self.seen.append(status)

    def parked(self, type_name: str) -> None:
        self.seen.append("parked")

    def delivered(self) -> None:
        self.seen.append("delivered")

    def delivery_parked(self) -> None:
        self.seen.append("delivery parked")

    def late(self, type_name: str, seconds: float) -> None:
        self.seen.append("late")

    def ticks_left_out(self, type_name: str, ticks: int) -> None:
        self.seen.append(f"{ticks} left out")


class ReliableNode(DurableNode):
    """Its router is its own catalog, or what ``route`` is set to."""

    reliability: Reliability
    told: Told
    released = True
    """Former owners gave their shards up in an orderly way."""

    def make_reliable(self, node: Node) -> Any:
        self.told = Told()
        self.route: Any = None
        self.reliability = Reliability(
            self.client,
            self.durability.fences,
            self,
            self.registry,
            self.limits,
            Runtime(random=random.Random(3)),
            self.told,
        )
        return self.reliability

    async def invoke(self, call: Call) -> Any:
        if self.route is not None:
            return await self.route(call)
        return await super().invoke(call)

    async def open_all(self, epoch: Epoch = EPOCH) -> None:
        self.reliability.bind(self.catalog)
        for shard in range(-1, NUM_SHARDS):
            released = Epoch(1, 1) if self.released else NO_EPOCH
            await self.catalog.shards.open_shard(shard, epoch, released=released)
        # What is asked of the store from here on is asked by the test.
        await eventually(lambda: not self.reliability.snapshot().outbox_behind)

    def do(
        self,
        call_id: str,
        type_name: str,
        id: str,
        method: str,
        *,
        timeout_s: float = 5.0,
        codec: Codec = Codec.MSGPACK,
        **arguments: Any,
    ) -> asyncio.Task[Any]:
        """A reliable call, and what it returns."""
        call = make_call(
            type_name, id, method, timeout_s=timeout_s, codec=codec, call_id=call_id, **arguments
        )

        async def done() -> Any:
            return value_of(await self.catalog.invoke(call))

        return asyncio.get_running_loop().create_task(done())

    async def row(self, call_id: str) -> StoredCall | None:
        return (await self.store.connect().get_calls([call_id])).get(call_id)


class AfterACrash(ReliableNode):
    released = False


@asynccontextmanager
async def reliable(
    *classes: type,
    store: MemoryStore | None = None,
    limits: LimitSettings | None = None,
    epoch: Epoch = EPOCH,
    incarnation: str = "first",
    released: bool = True,
    make: type[ReliableNode] | None = None,
):
    async with durable(
        *classes,
        store=store,
        limits=limits,
        epoch=epoch,
        incarnation=incarnation,
        make=make or (ReliableNode if released else AfterACrash),
    ) as node:
        try:
            yield node
        finally:
            node.wire.away = False
            await node.reliability.close()
