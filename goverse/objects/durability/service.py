"""Everything about durability that a node has once: fences, loads, commits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from goverse.aio.batcher import Batcher, BatcherFull
from goverse.aio.limits import Limit
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.config.settings import LimitSettings
from goverse.errors import Overloaded, Unavailable
from goverse.ids import Epoch, ObjectId
from goverse.objects.durability.commits import CommitObserver, Commits, CommitsSnapshot
from goverse.objects.durability.fences import Fences, Opening, OwnerFacts
from goverse.objects.durability.journal import Journal, JournalOwner, Subject
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, Store
from goverse.storage.values import StoredObject

#: Transactions at the same time: while one waits for the disk the other is being made.
LANES = 2

MAX_LOADS = 256


@dataclass(frozen=True)
class DurabilitySnapshot:
    """:param loading: objects that wait to be read."""

    commits: CommitsSnapshot
    loading: int


class Durability:
    """What the catalog of a node with a store needs of it. `start` before use."""

    def __init__(
        self,
        store: Store,
        facts: OwnerFacts,
        limits: LimitSettings,
        runtime: Runtime,
        observer: CommitObserver,
    ) -> None:
        self._store = store
        self._limits = limits
        self._tasks = Tasks("durability")
        self.fences = Fences(store, facts, self._tasks)
        self.commits = Commits(
            store,
            self.fences,
            self._tasks,
            runtime,
            observer,
            lanes=LANES,
            max_bytes=limits.max_uncommitted_bytes,
        )
        self._loads: Batcher[ObjectId, StoredObject | None] = Batcher(
            "load objects",
            self._load_all,
            self._tasks,
            max_items=MAX_LOADS,
            max_waiting=limits.max_waiting_calls,
        )

    def start(self) -> None:
        self.commits.start()

    async def close(self) -> None:
        """What is in flight is left to the store: the next owner waits for it."""
        self.commits.close()
        await self._tasks.close()

    async def open_shard(self, shard: int, epoch: Epoch) -> Opening:
        """Raises `HigherEpoch`, Unavailable."""
        return await self.fences.open(shard, epoch)

    async def load(self, id: ObjectId) -> StoredObject | None:
        """Raises Unavailable, Overloaded."""
        try:
            return await self._loads.submit(id)
        except BatcherFull as full:
            raise Overloaded(f"{id} cannot be loaded: {full}") from None
        except (StorageUnavailable, OutcomeUnknown) as error:
            raise Unavailable(f"{id} cannot be loaded, the store is away: {error}") from None

    def journal(
        self, subject: Subject, owner: JournalOwner, version: int, interval_s: float
    ) -> Journal:
        return Journal(
            subject,
            self.commits,
            owner,
            version,
            max_turns=self._limits.max_uncommitted_turns,
            interval_s=interval_s,
        )

    def limits(self) -> Iterator[Limit]:
        commits = self.commits.snapshot()
        yield Limit("durability.uncommitted_bytes", commits.bytes, commits.max_bytes)
        yield Limit("durability.loads", len(self._loads), self._limits.max_waiting_calls)

    def snapshot(self) -> DurabilitySnapshot:
        return DurabilitySnapshot(self.commits.snapshot(), len(self._loads))

    async def _load_all(self, ids: Sequence[ObjectId]) -> Sequence[StoredObject | None]:
        found = await self._store.load(list(dict.fromkeys(ids)))
        return [found.get(id) for id in ids]
