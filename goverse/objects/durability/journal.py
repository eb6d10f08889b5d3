"""What the turns of one object changed and the store does not have yet.

::

            note               take                 committed
   CLEAN ────────> DIRTY ────────────> IN FLIGHT ──────────────> CLEAN, or DIRTY if more was noted
                     ^                   │   │
                     └── put_back ───────┘   └── lost: LOST, for ever

Synchronous but for `wait`; talks to no store. The activation notes and waits, the node's `Commits`
takes and tells the verdict.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from goverse.aio.limits import Limit
from goverse.errors import GoverseError, Overloaded
from goverse.ids import ObjectId
from goverse.objects.durability.fences import Opening
from goverse.storage.values import DELETE, KEEP, Act, ObjectCommit, Outcome, ReliableCall, State

_OVERHEAD_BYTES = 512


@dataclass(slots=True)
class Change:
    """Everything uncommitted of one object, for one transaction.

    :param state: the newest one, or whether to keep or delete what is stored.
    :param outcomes: of reliable calls, in the order of their turns.
    :param outbox: reliable calls that the turns issued, in order.
    :param last: number of the last change in it. :param size: in bytes, about.
    """

    state: State | Act
    outcomes: list[Outcome]
    outbox: list[ReliableCall]
    last: int
    size: int


class Subject(NamedTuple):
    """Whose journal it is."""

    object: ObjectId
    slot: int
    opening: Opening


class Waiter(Protocol):
    """Told once: the store has what it waits for, or never will."""

    def committed(self) -> None: ...

    def lost(self, error: GoverseError) -> None: ...


class JournalHost(Protocol):
    """The node's side."""

    def dirty(self, journal: Journal) -> None:
        """There is something to take, and nothing in flight."""
        ...

    def resized(self, by: int) -> None:
        """It holds so many bytes more than before."""
        ...


class JournalOwner(Protocol):
    """The activation's side."""

    def lost(self, error: GoverseError) -> None:
        """The journal is lost; everybody who waited has been told."""
        ...

    def landed(self) -> None:
        """A lost journal has nothing in flight any more."""
        ...


