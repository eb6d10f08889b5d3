"""The unfinished calls that a node has in memory, by id and by shard, within its limits."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator

from goverse.aio.limits import Limit
from goverse.aio.room import Room
from goverse.config.settings import LimitSettings
from goverse.errors import Overloaded
from goverse.ids import ObjectId
from goverse.objects.shard import Shard
from goverse.reliable.entries import NOTED, RESTING, Answer, Entry
from goverse.reliable.orders import Order
from goverse.storage.values import ReliableCall

_COUNTED = 1000


class ShardCalls:
    """The calls of one open shard.

    :param cursor: where the next page of what was pending begins; None: everything is here.
    """

    __slots__ = ("cursor", "entries", "late", "orders", "reader", "released")

    def __init__(self, cursor: int | None, released: bool) -> None:
        self.cursor = cursor
        self.released = released
        self.orders: dict[ObjectId, Order] = {}
        self.entries: dict[Entry, None] = {}
        #: Accepted before everything is here: they come after what is still to be read.
        self.late: list[Entry] = []
        self.reader: asyncio.Task[None] | None = None


class Unfinished:
    """One entry for each call id."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._entries: dict[str, Entry] = {}
        self._bytes = 0
        self._room = Room()
        self.shards: dict[Shard, ShardCalls] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """Of arguments."""
        return self._bytes

    @property
    def recovering(self) -> int:
        """Shards whose pending calls are still being read."""
        return sum(1 for calls in self.shards.values() if calls.cursor is not None)

    def get(self, call_id: str) -> Entry | None:
        return self._entries.get(call_id)

    def longest(self, count: int) -> tuple[tuple[ObjectId, int], ...]:
        """The objects with the most pending calls."""
        orders = [order for calls in self.shards.values() for order in calls.orders.values()]
        lengths = sorted(((o.object, len(o.pending)) for o in orders), key=lambda one: -one[1])
        return tuple(lengths[:count])

    def count_by_type(self) -> dict[tuple[str, ...], float]:
        """Unfinished calls of each type, as a gauge wants it. Parked and delayed ones are not
        pending."""
        counts: dict[tuple[str, ...], float] = {}
        for entry in self._entries.values():
            if entry.state not in RESTING:
                labels = (entry.object.type,)
                counts[labels] = counts.get(labels, 0) + 1
        return counts

    def count_noted(self) -> int:
        """Calls that have run, and are being committed; among the oldest thousand, as all could be
        many."""
        entries = itertools.islice(self._entries.values(), _COUNTED)
        return sum(1 for entry in entries if entry.state is NOTED)

    def oldest_by_type(self, wall: float) -> dict[tuple[str, ...], float]:
        """Seconds since the oldest of each type was accepted.

        :param wall: seconds since 1970.
        """
        oldest: dict[tuple[str, ...], float] = {}
        for entry in self._entries.values():
            if entry.state not in RESTING:
                # The clock of the store and this one's may differ: no age is below zero.
                age = max(0.0, wall - (entry.waits_since or wall))
                labels = (entry.object.type,)
                oldest[labels] = max(age, oldest.get(labels, 0.0))
        return oldest

    def limits(self) -> Iterator[Limit]:
        limits = self._limits
        yield Limit("reliable.calls", len(self._entries), limits.max_reliable_calls)
        yield Limit("reliable.bytes", self._bytes, limits.max_reliable_bytes)

    # -- room

    def check_room(self) -> None:
        """Raises Overloaded."""
        if len(self._entries) >= self._limits.max_reliable_calls:
            raise Overloaded(
                f"{len(self._entries)} reliable calls are under way on this node, as many as may "
                "be (limits.max_reliable_calls)"
            )
        if self._bytes >= self._limits.max_reliable_bytes:
            raise Overloaded(
                f"reliable calls on this node have {self._bytes} bytes of arguments, as many as "
                "they may (limits.max_reliable_bytes)"
            )

    async def wait_room(self) -> None:
        while len(self._entries) >= self._limits.max_reliable_calls:
            await self._room.wait()

    # -- entries

    def enter(self, call: ReliableCall, shard: Shard) -> Entry:
        entry = self._entries[call.call_id] = Entry(call, shard)
        self.shards[shard].entries[entry] = None
        self._bytes += entry.size
        return entry

    def end(self, entry: Entry, answer: Callable[[], Answer]) -> None:
        self.remove(entry)
        entry.tell(answer)

    def remove(self, entry: Entry) -> None:
        if self._entries.get(entry.call_id) is not entry:
            return
        del self._entries[entry.call_id]
        self._bytes -= entry.size
        calls = self.shards.get(entry.shard)
        if calls is not None:
            calls.entries.pop(entry, None)
        self._room.made()

    # -- orders

    def order_of(self, shard: Shard, object: ObjectId) -> Order | None:
        calls = self.shards.get(shard)
        return calls.orders.get(object) if calls is not None else None

    def landed(self, entry: Entry) -> None:
        """Its accept is not under way any more."""
        order = self.order_of(entry.shard, entry.object)
        if order is not None:
            order.accept_landed()
            if order.empty:
                self.emptied(order)

    def emptied(self, order: Order) -> None:
        if self.order_of(order.shard, order.object) is order:
            del self.shards[order.shard].orders[order.object]
