"""The fences of this node's shards: raised when a shard opens, and to settle what is unknown.

Shards that were claimed in one transaction have one epoch, and their slots are raised together:
a node that takes thousands of shards needs a hundred statements and not thousands.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from goverse.aio.batcher import Batcher
from goverse.aio.tasks import Tasks
from goverse.errors import GoverseError, Unavailable
from goverse.ids import Epoch
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, Store, StoreRefused
from goverse.storage.values import Fence

_MAX_SHARDS = 1024
_MAX_WAITING = 65_537  # every shard that there can be, and the node's own


class Opening:
    """A shard that is open here: under which fence its objects are written.

    ``number`` grows when an unknown outcome is settled. What is refused under a number below it
    was refused by this node itself, and may be sent again.
    """

    __slots__ = ("_settling", "_when_settled", "epoch", "number", "shard", "slots")

    def __init__(self, shard: int, slots: tuple[int, ...], epoch: Epoch, number: int) -> None:
        self.shard = shard
        self.slots = slots
        self.epoch = epoch
        self.number = number
        self._settling = 0
        self._when_settled: list[Callable[[], None]] = []

    @property
    def settling(self) -> bool:
        """The next number is being raised: nothing of these slots is written meanwhile."""
        return self._settling > 0

    @contextmanager
    def being_settled(self) -> Iterator[None]:
        """Commits and accepts may each have something to settle at one time."""
        self._settling += 1
        try:
            yield
        finally:
            self._settling -= 1
            if not self._settling:
                waiting, self._when_settled = self._when_settled, []
                for callback in waiting:
                    callback()

    def when_settled(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once nothing is being settled; now it is."""
        self._when_settled.append(callback)

    def is_behind(self, fence: Fence) -> bool:
        """Whether it may be this node itself that has shut out ``fence``: what was refused under
        it can be sent again. If it was not, the next attempt will tell."""
        return self.settling or self.number > fence.opening

    def fence(self, slot: int) -> Fence:
        return Fence(slot, self.epoch, self.number)


class OwnerFacts(Protocol):
    """What a node knows of its shards."""

    @property
    def incarnation(self) -> str:
        """Of the registration that holds the claims. Raises Unavailable without one."""
        ...

    async def slots_of(self, shard: int) -> tuple[int, ...]:
        """Slots in the store; those of `NODE_SHARD` are the store's to name."""
        ...


@dataclass(frozen=True, slots=True)
class _Request:
    shard: int
    slots: tuple[int, ...]
    epoch: Epoch


class Fences:
    """Raises fences, a group of shards of one epoch at a time."""

    def __init__(self, store: Store, facts: OwnerFacts, tasks: Tasks) -> None:
        self._store = store
        self._facts = facts
        #: A number is used once, also if the answer to raising it was lost; by all shards, and
        #: across their epochs, as what is left of an older one may still have to be settled.
        self._numbers = itertools.count(1)
        self._raising: Batcher[_Request, Opening | Exception] = Batcher(
            "raise fences", self._raise_all, tasks, max_items=_MAX_SHARDS, max_waiting=_MAX_WAITING
        )

    async def open(self, shard: int, epoch: Epoch) -> Opening:
        """Shut out every former owner of ``shard``.

        Raises `HigherEpoch`, and Unavailable when it may be tried again.
        """
        try:
            slots = await self._facts.slots_of(shard)
        except (StorageUnavailable, OutcomeUnknown) as error:
            raise Unavailable(f"the store cannot be reached: {error}") from None
        except StoreRefused as error:
            raise Unavailable(str(error)) from None
        opened = await self._raising.submit(_Request(shard, slots, epoch))
        if isinstance(opened, Exception):
            raise opened
        return opened

    async def raise_again(self, opening: Opening) -> None:
        """The next number for a shard that is open: whatever is still under way to its slots is
        waited for or shut out. Raises as `open`."""
        again = await self.open(opening.shard, opening.epoch)
        opening.number = max(opening.number, again.number)

    async def _raise_all(self, requests: Sequence[_Request]) -> Sequence[Opening | Exception]:
        groups: dict[Epoch, list[_Request]] = {}
        for request in requests:
            groups.setdefault(request.epoch, []).append(request)
        results: dict[_Request, Opening | Exception] = {}
        for epoch, group in groups.items():
            try:
                number = await self._raise(epoch, group)
            except (GoverseError, StorageUnavailable, OutcomeUnknown) as error:
                results.update(await self._after(error, group))
                continue
            for request in group:
                results[request] = Opening(request.shard, request.slots, epoch, number)
        return [results[request] for request in requests]

    async def _raise(self, epoch: Epoch, group: Sequence[_Request]) -> int:
        number = next(self._numbers)
        slots = [slot for request in group for slot in request.slots]
        await self._store.raise_fence(slots, epoch, self._facts.incarnation, number)
        return number

    async def _after(
        self, error: Exception, group: Sequence[_Request]
    ) -> dict[_Request, Opening | Exception]:
        if isinstance(error, StorageUnavailable | OutcomeUnknown):
            told = Unavailable(f"the fences cannot be raised: {error}")
            return dict.fromkeys(group, told)
        if len(group) == 1:
            return {group[0]: error}
        # One of them stands higher: the others must not wait for what concerns only it.
        found: dict[_Request, Opening | Exception] = {}
        for request in group:
            try:
                number = await self._raise(request.epoch, [request])
                found[request] = Opening(request.shard, request.slots, request.epoch, number)
            except (GoverseError, StorageUnavailable, OutcomeUnknown) as own:
                found.update(await self._after(own, [request]))
        return found
