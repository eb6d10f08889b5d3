"""Every change of owners, as the coordinator tells it: what moved, and how often."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from goverse.cluster import Keys
from goverse.cluster.records import ClaimValue, decode
from goverse.coordination import Changes, Coordinator, Snapshot


@dataclass
class Follower:
    """
    :ivar owners: by shard; those that have none at this moment keep the last.
    :ivar moved: when a shard came to another node than it had been on.
    :param clock: what is read then.
    """

    keys: Keys
    clock: Callable[[], float] = time.monotonic
    owners: dict[int, str] = field(default_factory=dict)
    moved: list[tuple[float, int]] = field(default_factory=list)

    def since(self, moment: float) -> Counter[int]:
        """How often each shard has moved since then."""
        return Counter(shard for when, shard in self.moved if when > moment)

    def seen(self, step: Snapshot | Changes) -> None:
        """Take a step of a watch over the claims, or over everything."""
        for key, item in step.items.items():
            folder, name = self.keys.parse(key)
            if folder != "claims" or item is None:
                continue
            shard, node = int(name), decode(item, ClaimValue).node
            before, self.owners[shard] = self.owners.get(shard), node
            if before is not None and before != node:
                self.moved.append((self.clock(), shard))

    async def follow(self, coordinator: Coordinator) -> None:
        watch = coordinator.watch(self.keys.prefix + "claims/")
        try:
            async for step in watch:
                self.seen(step)
        finally:
            await watch.aclose()


@asynccontextmanager
async def following(coordinator: Coordinator, keys: Keys) -> AsyncIterator[Follower]:
    follower = Follower(keys)
    task = asyncio.create_task(follower.follow(coordinator))
    try:
        yield follower
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
