"""Callers that wait for somebody to own what they call, in order of arrival."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from goverse.cluster.records import Owner
from goverse.errors import Overloaded
from goverse.ids import NO_EPOCH, Epoch

#: A shard, the name of a node (ids that name theirs), or None before the layout is known.
Place = int | str | None


class Waiter:
    """One caller. ``future`` resolves with an owner whose epoch is above ``newer_than``."""

    __slots__ = ("future", "id", "newer_than", "place")

    def __init__(self, place: Place, id: str, newer_than: Epoch) -> None:
        self.place = place
        self.id = id
        self.newer_than = newer_than
        self.future: asyncio.Future[Owner] = asyncio.get_running_loop().create_future()


class OwnerWaiters:
    """All waiting callers of one process, at most ``max_waiting``."""

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._places: dict[Place, dict[Waiter, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, place: Place, id: str, newer_than: Epoch) -> Waiter:
        """Queue one caller; it must be discarded however its wait ends. Raises Overloaded."""
        if self._count >= self.max_waiting:
            raise Overloaded(f"{self._count} calls already wait for a shard to have an owner")
        waiter = Waiter(place, id, newer_than)
        self._file(waiter)
        return waiter

    def discard(self, waiter: Waiter) -> None:
        queue = self._places.get(waiter.place)
        if queue is not None and waiter in queue:
            del queue[waiter]
            self._count -= 1
            if not queue:
                del self._places[waiter.place]

    def resolve(self, place: Place, owner: Owner) -> None:
        """Wake those whom ``owner`` serves; their tasks run in the order in which they came."""
        for waiter in tuple(self._places.get(place, ())):
            if owner.epoch > waiter.newer_than:
                self.discard(waiter)
                if not waiter.future.done():
                    waiter.future.set_result(owner)

    def shards(self) -> tuple[int, ...]:
        """Shards that somebody waits for, longest waiting first."""
        return tuple(place for place in self._places if isinstance(place, int))

    def refile(self, place_of: Callable[[str], Place]) -> None:
        """Sort everybody anew after the number of shards has become known, or another one."""
        waiting = [waiter for queue in self._places.values() for waiter in queue]
        self._places.clear()
        self._count = 0
        for waiter in waiting:
            waiter.place = place_of(waiter.id)
            self._file(waiter)

    def forget_epochs(self) -> None:
        """The coordinator lost its history: epochs that were seen before compare with nothing."""
        for queue in self._places.values():
            for waiter in queue:
                waiter.newer_than = NO_EPOCH

    def _file(self, waiter: Waiter) -> None:
        self._places.setdefault(waiter.place, {})[waiter] = None
        self._count += 1
