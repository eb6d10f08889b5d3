"""Group commit: what is finished while a transaction is in flight goes into the next one.

::

    journal dirty ──> queue ──lane takes a batch──> Store.commit ──verdict per object──> journal
                        ^                                │
                        └──────── put back ──────────────┴── unknown: settle, then as it turned out

A lane is a task with one transaction at a time. An object is in one lane at most, as a journal has
one change in flight.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from goverse.aio.backoff import Backoff
from goverse.aio.deadlines import Deadlines
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.errors import Executed, GoverseError, ObjectFailed, Overloaded, Unavailable
from goverse.objects.durability.fences import Fences, Opening
from goverse.objects.durability.journal import Journal, Taken
from goverse.objects.durability.settlement import settle
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, Store
from goverse.storage.values import DONE, FENCED, CommitResult, Verdict

log = logging.getLogger(__name__)

#: Objects of one transaction: beyond this a batch gains little, and its locks are held longer.
MAX_BATCH_OBJECTS = 256

MAX_BATCH_BYTES = 4 * 1024 * 1024


class CommitObserver(Protocol):
    """Told what commits do; counts it."""

    def committed(self, objects: int) -> None: ...

    def refused(self, reason: str) -> None:
        """``reason`` is a verdict, or unavailable, or unknown."""
        ...


@dataclass(frozen=True)
class CommitsSnapshot:
    """:param waiting: journals to be taken. :param max_bytes: of ``bytes``, uncommitted."""

    waiting: int
    in_flight: int
    delayed: int
    bytes: int
    max_bytes: int


class Commits:
    """Commits the journals of one node. See `JournalHost` for what journals tell it.

    :param lanes: transactions at the same time.
    :param max_bytes: uncommitted bytes of all journals; `check_room` refuses past them.
    """

    def __init__(
        self,
        store: Store,
        fences: Fences,
        tasks: Tasks,
        runtime: Runtime,
        observer: CommitObserver,
        *,
        lanes: int,
        max_bytes: int,
    ) -> None:
        self._store = store
        self._fences = fences
        self._runtime = runtime
        self._observer = observer
        self._max_bytes = max_bytes
        self._bytes = 0
        self._in_flight = 0
        self._queue: dict[Journal, None] = {}
        self._later = Deadlines(step_s=0.05)
        self._settling: dict[Opening, None] = {}
        self._idle: list[asyncio.Future[None]] = []
        self._lanes = lanes
        self._tasks = tasks
        self._now = asyncio.get_running_loop().time

    def start(self) -> None:
        for number in range(self._lanes):
            self._tasks.spawn(f"commit lane {number}", self._lane())

    def close(self) -> None:
        self._later.close()

    def check_room(self) -> None:
        """Before a turn of a durable object begins. Raises Overloaded."""
        if self._bytes >= self._max_bytes:
            raise Overloaded(
                f"{self._bytes} bytes of this node wait to be committed, as many as may "
                "(limits.max_uncommitted_bytes)"
            )

    def snapshot(self) -> CommitsSnapshot:
        return CommitsSnapshot(
            len(self._queue), self._in_flight, len(self._later), self._bytes, self._max_bytes
        )

    # -- what journals tell

    def dirty(self, journal: Journal) -> None:
        if journal in self._queue:
            return
        if not journal.urgent:
            if not journal.delayed:
                journal.delayed = True
                self._later.add(self._now() + journal.interval_s, _when_due(self, journal))
            return
        self._queue[journal] = None
        self._wake()

    def resized(self, by: int) -> None:
        self._bytes += by

    # -- lanes

    async def _lane(self) -> None:
        backoff = Backoff(self._runtime.random, min_s=0.05, max_s=1.0)
        while True:
            batch = self._take()
            if not batch:
                waiting = asyncio.get_running_loop().create_future()
                self._idle.append(waiting)
                await waiting
                continue
            self._in_flight += len(batch)
            try:
                reached = await self._commit(batch)
            finally:
                self._in_flight -= len(batch)
            if reached:
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_s())

    def _take(self) -> list[Taken]:
        batch: list[Taken] = []
        size = 0
        for journal in list(self._queue):
            if len(batch) >= MAX_BATCH_OBJECTS or size >= MAX_BATCH_BYTES:
                break
            if journal.subject.opening.settling:
                self._look_again_after(journal.subject.opening)
                continue
            del self._queue[journal]
            if journal.takeable:
                taken = Taken.of(journal)
                size += taken.change.size
                batch.append(taken)
        return batch

    def _look_again_after(self, opening: Opening) -> None:
        """Not only lanes settle: accepts do, too."""
        if opening not in self._settling:
            self._settling[opening] = None
            opening.when_settled(lambda: self._settled(opening))

    def _settled(self, opening: Opening) -> None:
        del self._settling[opening]
        self._wake()

    def _wake(self) -> None:
        if self._idle:
            waiting = self._idle.pop()
            if not waiting.done():
                waiting.set_result(None)

    async def _commit(self, batch: list[Taken]) -> bool:
        """False: the store cannot be reached, and everything is put back."""
        try:
            results = await self._store.commit([taken.commit for taken in batch])
        except StorageUnavailable as error:
            log.warning("%d objects wait for the store: %s", len(batch), error)
            self._observer.refused("unavailable")
            for taken in batch:
                taken.journal.put_back()
            return False
        except OutcomeUnknown as error:
            log.warning("whether %d objects were committed is not known: %s", len(batch), error)
            self._observer.refused("unknown")
            await settle(batch, self._store, self._fences, self._runtime)
            return True
        done = 0
        for taken, result in zip(batch, results, strict=True):
            done += self._verdict(taken, result)
        self._observer.committed(done)
        return True

    def _verdict(self, taken: Taken, result: CommitResult) -> bool:
        journal, verdict = taken.journal, result.verdict
        if verdict is DONE:
            journal.committed(result.version)
            return True
        self._observer.refused(verdict.value)
        opening = journal.subject.opening
        if verdict is FENCED and opening.is_behind(taken.commit.fence):
            journal.put_back()
            return False
        log.error("%s cannot be committed: %s", journal.subject.object, verdict.value)
        journal.refused(_refusal(journal, result))
        return False


def _when_due(commits: Commits, journal: Journal) -> Callable[[], None]:
    def due() -> None:
        journal.delayed = False
        if journal.takeable:
            journal.urgent = True
            commits.dirty(journal)

    return due


def _refusal(journal: Journal, result: CommitResult) -> GoverseError:
    """What callers are told: the effect is certainly not there."""
    object = journal.subject.object
    details = {"rolled_back": True}
    if result.verdict is Verdict.REFUSED:
        return ObjectFailed(
            f"the state of {object} cannot be stored: {result.message}",
            executed=Executed.UNKNOWN,
            details=details,
        )
    return Unavailable(
        f"another owner has written {object}; what this turn did is discarded",
        executed=Executed.UNKNOWN,
        details=details,
    )
