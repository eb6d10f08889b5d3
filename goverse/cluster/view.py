"""The cluster as this process sees it: one watch, one state, everybody's questions.

A view may be behind the truth, and who acts on it is checked elsewhere: writes by their
compares, calls by the catalog that they reach. It is never torn: one revision is one step.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from goverse.aio.backoff import Backoff
from goverse.aio.limits import Limit
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.cluster.keys import Keys
from goverse.cluster.records import Layout, MemberRecord, Owner
from goverse.cluster.state import ClusterState, ViewChange
from goverse.cluster.waiters import OwnerWaiters, Place
from goverse.coordination.api import Changes, Coordinator, Snapshot, Watch
from goverse.coordination.feed import MAX_BUFFERED_ITEMS
from goverse.ids import Epoch, MemberId
from goverse.sharding import node_of, slot_of

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_IDS = 16_384
"""Ids whose owners are remembered; past it they are looked up anew."""


@dataclass(frozen=True)
class ViewSnapshot:
    """
    :param current: the coordinator was heard on the watch lately.
    :param contact_age_s: seconds since then; infinite before the first time.
    :param owned: shards that have an owner.
    :param waiting: calls that wait for one.
    """

    revision: int
    loaded: bool
    current: bool
    contact_age_s: float
    layout: Layout | None
    nodes: tuple[MemberRecord, ...]
    gates: tuple[MemberRecord, ...]
    owned: int
    waiting: int


class ClusterView:
    """Follows every key of the cluster.

    :param stale_after_s: silence of the coordinator after which the view is not `current`.
    :param max_waiting: callers that may wait for an owner at one time.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        keys: Keys,
        runtime: Runtime,
        *,
        stale_after_s: float = 10.0,
        max_waiting: int = 65_536,
    ) -> None:
        self._coordinator = coordinator
        self._keys = keys
        self._runtime = runtime
        self._stale_after_s = stale_after_s
        self._tasks = Tasks("cluster view")
        self._watch: Watch | None = None
        self._state = ClusterState(keys)
        self._loaded = False
        self._waiters = OwnerWaiters(max_waiting)
        self._subscribers: list[Callable[[ViewChange], None]] = []
        self._on_gone: list[Callable[[MemberId], None]] = []
        self._next = asyncio.Event()
        self._nodes_changed_at = 0.0
        # What every call looks at: owners by shard, empty while the layout is not known.
        self._owners: dict[int, Owner] = {}
        self._num_shards = 1
        # The same by id, of what was asked for since the last step.
        self._by_id: dict[str, Owner] = {}

    # -- its life -----------------------------------------------------------------------------

    def start(self) -> None:
        self._tasks.spawn("watch", self._follow())

    async def wait_loaded(self) -> None:
        """Return once the first listing has arrived."""
        while not self._loaded:
            await self._next.wait()

    async def close(self) -> None:
        await self._tasks.close()

    # -- questions ----------------------------------------------------------------------------

    @property
    def state(self) -> ClusterState:
        """The tables of this moment; do not keep them over an await."""
        return self._state

    @property
    def revision(self) -> int:
        return self._state.revision

    @property
    def layout(self) -> Layout | None:
        return self._state.layout

    @property
    def num_shards(self) -> int:
        """0 as long as the layout is not known."""
        return self._num_shards if self._state.layout is not None else 0

    @property
    def loaded(self) -> bool:
        return self._loaded

    @property
    def contact_age_s(self) -> float:
        contact = self._watch.contact if self._watch is not None else 0.0
        return self._runtime.clock.now() - contact if contact else float("inf")

    @property
    def current(self) -> bool:
        return self._loaded and self.contact_age_s <= self._stale_after_s

    @property
    def nodes_changed_at(self) -> float:
        """When nodes last came, went or changed (running loop's time). Gates do not count."""
        return self._nodes_changed_at

    def shard_of(self, id: str) -> int:
        """The shard of ``id``. Raises ValueError for a malformed prefix, or without a layout."""
        if self._state.layout is None:
            raise ValueError("the layout of the cluster is not known yet")
        place = self._place(id)
        return place if isinstance(place, int) else -1

    def owner(self, shard: int) -> Owner | None:
        return self._owners.get(shard)

    def owner_of_id(self, id: str) -> Owner | None:
        """Who owns ``id`` now. Raises ValueError for a malformed prefix. On every call's path."""
        return self._by_id.get(id) or self._look_up(id)

    def _look_up(self, id: str) -> Owner | None:
        place = self._place(id)
        if place is None:
            return None
        owner = self._owner_by_name(place) if isinstance(place, str) else self._owners.get(place)
        if owner is not None:
            if len(self._by_id) >= MAX_IDS:
                self._by_id.clear()
            self._by_id[id] = owner
        return owner

    async def wait_owner(self, id: str, *, newer_than: Epoch) -> Owner:
        """The first owner of ``id`` with an epoch above ``newer_than``.

        Waits for ever, in order of arrival: bound it with the call's deadline. Raises Overloaded
        when too many wait, ValueError for a malformed id.
        """
        owner = self.owner_of_id(id)
        if owner is not None and owner.epoch > newer_than:
            return owner
        waiter = self._waiters.add(self._place(id), id, newer_than)
        try:
            return await waiter.future
        finally:
            self._waiters.discard(waiter)

    def waiting_shards(self) -> tuple[int, ...]:
        """Shards that callers in this process wait for."""
        return self._waiters.shards()

    # -- events -------------------------------------------------------------------------------

    def subscribe(self, callback: Callable[[ViewChange], None]) -> None:
        """Call ``callback`` after every step, synchronously, in order of subscription."""
        self._subscribers.append(callback)

    def on_member_gone(self, callback: Callable[[MemberId], None]) -> None:
        """Call ``callback`` when a member's key went: nothing it still sends may be believed."""
        self._on_gone.append(callback)

    async def wait_for(self, check: Callable[[], bool], *, timeout_s: float | None = None) -> bool:
        """Wait until ``check`` holds, asking after every step. False: it did not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not check():
                    await self._next.wait()
        except TimeoutError:
            return check()
        return True

    # -- the feed -----------------------------------------------------------------------------

    async def _follow(self) -> None:
        backoff = Backoff(self._runtime.random)
        while True:
            self._watch = watch = self._coordinator.watch(self._keys.prefix)
            try:
                async for item in watch:
                    self._take(item)
                    backoff.reset()
            except Exception:
                log.exception("the watch of %s broke; it is made anew", self._keys.prefix)
            finally:
                await watch.aclose()
            await asyncio.sleep(backoff.next_s())

    def _take(self, item: Snapshot | Changes) -> None:
        """One step. Everything in here is synchronous: nobody sees it half done."""
        if isinstance(item, Snapshot):
            self._state, change = self._state.replaced_by(item)
        else:
            change = self._state.apply(item)
        if change.lost_history:
            log.error(
                "the coordinator lost its history: %s was listed at revision %d, below what was "
                "seen; the view is replaced",
                self._keys.prefix,
                change.revision,
            )
            self._waiters.forget_epochs()
        layout = self._state.layout
        self._owners = self._state.owners if layout is not None else {}
        self._num_shards = layout.num_shards if layout is not None else 1
        self._by_id.clear()
        if change.nodes or not self._loaded:
            self._nodes_changed_at = asyncio.get_running_loop().time()
        self._loaded = True
        self._announce(change)

    def _announce(self, change: ViewChange) -> None:
        # First the dead: their links go before anybody is sent to a new owner.
        for member in change.gone:
            for gone in self._on_gone:
                _guarded(gone, member)
        for subscriber in self._subscribers:
            _guarded(subscriber, change)
        if change.layout:
            self._waiters.refile(self._place)
        self._wake_waiters(change)
        self._next.set()
        self._next = asyncio.Event()

    def _wake_waiters(self, change: ViewChange) -> None:
        if not len(self._waiters):
            return
        shards = self._waiters.shards() if change.layout or change.replaced else change.owners
        for shard in shards:
            owner = self._owners.get(shard)
            if owner is not None:
                self._waiters.resolve(shard, owner)
        if change.nodes:
            for name in self._state.nodes:
                owner = self._owner_by_name(name)
                if owner is not None:
                    self._waiters.resolve(name, owner)

    def _owner_by_name(self, name: str) -> Owner | None:
        record = self._state.nodes.get(name)
        return Owner(record.member, record.address, record.epoch) if record is not None else None

    def _place(self, id: str) -> Place:
        if id.startswith("node#"):
            return node_of(id)
        slot = slot_of(id)
        return slot % self._num_shards if self._state.layout is not None else None

    def limits(self) -> Iterator[Limit]:
        yield Limit("view.waiting_calls", len(self._waiters), self._waiters.max_waiting)
        if self._watch is not None:
            yield Limit("watch.items", self._watch.snapshot().buffered, MAX_BUFFERED_ITEMS)

    def snapshot(self) -> ViewSnapshot:
        return ViewSnapshot(
            self._state.revision,
            self._loaded,
            self.current,
            self.contact_age_s,
            self._state.layout,
            tuple(self._state.nodes.values()),
            tuple(self._state.gates.values()),
            len(self._owners),
            len(self._waiters),
        )


def _guarded(callback: Callable[[T], None], value: T) -> None:
    """A callback that fails must not stop the view."""
    try:
        callback(value)
    except Exception:
        log.exception("a callback of the cluster view failed")
