"""Accepts: calls into the ledger, in order of arrival, one batch of a node at a time.

::

    add ──> queue ──batch──> Store.accept ──verdict──> recorded, or not_accepted
              ^                  │
              └── not there ── settled <── outcome unknown

One batch at a time makes the order of the ledger that of arrival, also for calls of one object
that come while the one before is on its way.

A batch has half of the calls that go through the store: while it has one half, this process has
the other. All of them at once would come back at once, and the two would wait in turn. Smaller
parts would cost more transactions: a batch waits a moment for its half, while others are committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.errors import (
    Conflict,
    Executed,
    GoverseError,
    InvalidArgument,
    NotOwner,
    Unavailable,
)
from goverse.objects.durability.fences import Fences, Opening
from goverse.objects.durability.settlement import shut_out
from goverse.reliable.entries import ACCEPTING, Entry
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, Store
from goverse.storage.patience import until_read
from goverse.storage.rules import known_or_conflict
from goverse.storage.values import DONE, FENCED, Acceptance, AcceptResult, StoredCall, Verdict

log = logging.getLogger(__name__)

MAX_BATCH_CALLS = 512

#: So many go together, however few are under way: a transaction has its price.
MIN_BATCH_CALLS = 16

#: The longest that a batch waits for its half, and about as long as a transaction takes.
MAX_PAUSE_S = 0.002

#: Batches by which the half is measured: of the most calls that one of them saw.
HALF_OF_LAST = 16

MAX_BATCH_BYTES = 4 * 1024 * 1024


class AcceptHost(Protocol):
    """Told of each entry's fate, in the order of the batch."""

    def recorded(self, entry: Entry, result: AcceptResult) -> None:
        """The row stands: DONE or KNOWN."""
        ...

    def not_accepted(self, entry: Entry, error: GoverseError) -> None: ...


