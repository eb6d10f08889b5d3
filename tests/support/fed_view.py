"""A cluster view that is fed by hand, revision by revision, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from goverse.cluster import ClusterView, Keys, Kind
from goverse.cluster.records import ClaimValue, Layout, MemberValue, encode
from goverse.coordination import Changes, Delete, KeyValue, Put, Snapshot, Watch
from goverse.testing.loop import SimLoop, run_virtual, sim_runtime

KEYS = Keys()


class Feed:
    """A coordinator that only has a watch, which says what it is told to."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[Snapshot | Changes | Exception] = asyncio.Queue()
        self.contact = 1e9
        self.watches = 0

    def watch(self, prefix: str) -> Watch:
        self.watches += 1
        return self  # type: ignore[return-value]

    def __aiter__(self) -> AsyncIterator[Snapshot | Changes]:
        return self

    async def __anext__(self) -> Snapshot | Changes:
        item = await self.items.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def aclose(self) -> None:
        pass


class Story:
    """A view and the revisions it is fed."""

    def __init__(self, loop: SimLoop, max_waiting: int = 10) -> None:
        self.loop = loop
        self.feed = Feed()
        self.view = ClusterView(
            self.feed,  # type: ignore[arg-type]
            KEYS,
            sim_runtime(1, "view", loop=loop),
            max_waiting=max_waiting,
        )
        self.revision = 100
        self.kept: dict[str, KeyValue] = {}
        self.view.start()

    async def step(self, *operations: Put | Delete, snapshot: bool = False) -> None:
        """One revision with these operations."""
        self.revision += 1
        items: dict[str, KeyValue | None] = {}
        for operation in operations:
            old = self.kept.pop(operation.key, None)
            items[operation.key] = None
            if isinstance(operation, Put):
                created = old.create_revision if old else self.revision
                new = KeyValue(
                    operation.key, operation.value, created, self.revision, operation.lease
                )
                items[operation.key] = self.kept[operation.key] = new
        if snapshot:
            self.feed.items.put_nowait(Snapshot(self.revision, dict(self.kept)))
        else:
            self.feed.items.put_nowait(Changes(self.revision, items))
        target = self.revision
        await self.view.wait_for(lambda: self.view.revision == target, timeout_s=5)

    async def begin(self) -> None:
        await self.step(layout(), node("n1"), node("n2"), snapshot=True)


def layout(num_shards: int = 16) -> Put:
    return Put(KEYS.layout, encode(Layout("c", 1, num_shards)))


def node(name: str, incarnation: str = "a") -> Put:
    return Put(KEYS.member(Kind.NODE, name), encode(MemberValue(incarnation, f"{name}:1")), 7)


def claim(shard: int, name: str, incarnation: str = "a") -> Put:
    return Put(KEYS.claim(shard), encode(ClaimValue(name, incarnation, 1)), 7)


def told(story: Callable[[Story], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a test of ``story(Story)``, in virtual time."""

    def run() -> None:
        async def main(loop: SimLoop) -> None:
            await story(Story(loop))
            assert loop.errors == []

        run_virtual(main)

    run.__name__ = story.__name__
    return run
