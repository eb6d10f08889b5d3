"""What the turns of one object changed and the store does not have yet.

::

            note               take                 committed
   CLEAN ────────> DIRTY ────────────> IN FLIGHT ──────────────> CLEAN, or DIRTY if more was noted
                     ^                   │   │
                     └── put_back ───────┘   └── lost: LOST, for ever

Synchronous but for `wait`; knows no store, no batch and no lease. The activation notes and waits,
the node's `Commits` takes and tells the verdict.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from goverse.errors import GoverseError, Overloaded


@dataclass(slots=True)
class Change:
    """Everything uncommitted of one object, for one transaction.

    :param state: the newest encoding; None leaves the stored one as it is.
    :param deletes: the object's row goes, with what is pending for it.
    :param outcomes: of reliable calls, in the order of their turns.
    :param outbox: reliable calls that the turns issued, in order.
    :param last: number of the last change in it.
    """

    state: bytes | None
    deletes: bool
    outcomes: list[Any]
    outbox: list[Any]
    last: int

    @property
    def size(self) -> int:
        """About how many bytes it takes in a batch."""
        return 256 + len(self.state or b"") + 512 * (len(self.outcomes) + len(self.outbox))


class Journal:
    """The uncommitted changes of one activation, and who waits for them.

    :param version: of the stored row that the activation was loaded from; 0: there is none.
    :param max_turns: uncommitted turns; past them `check_room` refuses.
    :param dirty: called when there is something to take and nothing in flight.
    """

    __slots__ = (
        "_committed",
        "_deletes",
        "_dirty",
        "_error",
        "_in_flight",
        "_last",
        "_max_turns",
        "_outbox",
        "_outcomes",
        "_state",
        "_taken",
        "_waiters",
        "version",
    )

    def __init__(self, version: int, max_turns: int, dirty: Callable[[Journal], None]) -> None:
        self.version = version
        self._max_turns = max_turns
        self._dirty = dirty
        self._last = self._committed = self._taken = 0
        self._state: bytes | None = None
        self._deletes = False
        self._outcomes: list[Any] = []
        self._outbox: list[Any] = []
        self._in_flight: Change | None = None
        self._error: GoverseError | None = None
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    # -- what the activation does

    @property
    def last(self) -> int:
        """Number of the last change: what everything that leaves from now on must wait for."""
        return self._last

    @property
    def clean(self) -> bool:
        """Whether the store has everything."""
        return self._committed == self._last

    @property
    def uncommitted(self) -> int:
        """Changes that the store does not have."""
        return self._last - self._committed

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
        *,
        state: bytes | None = None,
        deletes: bool = False,
        outcome: Any = None,
        outbox: tuple[Any, ...] = (),
    ) -> int:
        """A turn has ended with these changes; its number. Raises why the journal is lost."""
        if self._error is not None:
            raise self._error
        self._last += 1
        if deletes:
            self._state, self._deletes = None, True
        elif state is not None:
            self._state = state
        if outcome is not None:
            self._outcomes.append(outcome)
        self._outbox.extend(outbox)
        if self._in_flight is None:
            self._dirty(self)
        return self._last

    async def wait(self, number: int) -> None:
        """Return once change ``number`` and all before it are committed.

        Raises what the journal was lost with. Cancelling a waiter changes nothing else.
        """
        if self._error is not None:
            raise self._error
        if number <= self._committed:
            return
        future = asyncio.get_running_loop().create_future()
        if self._waiters and self._waiters[-1][0] > number:
            bisect.insort(self._waiters, (number, future), key=_number)
        else:
            self._waiters.append((number, future))
        await future
        # A result also for a loss: an exception in a future whose waiter was cancelled in the
        # same pass of the loop would be reported as never fetched.
        if self._committed < number and self._error is not None:
            raise self._error

    # -- what the committer does

    @property
    def takeable(self) -> bool:
        return self._in_flight is None and self._error is None and self._taken < self._last

    def take(self) -> Change:
        """Everything that is not committed; in flight until one of the verdicts below."""
        assert self.takeable
        change = Change(self._state, self._deletes, self._outcomes, self._outbox, self._last)
        self._state, self._deletes = None, False
        self._outcomes, self._outbox = [], []
        self._taken = self._last
        self._in_flight = change
        return change

    def committed(self, version: int) -> None:
        """What was taken is in the store, which now has ``version``."""
        change, self._in_flight = self._in_flight, None
        if change is None or self._error is not None:
            return
        self.version = version
        self._committed = change.last
        self._wake()
        if self._taken < self._last:
            self._dirty(self)

    def put_back(self) -> None:
        """What was taken is certainly not in the store, and may be sent again."""
        change, self._in_flight = self._in_flight, None
        if change is None or self._error is not None:
            return
        if self._state is None and not self._deletes:
            self._state, self._deletes = change.state, change.deletes
        self._outcomes[:0] = change.outcomes
        self._outbox[:0] = change.outbox
        self._taken = self._committed
        self._dirty(self)

    def lose(self, error: GoverseError) -> None:
        """Nothing more of this activation will be committed: everybody who waits is told."""
        if self._error is not None:
            return
        self._error = error
        self._state, self._outcomes, self._outbox = None, [], []
        self._wake()

    def _wake(self) -> None:
        lost = self._error is not None
        while self._waiters and (lost or self._waiters[0][0] <= self._committed):
            _, future = self._waiters.popleft()
            if not future.done():
                future.set_result(None)


def _number(waiter: tuple[int, asyncio.Future[None]]) -> int:
    return waiter[0]