class Journal:
    """The uncommitted changes of one activation, and who waits for them.

    :param version: of the stored row that the activation was loaded from; 0: there is none.
    :param max_turns: uncommitted turns; past them `check_room` refuses.
    :param interval_s: how long changes may wait to be taken, if nothing in them is urgent.
    """

    __slots__ = (
        "_committed",
        "_error",
        "_host",
        "_in_flight",
        "_last",
        "_max_turns",
        "_outbox",
        "_outcomes",
        "_owner",
        "_size",
        "_state",
        "_taken",
        "_waiters",
        "delayed",
        "interval_s",
        "subject",
        "urgent",
        "version",
    )

    def __init__(
        self,
        subject: Subject,
        host: JournalHost,
        owner: JournalOwner,
        version: int,
        *,
        max_turns: int,
        interval_s: float = 0.0,
    ) -> None:
        self.subject = subject
        self.version = version
        self.interval_s = interval_s
        #: Somebody waits for it, whatever the interval: an outcome, a deletion, a retiring object.
        self.urgent = not interval_s
        #: The host will take it when its interval is over.
        self.delayed = False
        self._host = host
        self._owner = owner
        self._max_turns = max_turns
        self._last = self._committed = self._taken = 0
        self._state: State | Act = KEEP
        self._outcomes: list[Outcome] = []
        self._outbox: list[ReliableCall] = []
        self._size = 0
        self._in_flight: Change | None = None
        self._error: GoverseError | None = None
        self._waiters: deque[tuple[int, Waiter]] = deque()

    # -- what the activation does

    @property
    def last(self) -> int:
        """Number of the last change: what everything that leaves from now on must wait for."""
        return self._last

    @property
    def clean(self) -> bool:
        """Whether the store has everything."""
        return self._committed == self._last

    def has(self, number: int) -> bool:
        """Whether change ``number`` is committed."""
        return number <= self._committed

    @property
    def in_flight(self) -> bool:
        """Whether a transaction may be writing for it at this moment."""
        return self._in_flight is not None

    @property
    def uncommitted(self) -> int:
        """Changes that the store does not have."""
        return self._last - self._committed

    def limits(self) -> Iterator[Limit]:
        yield Limit("object.uncommitted_turns", self.uncommitted, self._max_turns)

    def check_room(self) -> None:
        """Before a turn begins. Raises Overloaded, or why the journal is lost."""
        if self._error is not None:
            raise self._error
        if self._last - self._committed >= self._max_turns:
            raise Overloaded(
                f"{self._last - self._committed} turns of this object wait to be committed, as "
                "many as may (limits.max_uncommitted_turns)"
            )

    def note(
        self,
        state: State | Act = KEEP,
        outcome: Outcome | None = None,
        outbox: tuple[ReliableCall, ...] = (),
    ) -> int:
        """A turn has ended with these changes; its number. Raises why the journal is lost."""
        if self._error is not None:
            raise self._error
        self._last += 1
        if state is not KEEP:
            self._state = state
        if outcome is not None:
            self._outcomes.append(outcome)
        self._outbox.extend(outbox)
        if outcome is not None or outbox or state is DELETE:
            self.urgent = True
        self._resize()
        if self._in_flight is None:
            self._host.dirty(self)
        return self._last

    def flush(self) -> None:
        """Do not wait for the interval."""
        self.urgent = True
        if self.takeable:
            self._host.dirty(self)

    def when(self, number: int, waiter: Waiter) -> None:
        """Tell ``waiter`` once change ``number`` and all before it are committed, or lost."""
        if number <= self._committed:
            waiter.committed()
        elif self._error is not None:
            waiter.lost(self._error)
        elif self._waiters and self._waiters[-1][0] > number:
            bisect.insort(self._waiters, (number, waiter), key=_number)
        else:
            self._waiters.append((number, waiter))

    async def wait(self, number: int) -> None:
        """Return once change ``number`` and all before it are committed.

        Raises what the journal was lost with. Cancelling a waiter changes nothing else.
        """
        if number <= self._committed:
            return
        waiting = Awaited(asyncio.get_running_loop().create_future())
        self.when(number, waiting)
        error = await waiting.future
        if error is not None:
            raise error

    # -- what the committer does

    @property
    def is_lost(self) -> bool:
        return self._error is not None

    @property
    def takeable(self) -> bool:
        return self._in_flight is None and self._error is None and self._taken < self._last

    def take(self) -> Change:
        """Everything that is not committed; in flight until one of the verdicts below."""
        assert self.takeable
        change = Change(self._state, self._outcomes, self._outbox, self._last, self._size)
        self._state = KEEP
        self._outcomes, self._outbox = [], []
        self.urgent = not self.interval_s
        self._taken = self._last
        self._in_flight = change
        self._size = 0  # counted with what is in flight
        return change

    def committed(self, version: int) -> None:
        """What was taken is in the store, which now has ``version``."""
        change = self._landed()
        if change is None:
            return
        self._host.resized(-change.size)
        self.version = version
        self._committed = change.last
        self._wake()
        if self._taken < self._last:
            self._host.dirty(self)

    def put_back(self) -> None:
        """What was taken is certainly not in the store, and may be sent again."""
        change = self._landed()
        if change is None:
            return
        self._host.resized(-change.size)
        if self._state is KEEP:
            self._state = change.state
        self._outcomes[:0] = change.outcomes
        self._outbox[:0] = change.outbox
        self._taken = self._committed
        self.urgent = True  # it has waited once
        self._resize()
        self._host.dirty(self)

    def refused(self, error: GoverseError) -> None:
        """What was taken is not in the store, and never will be."""
        change = self._landed()
        if change is not None:
            self._host.resized(-change.size)
            self.lose(error)

    def lose(self, error: GoverseError) -> None:
        """Nothing more of this activation will be committed: everybody who waits is told."""
        if self._error is not None:
            return
        self._error = error
        self._state, self._outcomes, self._outbox = KEEP, [], []
        in_flight = self._in_flight.size if self._in_flight is not None else 0
        self._host.resized(-self._size - in_flight)
        self._size = 0
        self._wake()
        self._owner.lost(error)

    def _landed(self) -> Change | None:
        change, self._in_flight = self._in_flight, None
        if self._error is None:
            return change
        self._owner.landed()
        return None

    def _resize(self) -> None:
        size = _OVERHEAD_BYTES
        if isinstance(self._state, State):
            size += len(self._state.data)
        for outcome in self._outcomes:
            size += _OVERHEAD_BYTES + (len(outcome.result.data) if outcome.result else 0)
        for call in self._outbox:
            size += _OVERHEAD_BYTES + len(call.arguments.data) + len(call.context)
        self._host.resized(size - self._size)
        self._size = size

    def _wake(self) -> None:
        error = self._error
        while self._waiters and (error is not None or self._waiters[0][0] <= self._committed):
            _, waiter = self._waiters.popleft()
            if error is not None:
                waiter.lost(error)
            else:
                waiter.committed()


@dataclass(slots=True)
class Taken:
    """A change in flight, and the commit that it became."""

    journal: Journal
    change: Change
    commit: ObjectCommit

    @classmethod
    def of(cls, journal: Journal) -> Taken:
        change, (object, slot, opening) = journal.take(), journal.subject
        commit = ObjectCommit(
            opening.fence(slot),
            object,
            journal.version,
            change.state,
            tuple(change.outcomes),
            tuple(change.outbox),
        )
        return cls(journal, change, commit)


class Awaited:
    """A waiter whose future somebody awaits.

    The future gets a loss as its result: an exception in a future whose waiter was cancelled in
    the same pass of the loop would be reported as never fetched.
    """

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[GoverseError | None]) -> None:
        self.future = future

    def committed(self) -> None:
        self.lost(None)

    def lost(self, error: GoverseError | None) -> None:
        if not self.future.done():
            self.future.set_result(error)


def _number(waiter: tuple[int, Waiter]) -> int:
    return waiter[0]
