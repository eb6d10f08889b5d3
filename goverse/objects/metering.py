"""A node's load, measured when it is asked for: what has been counted since it was asked before.

Costs nothing in between: a shard counts its turns and their time as they end, and everything else
is read. One reading looks at every shard once, and at the state of at most `_MAX_SIZED` objects, of
other shards each time: 0.3 ms with 82 shards and 10 ms with 8,192, whatever they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

from goverse.objects.shard import Shard
from goverse.observability.quota import Machine
from goverse.sharding import NODE_SHARD
from goverse.sharding.loads import NodeLoad, Row, ShardLoad, divided

#: Asked again sooner, it says what it said: a rate needs some time to be one.
MIN_INTERVAL_S = 1.0

_SIZED_SHARDS = 256
_SIZED_OBJECTS = 16
_MAX_SIZED = _SIZED_SHARDS * _SIZED_OBJECTS


class LoadMeter:
    """
    :param shards: those that are open here, by number.
    :param now: the running loop's time.
    """

    def __init__(
        self, shards: Mapping[int, Shard], machine: Machine, now: Callable[[], float]
    ) -> None:
        self._shards = shards
        self._machine = machine
        self._now = now
        #: Bytes of state of one object, by shard: the mean of those that were looked at last.
        self._sizes: dict[int, float] = {}
        self._next_sized = 0
        self._last = NodeLoad()
        self._quota = machine.quota()
        self._at, self._cpu_s = now(), machine.usage().cpu_s

    def measure(self) -> NodeLoad:
        now = self._now()
        elapsed_s = now - self._at
        if elapsed_s < MIN_INTERVAL_S:
            return self._last
        usage = self._machine.usage()
        self._size()
        limit = self._quota.memory_bytes
        rows = self._rows(elapsed_s)
        own, _ = divided([row for row in rows if row[0] == NODE_SHARD], limit)
        hottest, rest = divided([row for row in rows if row[0] != NODE_SHARD], limit)
        used_s = max(0.0, usage.cpu_s - self._cpu_s)
        self._at, self._cpu_s = now, usage.cpu_s
        self._last = NodeLoad(
            cpu=min(1.0, used_s / elapsed_s / self._quota.processors),
            memory=min(1.0, usage.memory_bytes / limit) if limit else 0.0,
            memory_bytes=limit,
            hottest=hottest,
            others=sum(shard != NODE_SHARD for shard in self._shards) - len(hottest),
            rest=rest,
            own=own.get(NODE_SHARD, ShardLoad()),
        )
        return self._last

    def _rows(self, elapsed_s: float) -> list[Row]:
        """Of the shards that have anything: since the last time, or since they were opened."""
        rows: list[Row] = []
        sizes = self._sizes
        for number, shard in self._shards.items():
            objects, turns = len(shard.activations), shard.turns
            if turns != shard.metered_turns or objects:
                busy_s = shard.busy_s
                calls = (turns - shard.metered_turns) / elapsed_s
                busy = (busy_s - shard.metered_busy_s) / elapsed_s
                held = objects * sizes[number] if number in sizes else 0.0
                rows.append((number, calls, busy, objects, held))
                shard.metered_turns, shard.metered_busy_s = turns, busy_s
        return rows

    def _size(self) -> None:
        """Look at the state of some objects of the next shards in turn."""
        numbers = list(self._shards)
        for number in [known for known in self._sizes if known not in self._shards]:
            del self._sizes[number]
        for _ in range(min(_SIZED_SHARDS, len(numbers))):
            self._next_sized = (self._next_sized + 1) % len(numbers)
            number = numbers[self._next_sized]
            found = [*islice(self._shards[number].activations.values(), _SIZED_OBJECTS)]
            if found:
                held = sum(activation.keeper.size for activation in found)
                self._sizes[number] = held / len(found)
            else:
                self._sizes.pop(number, None)
