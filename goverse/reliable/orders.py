"""The reliable calls of one object, run one after the other in the order of the ledger.

::

    pending ──head──> its turn ──noted──> noted ──committed──> over
       ^                                    │
       └───── in their old order ───────────┘ lost

Only the head has a place in the object's mailbox, so that a call that was cut off is run again
before those behind it. The next begins when the turn of the one before is over, and not only
when it is committed (output commit), unless something asks for care.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
from typing import Protocol

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.errors import (
    DeadlineExceeded,
    GoverseError,
    InvalidArgument,
    NotFound,
    NotOwner,
    ObjectFailed,
    Overloaded,
)
from goverse.ids import ObjectId
from goverse.objects.shard import Shard
from goverse.reliable.entries import (
    CHANGING,
    DELAYED,
    NOTED,
    PARKED,
    PENDING,
    RUNNING,
    Entry,
    EntryState,
)
from goverse.storage.values import CallStatus, Outcome, Step, StoredCall

log = logging.getLogger(__name__)

#: Turns that end without waiting are run so many in a row before others get the loop.
_TURNS_IN_A_ROW = 32

#: How often the store may refuse what one call leaves, with nothing else beside it.
_MAX_REFUSALS = 2


class OrderHost(Protocol):
    """What an order needs of its node."""

    @property
    def runtime(self) -> Runtime: ...

    @property
    def max_attempts(self) -> int: ...

    def wall(self) -> float: ...

    def blocks_on_parked(self, object: ObjectId) -> bool: ...

    def spawn_runner(self, order: Order) -> asyncio.Task[None]: ...

    async def run(self, entry: Entry) -> None:
        """One turn. Raises why it left no outcome."""
        ...

    def run_at_once(self, entry: Entry) -> bool:
        """One turn in place. False: it left no outcome, or has to wait for something."""
        ...

    async def step(self, entry: Entry, step: Step, reason: str) -> int | None:
        """Change the row; its attempts. None: look at the rows again."""
        ...

    async def rows(self, entries: list[Entry]) -> dict[str, StoredCall]: ...

    def finished(self, entry: Entry, outcome: Outcome) -> None: ...

    def parked(self, entry: Entry, reason: str) -> None: ...

    def left(self, entry: Entry, state: EntryState) -> None:
        """It is parked, or gone from the ledger, or delayed: nothing of it runs here now."""
        ...

    def emptied(self, order: Order) -> None: ...


class Order:
    """Runs what it holds in a task that lives as long as something is pending."""

    def __init__(self, host: OrderHost, object: ObjectId, shard: Shard) -> None:
        self._host = host
        self.object = object
        self.shard = shard
        self.pending: list[Entry] = []
        self.noted: dict[Entry, None] = {}
        #: Rows may be different from what is known here: read them before anything runs.
        self.doubtful = False
        #: Accepts under way; those that a deletion may have met are doubtful when they land.
        self.accepting = 0
        self._doubt_accepts = False
        #: The call that may have ended its process: it is counted, and then runs alone.
        self._suspect: Entry | None = None
        #: One at a time, committed before the next begins, until this one is over.
        self._careful: Entry | None = None
        self._blocked = False
        self._closed = False
        #: What the task of the order has in hand; whoever else would change it waits.
        self._in_hand: Entry | None = None
        #: Operators' changes under way: of calls that were taken out, and of some that will join.
        self._changing = 0
        self._held = 0
        self._runner: asyncio.Task[None] | None = None
        self._in_turn = False
        self._progress: asyncio.Future[None] | None = None
        self._turns = 0

    @property
    def empty(self) -> bool:
        return not (self.pending or self.noted or self.accepting or self._changing)

    def is_blocked_by(self, entry: Entry) -> bool:
        """``entry`` is parked, and holds up the others."""
        return self._blocked and self._suspect is entry

    def join(self, entry: Entry, *, suspect: bool = False) -> None:
        """``entry`` has its place in the ledger."""
        entry.state, entry.order = PENDING, self
        bisect.insort(self.pending, entry, key=_seq)
        if suspect and self._suspect is None and not self.noted and self.pending[0] is entry:
            self._suspect = entry
        self._start()

    def accept_landed(self) -> None:
        self.accepting -= 1
        if self._doubt_accepts:
            self.doubtful = True
            self._doubt_accepts = self.accepting > 0

    def deleted(self) -> None:
        """The store has skipped what was pending, and perhaps some that are being accepted."""
        self.doubtful = self.doubtful or bool(self.pending)
        self._blocked = False
        self._doubt_accepts = self.accepting > 0
        self._start()

    def close(self) -> list[Entry]:
        """The shard is gone: run nothing more. Returns what was not finished."""
        self._closed = True
        if self._runner is not None and not self._in_turn:
            self._runner.cancel()
        self._advance()
        left = [*self.noted, *self.pending]
        self.pending, self.noted = [], {}
        for entry in left:
            entry.order = None
        return left

    # -- what operators change

    def has_in_hand(self, entry: Entry) -> bool:
        """``entry`` is being run, counted, skipped or committed: what becomes of it is decided
        there."""
        return entry is self._in_hand or entry.state in (RUNNING, NOTED)

    def take_out(self, entry: Entry) -> None:
        """Nothing is done with ``entry``, which is pending and not in hand, until it is
        `put_back` or `taken_out`."""
        self.pending.remove(entry)
        entry.state = CHANGING
        self._changing += 1

    def put_back(self, entry: Entry, *, known: bool) -> None:
        """:param known: its row is as it is known here."""
        self._changing -= 1
        if self._closed:
            return
        entry.state = PENDING
        bisect.insort(self.pending, entry, key=_seq)
        self.doubtful = self.doubtful or not known
        if entry is self._suspect:
            self._blocked = False  # it is counted, before it runs again
        self._start()

    def taken_out(self, entry: Entry) -> None:
        """``entry`` is over."""
        self._changing -= 1
        if entry is self._suspect:
            self._blocked = False
        self._forget(entry)
        self._start()
        self._end_if_empty()

    def hold(self) -> None:
        """Begin no turn until `release`: a call is about to get its place, and none behind it may
        run before."""
        self._held += 1
        self._changing += 1

    def release(self) -> None:
        self._held -= 1
        self._changing -= 1
        self._start()
        self._end_if_empty()

    # -- what entries tell

    def ran(self, entry: Entry) -> None:
        self.pending.remove(entry)
        entry.alone = not self.noted
        self.noted[entry] = None

    def committed(self, entry: Entry) -> None:
        assert entry.outcome is not None
        self.noted.pop(entry, None)
        self._forget(entry)
        self._host.finished(entry, entry.outcome)
        self._advance()
        self._end_if_empty()

    def lost(self, entry: Entry, error: GoverseError) -> None:
        """Nothing of its turn is stored. It runs again, in its old place."""
        if self.noted.pop(entry, self) is not None or self._closed:
            return
        log.warning("call %s of %s runs again: %s", entry.call_id, self.object, error)
        if isinstance(error, ObjectFailed):
            self._careful = self._careful or entry
            if entry.alone:
                entry.refusals += 1
                if entry.refusals >= _MAX_REFUSALS:
                    entry.refusal = error
        entry.state, entry.outcome = PENDING, None
        bisect.insort(self.pending, entry, key=_seq)
        self.doubtful = True
        self._advance()
        self._start()

    # -- running

    def _start(self) -> None:
        if self._runner is None and self._may_run:
            self._run_at_once()
            if self.pending and self._runner is None:
                self._runner = self._host.spawn_runner(self)

    @property
    def _may_run(self) -> bool:
        return not (self._blocked or self._closed or self._held)

    def _run_at_once(self) -> None:
        """Turns that need no task, as long as nothing asks for care."""
        for _ in range(_TURNS_IN_A_ROW):
            if not self.pending or self.doubtful or self._careful is not None:
                return
            entry = self.pending[0]
            if entry is self._suspect or entry.refusal is not None or entry.cancelled is not None:
                return
            if self._expired(entry):
                return
            if not self._host.run_at_once(entry):
                self._interrupted(entry)
                return

    def _expired(self, entry: Entry) -> bool:
        expires_at = entry.call.expires_at
        return expires_at is not None and expires_at <= self._host.wall()

    async def run(self) -> None:
        """The body of its task."""
        backoff = Backoff(self._host.runtime.random, min_s=0.02, max_s=5.0)
        try:
            while self.pending and self._may_run:
                try:
                    went_on = await self._one()
                except Exception:
                    log.exception("the calls of %s are tried again", self.object)
                    went_on = False
                if went_on:
                    backoff.reset()
                elif not self._closed:
                    await asyncio.sleep(backoff.next_s())
        finally:
            self._runner = None
        self._end_if_empty()

    async def _one(self) -> bool:
        """The next step of the head. False: not now."""
        if self.doubtful:
            return await self._look_again()
        entry = self._in_hand = self.pending[0]
        try:
            if entry.cancelled is not None:
                return await self._skip(entry, entry.cancelled.reason)
            if self._expired(entry):
                return await self._skip(entry, "expired")
            if entry is self._suspect:
                return await self._count(entry)
            if self._careful is not None and self.noted:
                await self._wait_progress()
                return True
            return await self._turn(entry)
        finally:
            self._in_hand = None

    async def _turn(self, entry: Entry) -> bool:
        self._in_turn = True
        try:
            await self._host.run(entry)
        except Overloaded as full:
            self._interrupted(entry)
            if not self.noted:
                log.warning("call %s waits: %s", entry.call_id, full)
                return False
            await self._wait_progress()
        except GoverseError as error:
            self._interrupted(entry)
            self._explain(entry, error)
            return False
        finally:
            self._in_turn = False
        self._turns += 1
        if self._turns % _TURNS_IN_A_ROW == 0:
            await asyncio.sleep(0)
        return True

    def _interrupted(self, entry: Entry) -> None:
        if entry.state is RUNNING:
            entry.state = PENDING

    def _explain(self, entry: Entry, error: GoverseError) -> None:
        if isinstance(error, NotOwner) or self._closed or self.doubtful or entry.cancelled:
            return  # the shard is going, or the row is read first, or it is skipped
        if isinstance(error, NotFound | InvalidArgument):
            why = "this process cannot run it, a newer one may"
        elif isinstance(error, DeadlineExceeded):
            why = "its turn was cut off"
        else:
            why = "its turn left no outcome"
        log.warning("call %s of %s stays pending, %s: %s", entry.call_id, self.object, why, error)

    async def _count(self, entry: Entry) -> bool:
        """It may have ended the process of the former owner: count that, or park it."""
        limit = self._host.max_attempts
        if entry.attempts <= limit:
            attempts = await self._host.step(entry, Step.ATTEMPT, "")
            if attempts is None:
                self.doubtful = True
                return False
            entry.attempts = attempts
        if entry.attempts <= limit:
            self._suspect, self._careful = None, entry
            return True
        reason = f"{entry.attempts - 1} attempts ended with the end of their process"
        if self._host.blocks_on_parked(self.object):
            self._blocked = True
            self._host.parked(entry, f"{reason}; it holds up its object")
            return True
        if await self._host.step(entry, Step.PARK, reason) is None:
            self.doubtful = True
            return False
        self._leave(entry)
        self._host.parked(entry, reason)
        return True

    async def _skip(self, entry: Entry, reason: str) -> bool:
        if await self._host.step(entry, Step.SKIP, reason) is None:
            self.doubtful = True
            return False
        self.pending.remove(entry)
        self._forget(entry)
        self._host.finished(entry, Outcome(entry.call_id, CallStatus.SKIPPED, None, reason))
        return True

    async def _look_again(self) -> bool:
        """What became of the pending ones in the ledger."""
        self.doubtful = False
        looked_at = list(self.pending)
        try:
            rows = await self._host.rows(looked_at)
        except BaseException:
            self.doubtful = True
            raise
        if self._closed:
            return True
        for entry in looked_at:
            if entry.state is not PENDING:
                continue  # an operator's change has taken it out
            row = rows.get(entry.call_id)
            if row is None or row.status is CallStatus.PARKED:
                self._leave(entry)
            elif row.status is CallStatus.DELAYED:  # this tick was committed
                entry.adopt(row)
                self._leave(entry, DELAYED)
            elif row.status.finished:
                self.pending.remove(entry)
                self._forget(entry)
                outcome = Outcome(entry.call_id, row.status, row.result, row.reason)
                self._host.finished(entry, outcome)
            else:
                entry.adopt(row)
        self.pending.sort(key=_seq)
        return True

    def _leave(self, entry: Entry, state: EntryState = PARKED) -> None:
        self.pending.remove(entry)
        self._forget(entry)
        self._host.left(entry, state)

    def _forget(self, entry: Entry) -> None:
        entry.order = None
        if entry is self._suspect:
            self._suspect = None
        if entry is self._careful:
            self._careful = None

    async def _wait_progress(self) -> None:
        self._progress = asyncio.get_running_loop().create_future()
        try:
            await self._progress
        finally:
            self._progress = None

    def _advance(self) -> None:
        if self._progress is not None and not self._progress.done():
            self._progress.set_result(None)

    def _end_if_empty(self) -> None:
        if self.empty and self._runner is None and not self._closed:
            self._host.emptied(self)


def _seq(entry: Entry) -> int:
    return entry.seq
