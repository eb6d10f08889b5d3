"""The delayed calls of a node that are due next; as many as it may keep."""

from __future__ import annotations

import heapq
import itertools

from goverse.objects.shard import Shard
from goverse.storage.values import DelayedCall


class Known:
    """A delayed call of an open shard, as it was last heard of."""

    __slots__ = ("call", "shard")

    def __init__(self, call: DelayedCall, shard: Shard) -> None:
        self.call = call
        self.shard = shard


class DueSoon:
    """By time. Past ``max_calls`` the later half is forgotten: the store has it.

    ``until``, seconds since 1970: whatever is due before is here, of every shard that was read.
    """

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._calls: dict[str, Known] = {}
        self._by_shard: dict[Shard, dict[str, None]] = {}
        self._heap: list[tuple[float, int, Known]] = []
        self._numbers = itertools.count()
        self.until = 0.0

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._calls

    @property
    def has_room(self) -> bool:
        """Whether it is worth while to read more."""
        return len(self._calls) <= self._max_calls // 4

    def count_by_type(self) -> dict[tuple[str, ...], float]:
        counts: dict[tuple[str, ...], float] = {}
        for known in self._calls.values():
            labels = (known.call.object.type,)
            counts[labels] = counts.get(labels, 0) + 1
        return counts

    def add(self, call: DelayedCall, shard: Shard) -> bool:
        """What is newest of ``call``. False: it is forgotten, too many others are due before."""
        before = self._calls.get(call.call_id)
        if before is not None:
            self._remove(before)
        known = self._calls[call.call_id] = Known(call, shard)
        self._by_shard.setdefault(shard, {})[call.call_id] = None
        heapq.heappush(self._heap, (call.timing.run_at, next(self._numbers), known))
        if len(self._calls) > self._max_calls:
            self._forget_later_half()
        elif len(self._heap) > 2 * len(self._calls) + 64:
            self._heap = [item for item in self._heap if self._stands(item[2])]
            heapq.heapify(self._heap)
        return call.call_id in self._calls

    def _forget_later_half(self) -> None:
        items = sorted(item for item in self._heap if self._stands(item[2]))
        keep = max(1, self._max_calls // 2)
        for _, _, known in items[keep:]:
            self._remove(known)
        self._heap = items[:keep]
        self.until = min(self.until, self._heap[-1][0])

    def _stands(self, known: Known) -> bool:
        return self._calls.get(known.call.call_id) is known

    def _remove(self, known: Known) -> None:
        call_id = known.call.call_id
        del self._calls[call_id]
        of_shard = self._by_shard[known.shard]
        del of_shard[call_id]
        if not of_shard:
            del self._by_shard[known.shard]

    def forget(self, shard: Shard) -> None:
        """It is not here any more."""
        for call_id in self._by_shard.pop(shard, {}):
            del self._calls[call_id]

    def next_at(self) -> float | None:
        """When the first is due; None: there is none."""
        while self._heap and not self._stands(self._heap[0][2]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self, now: float, count: int) -> list[Known]:
        """At most ``count`` that are due, in order of their times; they are not here any more."""
        taken: list[Known] = []
        while len(taken) < count:
            next_at = self.next_at()
            if next_at is None or next_at > now:
                break
            _, _, known = heapq.heappop(self._heap)
            self._remove(known)
            taken.append(known)
        return taken
