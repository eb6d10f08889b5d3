"""Delayed calls of one node: which are due soon, and what happens when they are.

::

    store ──a page by run_at──┐
    accepted ─────────────────┼──> due soon ──its time──> Store.make_due ──> its row ──> an order
    a tick is over ───────────┘      ^                         │
                                     └── not yet, or moved ────┘

What is known here is a hint: the ids of what is due within `HORIZON_S`, without arguments. Whether
a call is due the store decides, on the row, by its own clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.objects.durability.fences import Fences
from goverse.objects.durability.settlement import shut_out
from goverse.objects.shard import Shard
from goverse.objects.timing import caught_up
from goverse.reliable.due_soon import DueSoon, Known
from goverse.reliable.ledger import Ledger
from goverse.reliable.store_clock import StoreClock
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, Store
from goverse.storage.values import (
    CallStatus,
    DelayedCall,
    DueStep,
    StepResult,
    StoredCall,
    Verdict,
)

log = logging.getLogger(__name__)

#: How far ahead calls are known. The store is asked again when half of it is over.
HORIZON_S = 30.0

#: Of one page, and of one batch.
MAX_CALLS = 500

#: So much after its time a call is tried: clocks are known to about the time of a journey.
_GUARD_S = 0.002

_MIN_WAIT_S = 0.001

#: More batches in a row that came too early say that the store's clock has gone back.
_MAX_EARLY = 3

#: A clock that was heard longer ago is asked for again before ticks are left out.
FRESH_S = 1.0


class DelayHost(Protocol):
    async def wait_room(self) -> None:
        """Return once another pending call may be in memory."""
        ...

    def due(self, shard: Shard, row: StoredCall) -> None:
        """A delayed call of an open shard is delayed no more."""
        ...

    def ticks_left_out(self, type_name: str, ticks: int) -> None: ...


class Delays:
    """See the module. It has two tasks: one reads ahead, one makes due."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        fences: Fences,
        tasks: Tasks,
        runtime: Runtime,
        host: DelayHost,
        *,
        max_calls: int,
        max_missed: int,
    ) -> None:
        self.clock = StoreClock(runtime)
        self._store = store
        self._ledger = ledger
        self._fences = fences
        self._tasks = tasks
        self._runtime = runtime
        self._host = host
        self._max_missed = max_missed
        self._soon = DueSoon(max_calls)
        self._shards: dict[int, Shard] = {}  # by slot
        self._unread: dict[Shard, None] = {}
        self._busy: dict[str, None] = {}
        self._started = False
        self._asked = False
        self._early = 0
        self._to_read = asyncio.Event()
        self._to_run = asyncio.Event()

    def __len__(self) -> int:
        """Calls in memory."""
        return len(self._soon)

    @property
    def behind(self) -> int:
        """Shards that were not read yet."""
        return len(self._unread)

    def count_by_type(self) -> dict[tuple[str, ...], float]:
        return self._soon.count_by_type()

    # -- shards and calls

    def opened(self, shard: Shard) -> None:
        assert shard.opening is not None
        if not self._shards:
            self._start()
        self._shards.update(dict.fromkeys(shard.opening.slots, shard))
        self._unread[shard] = None
        self._to_read.set()

    def closed(self, shard: Shard) -> None:
        """Whoever opens it next finds its calls in the store."""
        self._unread.pop(shard, None)
        self._soon.forget(shard)
        for slot in shard.opening.slots if shard.opening is not None else ():
            if self._shards.get(slot) is shard:
                del self._shards[slot]

    def add(self, call: DelayedCall, shard: Shard) -> None:
        """``call`` is delayed from now on, until a time that is known."""
        if call.timing.run_at <= self._soon.until and self._shards.get(call.slot) is shard:
            self._put(call, shard)

    def _put(self, call: DelayedCall, shard: Shard) -> None:
        if self._soon.add(call, shard):
            self._to_run.set()

    def look_again(self) -> None:
        """The store may have what is not known here."""
        self._asked = True
        self._to_read.set()

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._tasks.spawn("read delayed calls", self._read_on())
            self._tasks.spawn("make calls due", self._run())

    # -- reading ahead

    async def _read_on(self) -> None:
        backoff = Backoff(self._runtime.random, min_s=0.1, max_s=2.0)
        while True:
            await _wait(self._to_read, self._rest_s())
            unread = list(self._unread)
            everything = self._asked or self._rest_s() == 0
            if not unread and not everything:
                continue
            self._asked = False
            shards = None if everything else unread
            try:
                await self._read(shards)
            except (StorageUnavailable, OutcomeUnknown) as error:
                log.warning("delayed calls cannot be read: %s", error)
                self._asked = self._asked or everything
                await asyncio.sleep(backoff.next_s())
                self._to_read.set()
                continue
            backoff.reset()
            for shard in unread:
                self._unread.pop(shard, None)

    def _rest_s(self) -> float | None:
        """Seconds until the store is to be asked for more; None: not before something changes."""
        if not self._shards:
            return None
        if not self._soon.has_room:
            return HORIZON_S / 2
        return max(0.0, self._soon.until - HORIZON_S / 2 - self.clock.now())

    async def _read(self, shards: Sequence[Shard] | None) -> None:
        """Add what is due within the horizon; of all shards if they are None."""
        if shards is None:
            slots = list(self._shards)
        else:
            slots = [slot for one in shards if one.opening for slot in one.opening.slots]
        after = (0.0, "")
        while True:
            asked_at = asyncio.get_running_loop().time()
            page = await self._store.delayed_calls(
                slots, within_s=HORIZON_S, after=after, limit=MAX_CALLS
            )
            self.clock.heard(page.now, asked_at)
            if shards is None and after == (0.0, ""):
                self._soon.until = page.now + HORIZON_S
            for call in page.calls:
                shard = self._shards.get(call.slot)
                if shard is None or call.call_id in self._busy or call.call_id in self._soon:
                    continue
                self._put(call, shard)
            # What is forgotten for want of room comes before what follows it.
            if len(page.calls) < MAX_CALLS or page.calls[-1].timing.run_at > self._soon.until:
                break
            after = (page.calls[-1].timing.run_at, page.calls[-1].call_id)
        self._to_run.set()  # the clock may be another

    # -- making due

    async def _run(self) -> None:
        backoff = Backoff(self._runtime.random, min_s=0.05, max_s=2.0)
        while True:
            next_at = self._soon.next_at()
            left_s = None if next_at is None else next_at - self.clock.now()
            if left_s is None or left_s > -_GUARD_S:
                await _wait(self._to_run, None if left_s is None else left_s + _GUARD_S)
                continue
            await self._host.wait_room()
            batch = self._take()
            if self._soon.has_room and self._rest_s() == 0:
                self._to_read.set()
            if not batch:
                await asyncio.sleep(backoff.next_s())
                continue
            self._busy.update(dict.fromkeys(known.call.call_id for known in batch))
            try:
                done = await self._make_due(batch)
            except (StorageUnavailable, OutcomeUnknown) as error:
                log.warning("%d delayed calls wait, the store is away: %s", len(batch), error)
                self._put_back(batch)
                done = False
            except Exception:
                log.exception("%d delayed calls are looked at again", len(batch))
                self._put_back(batch)
                done = False
            finally:
                for known in batch:
                    self._busy.pop(known.call.call_id, None)
            if done:
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_s())

    def _put_back(self, batch: Sequence[Known]) -> None:
        """As it was known: if it is otherwise by now, the next step is not taken."""
        for known in batch:
            if known.call.call_id not in self._soon:
                self.add(known.call, known.shard)

    def _take(self) -> list[Known]:
        """What is due and may be written now."""
        batch = []
        for known in self._soon.take(self.clock.now() - _GUARD_S, MAX_CALLS):
            opening = known.shard.opening
            if opening is not None and not opening.settling:
                batch.append(known)
            else:
                self._put(known.call, known.shard)
        return batch

    async def _make_due(self, batch: Sequence[Known]) -> bool:
        """False: the store is away, or its clock has gone back."""
        steps = [self._step(known) for known in batch]
        if self.clock.age_s() > FRESH_S and any(step.run_at != step.was_at for step in steps):
            await self._ask_the_time()
            steps = [self._step(known) for known in batch]
        asked_at = asyncio.get_running_loop().time()
        try:
            results: Sequence[StepResult] = await self._store.make_due(steps)
        except OutcomeUnknown as error:
            log.warning("whether %d delayed calls are due is not known: %s", len(batch), error)
            openings = [known.shard.opening for known in batch if known.shard.opening is not None]
            with ExitStack() as settling:
                await shut_out(openings, settling, self._fences, self._runtime)
                await self._enter(batch)
            return True
        looked_at: list[Known] = []
        early = 0
        for known, step, result in zip(batch, steps, results, strict=True):
            if result.verdict is Verdict.DONE and not result.seq:
                if step.run_at == step.was_at:
                    early += 1
                    self.clock.not_yet(step.run_at, asked_at)
                self._still_delayed(known, step)
            elif result.verdict is Verdict.FENCED:
                opening = known.shard.opening
                if opening is not None and opening.is_behind(step.fence):
                    self.add(known.call, known.shard)
            else:
                if result.verdict is Verdict.DONE:
                    self._count(known, step)
                looked_at.append(known)
        await self._enter(looked_at)
        return await self._in_time(early == 0)

    async def _in_time(self, all_were: bool) -> bool:
        self._early = 0 if all_were else self._early + 1
        if self._early < _MAX_EARLY:
            return True
        log.warning("the store's clock has gone back, delayed calls wait for it")
        await self._ask_the_time()
        return False

    def _step(self, known: Known) -> DueStep:
        call, opening = known.call, known.shard.opening
        assert opening is not None
        run_at, _ = caught_up(call.timing, self.clock.now(), self._max_missed)
        return DueStep(opening.fence(call.slot), call.call_id, call.timing.run_at, run_at)

    async def _ask_the_time(self) -> None:
        """A clock that went back would have ticks left out that are still to come."""
        asked_at = asyncio.get_running_loop().time()
        page = await self._store.delayed_calls([], within_s=0.0)
        self.clock.heard(page.now, asked_at)

    def _still_delayed(self, known: Known, step: DueStep) -> None:
        self._count(known, step)
        timing = known.call.timing._replace(run_at=step.run_at)
        self.add(known.call._replace(timing=timing), known.shard)

    def _count(self, known: Known, step: DueStep) -> None:
        if step.run_at != step.was_at:
            ticks = round((step.run_at - step.was_at) / known.call.timing.every_s)
            self._host.ticks_left_out(known.call.object.type, ticks)

    async def _enter(self, batch: Sequence[Known]) -> None:
        """Go by the rows: a call may have been cancelled, moved, or made due before."""
        if not batch:
            return
        rows = await self._ledger.rows(known.call.call_id for known in batch)
        for known in batch:
            row = rows.get(known.call.call_id)
            if row is None or self._shards.get(known.call.slot) is not known.shard:
                continue
            if row.status is CallStatus.DELAYED and row.call.timing is not None:
                self.add(known.call._replace(timing=row.call.timing), known.shard)
            else:
                self._host.due(known.shard, row)


async def _wait(event: asyncio.Event, limit_s: float | None) -> None:
    """Return when ``event`` is set, and clear it, or after ``limit_s``.

    Seconds since 1970 are known to a quarter of a microsecond, so that a wait of less would not be
    seen in them: none is.
    """
    try:
        async with asyncio.timeout(None if limit_s is None else max(limit_s, _MIN_WAIT_S)):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
