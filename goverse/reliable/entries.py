"""What this node knows of one unfinished reliable call, and who waits for it.

::

    ACCEPTING ──row stands──> PENDING <──lost, interrupted── RUNNING ──noted──> NOTED ──> OVER
        │  │                   ^ │  └────────────────────────^                   │        ^
        │  └──> DELAYED ──due──┘ ├── parked ──> PARKED           committed ──────┼────────┤
        │          ^             └── to be cancelled ──> CHANGING ── skipped ────┼────────┘
        └── refused└─────────────────────── the tick is over ────────────────────┘

A call that is parked or delayed is here only while somebody waits for its outcome.

An entry belongs to the node: that its callers give up changes nothing of its call.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from goverse.aio.deadlines import Deadlines
from goverse.call import Call
from goverse.errors import DeadlineExceeded, Executed, GoverseError, Unavailable
from goverse.ids import ObjectId
from goverse.objects.definition import MethodType
from goverse.objects.recording import Context
from goverse.objects.shard import Shard
from goverse.objects.timing import next_tick
from goverse.sharding import slot_of
from goverse.storage.rules import period_of
from goverse.storage.values import CallStatus, Fence, Outcome, ReliableCall, StoredCall

if TYPE_CHECKING:
    from goverse.reliable.orders import Order


class EntryState(enum.Enum):
    ACCEPTING = "accepting"
    PENDING = "pending"
    RUNNING = "running"
    NOTED = "noted"
    DELAYED = "delayed"
    PARKED = "parked"
    CHANGING = "changing"  # its row is being cancelled or retried: nothing else may touch it
    OVER = "over"


ACCEPTING, PENDING, RUNNING, NOTED, DELAYED, PARKED, CHANGING, OVER = EntryState

#: Nothing of such a call is under way here.
RESTING = (DELAYED, PARKED)

#: What a waiter is told: how the call ended, or why this node cannot say.
Answer = Outcome | GoverseError

#: What those are told who wait for the row alone.
ACCEPTED = Outcome("", CallStatus.PENDING)


class Cancellation(NamedTuple):
    """That a call shall not run any more. ``by``: who wants it."""

    reason: str
    by: str


class Entry:
    """One call id on the owner of its object.

    It is the `goverse.objects.recording.Record` of its turn.
    """

    __slots__ = (
        "_accept_waiters",
        "_changes",
        "_waiters",
        "accepted_at",
        "alone",
        "attempts",
        "began_at",
        "call",
        "cancelled",
        "order",
        "outcome",
        "refusal",
        "refusals",
        "sent",
        "seq",
        "shard",
        "size",
        "skip",
        "slot",
        "state",
        "waits_since",
    )

    def __init__(self, call: ReliableCall, shard: Shard) -> None:
        opening = shard.opening
        assert opening is not None, "a shard opens with its fence raised"
        self.call = call
        self.shard = shard
        id = call.object.id
        self.slot = opening.slots[0] if id.startswith("node#") else slot_of(id)
        #: Bytes, as they are counted by the node.
        self.size = len(call.arguments.data) + len(call.context)
        self.state = ACCEPTING
        self.seq = 0
        self.attempts = 0
        #: By the clock of this loop, when its turn began; 0: not yet, or nobody asks.
        self.began_at = 0.0
        #: By the clock of this loop, when its accept was known here.
        self.accepted_at = 0.0
        #: Seconds since 1970 when it was accepted, by whomever; 0: it is being accepted.
        self.waits_since = 0.0
        #: Whether a batch with it was ever handed to the store.
        self.sent = False
        self.order: Order | None = None
        #: Not empty: it is accepted only to be skipped, for this reason.
        self.skip = ""
        #: It does not begin any more, and is skipped where it is next looked at.
        self.cancelled: Cancellation | None = None
        #: What its turn left, on its way to the store.
        self.outcome: Outcome | None = None
        #: Its turn ran with nothing else of its object uncommitted.
        self.alone = False
        #: Why the store would not take what its turn left.
        self.refusal: GoverseError | None = None
        self.refusals = 0
        self._waiters: dict[Waiting, None] = {}
        self._accept_waiters: dict[Waiting, None] = {}
        self._changes: list[asyncio.Future[None]] = []

    @property
    def call_id(self) -> str:
        return self.call.call_id

    @property
    def object(self) -> ObjectId:
        return self.call.object

    @property
    def awaited(self) -> bool:
        return bool(self._waiters or self._accept_waiters or self._changes)

    @property
    def waits_for_page(self) -> bool:
        """It is accepted, and has no place yet among what the shard brought along."""
        return self.state is PENDING and self.order is None

    def wait_for_page(self) -> None:
        self.state = PENDING

    @property
    def again_at(self) -> float | None:
        timing = self.call.timing
        return None if timing is None or self.cancelled is not None else next_tick(timing)

    def fence(self) -> Fence:
        assert self.shard.opening is not None
        return self.shard.opening.fence(self.slot)

    def is_same(self, call: ReliableCall) -> bool:
        mine = self.call
        if not mine.digest:  # a cancellation: it knows its object alone
            return mine.object == call.object
        same = (mine.object, mine.method, mine.digest) == (call.object, call.method, call.digest)
        return same and period_of(mine) == period_of(call)

    def adopt(self, stored: StoredCall) -> None:
        """Its row, as the store has it."""
        self.call = stored.call
        self.seq, self.attempts = stored.seq, stored.attempts
        self.skip = ""
        timing = stored.call.timing
        self.waits_since = max(stored.created_at, timing.run_at if timing is not None else 0.0)

    def turn_call(self, method: MethodType | None, timeout_s: float) -> Call:
        """The call of its turn, with a deadline of its own."""
        call = self.call
        if method is not None and method.timeout_s is not None:
            timeout_s = method.timeout_s
        context = Context.decode(call.context)
        return Call(
            call.object.type,
            call.object.id,
            call.method,
            call.arguments.data,
            asyncio.get_running_loop().time() + timeout_s,
            codec=call.arguments.codec,
            principal=call.principal,
            client_id=context.client_id,
            call_id=call.call_id,
            trace=context.trace,
        )

    # -- the record of its turn

    def check_begin(self) -> None:
        stands = self.state is PENDING and self.cancelled is None
        if not stands or self.order is None or self.order.doubtful:
            raise Unavailable(f"call {self.call_id} must not begin now")
        self.state = RUNNING
        if self.call.timing is not None:
            self.began_at = asyncio.get_running_loop().time()

    def ran(self, outcome: Outcome) -> None:
        self.state, self.outcome = NOTED, outcome
        if self.order is not None:
            self.order.ran(self)

    def committed(self) -> None:
        if self.order is not None and self.state is NOTED:
            self.order.committed(self)

    def lost(self, error: GoverseError) -> None:
        if self.order is not None and self.state is NOTED:
            self.order.lost(self, error)

    # -- those who wait

    async def wait(
        self, call: Call, deadlines: Deadlines, *, accepted: bool, gone: Callable[[Entry], None]
    ) -> Outcome:
        """How it ended; with ``accepted``, as soon as its row stands. Raises why this node cannot
        say, DeadlineExceeded.

        :param gone: called when nobody waits any more.
        """
        if accepted and self.state is not ACCEPTING:
            return ACCEPTED
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def tell(answer: Answer) -> None:
            if not future.done():
                future.set_result(answer)

        waiting = self.when(call, deadlines, tell, accepted=accepted, gone=gone)
        try:
            answer = await future
        finally:
            waiting.cancel()
        if isinstance(answer, GoverseError):
            raise answer
        return answer

    def when(
        self,
        call: Call,
        deadlines: Deadlines,
        tell: Callable[[Answer], None],
        *,
        accepted: bool,
        gone: Callable[[Entry], None],
    ) -> Waiting:
        """`wait` for who has no task: ``tell`` is called once, unless the waiting is cancelled."""
        waiters = self._accept_waiters if accepted else self._waiters
        waiting = Waiting(self, call, tell, waiters, deadlines, gone)
        waiters[waiting] = None
        return waiting

    def late(self, call: Call) -> DeadlineExceeded:
        """What is known of it at the deadline of ``call``."""
        return DeadlineExceeded(
            f"{call} is {self.state.value} and was not finished before the deadline; ask "
            "again under the same call id",
            executed=Executed.UNKNOWN if self.sent else Executed.NO,
            details={
                "call_id": self.call_id,
                "status": "unknown" if self.state is ACCEPTING else "pending",
            },
        )

    def tell_accepted(self) -> None:
        self._tell(self._accept_waiters, lambda: ACCEPTED)

    def tell(self, answer: Callable[[], Answer]) -> None:
        """It is over here. Each waiter gets an answer of its own: a raised error is written to."""
        self.state = OVER
        self.tell_changed()
        self._tell(self._accept_waiters, answer)
        self._tell(self._waiters, answer)

    async def wait_changed(self) -> None:
        """Return when it is over here, or parked."""
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changes.append(change)
        try:
            await change
        finally:
            if change in self._changes:
                self._changes.remove(change)

    def tell_changed(self) -> None:
        changes, self._changes = self._changes, []
        for change in changes:
            if not change.done():
                change.set_result(None)

    def _tell(self, waiters: dict[Waiting, None], answer: Callable[[], Answer]) -> None:
        waiting = list(waiters)
        waiters.clear()
        for one in waiting:
            one.answer(answer())


class Waiting:
    """Somebody who waits for an entry until the deadline of a call.

    It is the `goverse.call.Forwarded` of a call that has no task.
    """

    __slots__ = ("_call", "_deadlines", "_entry", "_gone", "_handle", "_tell", "_waiters")

    def __init__(
        self,
        entry: Entry,
        call: Call,
        tell: Callable[[Answer], None],
        waiters: dict[Waiting, None],
        deadlines: Deadlines,
        gone: Callable[[Entry], None],
    ) -> None:
        self._entry = entry
        self._call = call
        self._tell = tell
        self._waiters = waiters
        self._deadlines = deadlines
        self._gone = gone
        self._handle = deadlines.add(call.deadline, self._expire)

    def answer(self, answer: Answer) -> None:
        """It waits no more, and is not among the waiters."""
        self._deadlines.cancel(self._handle)
        self._tell(answer)

    def _expire(self) -> None:
        late = self._entry.late(self._call)
        self.cancel()
        self._tell(late)

    def cancel(self) -> None:
        """Nobody waits for it any more. Harmless afterwards."""
        if self._waiters.pop(self, self) is self:
            return
        self._deadlines.cancel(self._handle)
        if not self._entry.awaited:
            self._gone(self._entry)
