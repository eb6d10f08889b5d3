"""A node's load, measured when it is asked for: what has been counted since it was asked before.

Costs nothing in between: a shard counts its turns and their time as they end, and everything else
is read. One reading looks at every shard once, and at the state of at most `_MAX_SIZED` objects, of
other shards each time: under 10 ms with 8,192 shards, whatever they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

from goverse.objects.shard import Shard
from goverse.observability.quota import Machine
from goverse.sharding import NODE_SHARD
from goverse.sharding.loads import NodeLoad, ShardLoad, heaviest, total

#: Asked again sooner, it says what it said: a rate needs some time to be one.
MIN_INTERVAL_S = 1.0

_SIZED_SHARDS = 256
_SIZED_OBJECTS = 16
_MAX_SIZED = _SIZED_SHARDS * _SIZED_OBJECTS


@dataclass(frozen=True, slots=True)
class _Before:
    """What a shard had counted."""

    shard: Shard
    turns: int
    busy_s: float


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
        self._before: dict[int, _Before] = {}
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
        loads = self._loads(elapsed_s)
        own = loads.pop(NODE_SHARD, ShardLoad())
        limit = self._quota.memory_bytes
        named = heaviest(loads, limit)
        hottest = {shard: loads.pop(shard) for shard in named}
        used_s = max(0.0, usage.cpu_s - self._cpu_s)
        self._at, self._cpu_s = now, usage.cpu_s
        self._last = NodeLoad(
            cpu=min(1.0, used_s / elapsed_s / self._quota.processors),
            memory=min(1.0, usage.memory_bytes / limit) if limit else 0.0,
            memory_bytes=limit,
            hottest=hottest,
            others=len(loads),
            rest=total(loads.values()),
            own=own,
        )
        return self._last

    def _loads(self, elapsed_s: float) -> dict[int, ShardLoad]:
        """Since the last time, or since a shard was opened; what has closed is forgotten."""
        before, self._before = self._before, {}
        loads: dict[int, ShardLoad] = {}
        for number, shard in self._shards.items():
            turns, busy_s = shard.turns, shard.busy_s
            self._before[number] = _Before(shard, turns, busy_s)
            known = before.get(number)
            if known is not None and known.shard is shard:
                turns, busy_s = turns - known.turns, busy_s - known.busy_s
            objects = len(shard.activations)
            held = objects * self._sizes.get(number, 0.0)
            loads[number] = ShardLoad(
                round(turns / elapsed_s, 3), round(busy_s / elapsed_s, 6), objects, round(held)
            )
        return loads

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
