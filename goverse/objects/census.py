"""Who is on a node and what holds its shards, as operators and gauges want to know it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from goverse.objects.activation import Activation
from goverse.objects.holders import Holders
from goverse.objects.latch import Purpose, ShardState
from goverse.objects.shard import Shard
from goverse.objects.snapshots import (
    LatchSnapshot,
    ObjectSnapshot,
    snapshot_of,
    snapshots_of_latches,
    stage_of,
)
from goverse.sharding import NODE_SHARD


class Census:
    """Counts what a catalog has, at the moment of asking.

    :param shards: those that are here, by number.
    :param activations: of all of them, by type and id.
    """

    def __init__(
        self,
        shards: Mapping[int, Shard],
        activations: Mapping[tuple[str, str], Activation],
        holders: Holders,
    ) -> None:
        self._shards = shards
        self._activations = activations
        self._holders = holders

    def count_by_type(self) -> dict[tuple[str, ...], float]:
        """How many activations there are of each type, as a gauge wants it."""
        counts: dict[tuple[str, ...], float] = {}
        for type_name, _ in self._activations:
            counts[(type_name,)] = counts.get((type_name,), 0) + 1
        return counts

    def objects(self) -> tuple[ObjectSnapshot, ...]:
        """Every activation, by type and id."""
        now = asyncio.get_running_loop().time()
        return tuple(snapshot_of(self._activations[key], now) for key in sorted(self._activations))

    def stage(self, shard: int) -> str:
        """See `stage_of`; empty for a shard that is not here."""
        found = self._shards.get(shard)
        return stage_of(found) if found is not None else ""

    def count_by_shard(self) -> dict[int, int]:
        """How many activations each shard has that is here, those of the node's own left out."""
        return {n: len(shard.activations) for n, shard in self._shards.items() if n != NODE_SHARD}

    def latches(self, most: int) -> tuple[LatchSnapshot, ...]:
        """Of shards that are held or wanted: first those that a writer waits for, then those that
        have been held longest; not more than ``most``."""
        now = asyncio.get_running_loop().time()
        return snapshots_of_latches(self._shards.values(), self._holders.loose(), now, most)

    def count_holders(self) -> dict[tuple[str, ...], float]:
        """Turns and hooks by the state of the shard that they hold, as a gauge wants it."""
        counts = dict.fromkeys((state.value for state in ShardState), 0.0)
        del counts["closed"]
        for shard in self._shards.values():
            counts[shard.state.value] += shard.holders
        counts["cut_loose"] = len(self._holders.loose())
        return {(state,): count for state, count in counts.items()}

    def count_writers(self) -> dict[tuple[str, ...], float]:
        """Shards by what a writer waits for, or has them for, as a gauge wants it."""
        counts: dict[tuple[str, ...], float] = {(purpose.value,): 0.0 for purpose in Purpose}
        for shard in self._shards.values():
            if shard.writer is not None:
                counts[(shard.writer.purpose.value,)] += 1
        return counts