class Accepts:
    """The accepts of one node.

    :param noted: how many calls have run, and are being committed.
    """

    def __init__(
        self,
        store: Store,
        fences: Fences,
        tasks: Tasks,
        runtime: Runtime,
        host: AcceptHost,
        noted: Callable[[], int],
    ) -> None:
        self._store = store
        self._fences = fences
        self._tasks = tasks
        self._runtime = runtime
        self._host = host
        self._noted = noted
        self._queue: dict[Entry, None] = {}
        self._seen: deque[int] = deque(maxlen=HALF_OF_LAST)
        self._half = 0
        self._running = False
        self._wake: asyncio.Future[None] | None = None
        #: How long the queue must be before another call in it wakes.
        self._wakes_at = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, entry: Entry) -> None:
        self._queue[entry] = None
        if not self._running:
            self._running = True
            self._tasks.spawn("accept", self._run())
        elif len(self._queue) >= self._wakes_at:
            self._go_on()

    def withdraw(self, entry: Entry) -> bool:
        """Whether ``entry`` was still in the queue: then it will not be sent (again)."""
        return self._queue.pop(entry, self) is None

    async def _run(self) -> None:
        backoff = Backoff(self._runtime.random, min_s=0.05, max_s=1.0)
        try:
            while self._queue:
                await self._wait_for_half()
                if batch := self._take():
                    if await self._accept(batch):
                        backoff.reset()
                    else:
                        await asyncio.sleep(backoff.next_s())
                elif self._queue:
                    await self._woken(at=0)
        finally:
            self._running = False

    async def _wait_for_half(self) -> None:
        noted = self._noted()
        self._seen.append(len(self._queue) + noted)
        self._half = min(max(self._seen) // 2, MAX_BATCH_CALLS)
        if noted and len(self._queue) < self._half:
            timer = asyncio.get_running_loop().call_later(MAX_PAUSE_S, self._go_on)
            try:
                await self._woken(at=self._half)
            finally:
                timer.cancel()

    async def _woken(self, *, at: int) -> None:
        self._wakes_at = at
        self._wake = asyncio.get_running_loop().create_future()
        await self._wake

    def _go_on(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _take(self) -> list[Entry]:
        batch: list[Entry] = []
        size = 0
        blocked: dict[Opening, None] = {}
        most = max(MIN_BATCH_CALLS, self._half)
        for entry in list(self._queue):
            if len(batch) >= most or size >= MAX_BATCH_BYTES:
                break
            opening = entry.shard.opening
            if opening is not None and opening.settling:
                blocked[opening] = None
                continue
            del self._queue[entry]
            batch.append(entry)
            size += entry.size
        if not batch:
            for opening in blocked:
                opening.when_settled(self._go_on)
        return batch

    async def _accept(self, batch: Sequence[Entry]) -> bool:
        """False: the store cannot be reached."""
        wanted = [Acceptance(entry.fence(), entry.call, entry.skip) for entry in batch]
        first = [not entry.sent for entry in batch]
        for entry in batch:
            entry.sent = True
        try:
            results = await self._store.accept(wanted)
        except StorageUnavailable as error:
            for entry, unsent in zip(batch, first, strict=True):
                entry.sent = not unsent
                text = f"call {entry.call_id} cannot be accepted, the store is away: {error}"
                self._tell(entry, Unavailable(text, executed=_executed(entry)))
            return False
        except OutcomeUnknown as error:
            log.warning("whether %d calls were accepted is not known: %s", len(batch), error)
            await self._settle(batch)
            return True
        again: list[Entry] = []
        for entry, acceptance, result in zip(batch, wanted, results, strict=True):
            opening = entry.shard.opening
            assert opening is not None
            if result.verdict is FENCED and opening.is_behind(acceptance.fence):
                again.append(entry)
            else:
                self._verdict(entry, result)
        self._put_back(again)
        return True

    def _put_back(self, entries: Sequence[Entry]) -> None:
        """To the head of the queue: what came later must not overtake them."""
        live = {entry: None for entry in entries if entry.state is ACCEPTING}
        self._queue = {**live, **self._queue}

    def _verdict(self, entry: Entry, result: AcceptResult) -> None:
        if entry.state is not ACCEPTING:
            return  # its shard has gone meanwhile: whoever has it now finds the row
        if result.verdict is DONE or result.verdict is Verdict.KNOWN:
            self._host.recorded(entry, result)
        elif result.verdict is Verdict.CONFLICT:
            self._tell(entry, Conflict(result.message, details={"call_id": entry.call_id}))
        elif result.verdict is FENCED:
            error = NotOwner(
                f"shard {entry.shard.number}: {result.message}", epoch=entry.shard.epoch
            )
            error.executed = _executed(entry)
            self._tell(entry, error)
        else:
            text = f"call {entry.call_id} cannot be stored: {result.message}"
            self._tell(entry, InvalidArgument(text))

    def _tell(self, entry: Entry, error: GoverseError) -> None:
        if entry.state is ACCEPTING:
            self._host.not_accepted(entry, error)

    async def _settle(self, batch: Sequence[Entry]) -> None:
        """Nothing of the batch is read, run or answered before its fences are raised again."""
        openings = [entry.shard.opening for entry in batch if entry.shard.opening is not None]
        with ExitStack() as settling:
            over = await shut_out(openings, settling, self._fences, self._runtime)
            stored = await self._read([entry.call_id for entry in batch])
        again: list[Entry] = []
        for entry in batch:
            row = stored.get(entry.call_id)
            if row is not None:
                self._verdict(entry, known_or_conflict(entry.call, row))
            elif entry.shard.opening in over:
                self._verdict(entry, AcceptResult(FENCED, message="another owner has it"))
            else:
                again.append(entry)  # it is not there, and can never come
        self._put_back(again)

    async def _read(self, call_ids: Sequence[str]) -> Mapping[str, StoredCall]:
        return await until_read(
            lambda: self._store.get_calls(call_ids), "what was accepted", self._runtime, log
        )


def _executed(entry: Entry) -> Executed:
    return Executed.UNKNOWN if entry.sent else Executed.NO
