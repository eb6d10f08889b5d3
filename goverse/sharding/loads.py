"""What a node reports of its load, and what that makes of every shard. Pure.

A load is a part of what a node has: 1 is all of its processors busy, or all of its memory full,
and one counts as much as the other. What a node used of its processors is divided among its shards
by their calls and by the time that these took, half and half: time alone would take a method that
waits for one that works, and calls alone a short one for a long one. Memory is counted where it
is, by objects and by the bytes of their state, as a process seldom gives back what it once had.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import msgspec

#: Shards that a report names; the others are summed up.
MAX_REPORTED = 64

#: What an object takes beside its state, about.
OBJECT_BYTES = 1024

#: What all shards together count for without any load, as a part of what all nodes have. Where
#: less is going on than this, shards are levelled by number.
IDLE_SHARE = 0.02

#: A node whose memory is fuller is given nothing for balance.
FULL_MEMORY = 0.9


class ShardLoad(msgspec.Struct, frozen=True, array_like=True):
    """Of one shard, or of several.

    :param calls: turns that ended, per second. :param busy: the time that they took, in seconds
        per second: how many ran at a time. :param objects: active now.
    :param bytes: of their declared state, estimated.
    """

    calls: float = 0.0
    busy: float = 0.0
    objects: float = 0.0
    bytes: float = 0.0


class NodeLoad(msgspec.Struct, frozen=True):
    """The report of one node; at most about 4 KiB.

    :param cpu: used of the processors that it may use, 0 to 1. :param memory: used of the memory
        that it may use, 0 to 1; `memory_bytes` is that limit, 0 if it is not known.
    :param hottest: its shards with the most load. :param others, rest: how many shards it has
        beside them, and their sum.
    :param own: of objects named after the node, which never move.
    """

    cpu: float = 0.0
    memory: float = 0.0
    memory_bytes: int = 0
    hottest: dict[int, ShardLoad] = {}
    others: int = 0
    rest: ShardLoad = ShardLoad()
    own: ShardLoad = ShardLoad()

    def shares(self) -> NodeShares:
        """The load of each shard as a part of what this node has."""
        parts = [*self.hottest.values(), self.rest, self.own]
        calls, busy = sum(part.calls for part in parts), sum(part.busy for part in parts)
        processors = min(max(self.cpu, 0.0), 1.0)

        def share(part: ShardLoad) -> float:
            by_calls = part.calls / calls if calls > 0 else 0.0
            by_time = part.busy / busy if busy > 0 else by_calls
            held = part.objects * OBJECT_BYTES + part.bytes
            memory = held / self.memory_bytes if self.memory_bytes > 0 else 0.0
            return processors * (by_calls + by_time) / 2 + memory

        mean = share(self.rest) / self.others if self.others > 0 else 0.0
        hottest = {shard: share(part) for shard, part in self.hottest.items()}
        return NodeShares(hottest, mean, share(self.own), self.memory > FULL_MEMORY)


class NodeShares(msgspec.Struct, frozen=True):
    """
    :param hottest: load by shard. :param other: load of each other shard.
    :param own: load that stays with the node. :param full: its memory has no room.
    """

    hottest: dict[int, float]
    other: float
    own: float
    full: bool


Row = tuple[int, float, float, int, float]
"""A shard, and the fields of its `ShardLoad`."""


def divided(rows: list[Row], memory_bytes: int) -> tuple[dict[int, ShardLoad], ShardLoad]:
    """The shards that a report should name, most load first, and the sum of the others.

    :param rows: of the shards that have anything at all: this takes 1 us for each.
    """
    calls = busy = held = 0.0
    for row in rows:
        calls += row[1]
        busy += row[2]
        held += row[3] * OBJECT_BYTES + row[4]
    by_calls, by_time = 1 / (calls or 1.0), 1 / (busy or 1.0)
    by_memory = 1 / (memory_bytes or held or 1.0)
    # A stable order: of two that are alike always the same one is named.
    weighted = [
        (
            calls * by_calls + busy * by_time + (objects * OBJECT_BYTES + held) * by_memory,
            -shard,
            place,
        )
        for place, (shard, calls, busy, objects, held) in enumerate(rows)
    ]
    named = heapq.nlargest(MAX_REPORTED, weighted)
    hottest = {rows[place][0]: _load(rows[place]) for _, _, place in named}
    calls = busy = objects = held = 0.0
    for row in rows:
        if row[0] not in hottest:
            calls += row[1]
            busy += row[2]
            objects += row[3]
            held += row[4]
    return hottest, _load((0, calls, busy, int(objects), held))


def _load(row: Row) -> ShardLoad:
    return ShardLoad(round(row[1], 3), round(row[2], 6), row[3], round(row[4]))


def shard_loads(
    owners: Sequence[str | None], shares: Mapping[str, NodeShares], weights: Mapping[str, float]
) -> tuple[float, ...]:
    """The load of every shard, in units of the weights, above 0.

    :param owners: who runs a shard; what nobody runs, or somebody without a report, counts as the
        mean of the others.
    """
    known: list[float | None] = []
    for shard, owner in enumerate(owners):
        found = shares.get(owner) if owner is not None else None
        if found is None or owner is None:
            known.append(None)
        else:
            known.append(found.hottest.get(shard, found.other) * weights.get(owner, 0.0))
    measured = [load for load in known if load is not None]
    mean = sum(measured) / len(measured) if measured else 0.0
    idle = IDLE_SHARE * (sum(weights.values()) or 1.0) / max(len(owners), 1)
    return tuple((mean if load is None else load) + idle for load in known)
