"""Every change of owners, as the coordinator tells it: what moved, and how often."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from goverse.cluster import Keys
from goverse.cluster.records import ClaimValue, decode
from goverse.coordination import Coordinator, Snapshot


@dataclass
class Follower:
    """
    :ivar owners: by shard; those that have none at this moment keep the last.
    :ivar moved: when (`time.monotonic`) a shard came to another node than it had been on.
    """

    owners: dict[int, str] = field(default_factory=dict)
    moved: list[tuple[float, int]] = field(default_factory=list)

    def since(self, moment: float) -> Counter[int]:
        """How often each shard has moved since then."""
        return Counter(shard for when, shard in self.moved if when > moment)

    async def follow(self, coordinator: Coordinator, keys: Keys) -> None:
        watch = coordinator.watch(keys.prefix + "claims/")
        try:
            async for step in watch:
                items = step.items
                for key, item in items.items():
                    if item is not None:
                        shard, node = int(keys.parse(key).name), decode(item, ClaimValue).node
                        self._owned(shard, node, new=not isinstance(step, Snapshot))
        finally:
            await watch.aclose()

    def _owned(self, shard: int, node: str, *, new: bool) -> None:
        before, self.owners[shard] = self.owners.get(shard), node
        if before is not None and before != node and new:
            self.moved.append((time.monotonic(), shard))


@asynccontextmanager
async def following(coordinator: Coordinator, keys: Keys) -> AsyncIterator[Follower]:
    follower = Follower()
    task = asyncio.create_task(follower.follow(coordinator, keys))
    try:
        yield follower
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
