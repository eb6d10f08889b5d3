"""What is written to a store and read from it: frozen values, the same for every backend.

Times are seconds since 1970 by the store's own clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from goverse.call import Codec
from goverse.ids import Epoch, ObjectId


class Fence(NamedTuple):
    """Under what an activation was born; every write states it, and it is never looked up later.

    :param slot: below `goverse.ids.NUM_SLOTS`, or what `Store.node_slot` gave.
    :param opening: counts how often this owner raised the fence under this epoch, from 1.
    """

    slot: int
    epoch: Epoch
    opening: int


class State(NamedTuple):
    """An object's encoded state. ``schema`` is the version of its class that encoded it."""

    data: bytes
    schema: int = 0


class Act(enum.Enum):
    """What a commit does to a state when it does not replace it."""

    KEEP = "keep"
    DELETE = "delete"


# For what is asked of every change and call: see `goverse.call.CALL`.
KEEP, DELETE = Act


class Payload(NamedTuple):
    """Encoded arguments or an encoded outcome."""

    data: bytes
    codec: Codec = Codec.MSGPACK


@dataclass(frozen=True, slots=True)
class StoredObject:
    """``state`` is None while only calls of the object were committed."""

    version: int
    state: State | None


class CallStatus(enum.Enum):
    """Where a call's row stands. Callers are told of DELAYED and PARKED as of PENDING."""

    PENDING = "pending"
    DELAYED = "delayed"  # not due yet: has no place in the order
    PARKED = "parked"  # out of the order until an operator decides
    SUCCESS = "success"
    FAILED = "failed"  # the method raised
    SKIPPED = "skipped"  # never ran and never will

    @property
    def finished(self) -> bool:
        return self in _FINISHED


_FINISHED = (CallStatus.SUCCESS, CallStatus.FAILED, CallStatus.SKIPPED)


class CatchUp(enum.Enum):
    """What is run of the ticks of a repeated call that were missed."""

    EACH = "each"  # every one, one after the other
    ONE = "one"  # one for all of them, at once
    NONE = "none"  # none: the next is run that is not missed


class Timing(NamedTuple):
    """When a call is due that does not run at once.

    :param run_at: seconds since 1970 by the store's clock, exact to a microsecond.
    :param every_s: above 0: it is repeated, and due again so much after each ``run_at``.
    :param catch_up: meant for the owner of a repeated call; the store keeps it.
    """

    run_at: float
    every_s: float = 0.0
    catch_up: CatchUp = CatchUp.ONE


@dataclass(frozen=True, slots=True)
class ReliableCall:
    """One reliable call as its caller meant it.

    :param digest: of the bound, validated arguments; what tells a repetition from another call
        under the same id. Empty: not known, which only a cancellation may say.
    :param context: what travels with the call, encoded by whoever runs it; the store does not look.
    :param parent: the id of the reliable call whose turn issued this one.
    :param expires_at: past it the call is not run any more; None: never.
    :param timing: None: it is to run at once. No part of what tells a repetition, but for the
        period and the policy of a repeated call.
    """

    call_id: str
    object: ObjectId
    method: str
    arguments: Payload
    digest: bytes
    principal: str = ""
    context: bytes = b""
    parent: str = ""
    expires_at: float | None = None
    timing: Timing | None = None


_ENDED = {status.value: status for status in CallStatus if status.finished}


@dataclass(frozen=True, slots=True)
class StoredCall:
    """A row of the ledger.

    :param call: with the ``run_at`` that it has now, if it is repeated.
    :param seq: its place in the object's order; 0 while it has none.
    :param result: what the method returned or raised, once it is finished and ran; of a repeated
        call, for the tick before.
    :param reason: why it was parked or skipped; of a repeated call, what its last outcome said.
    """

    call: ReliableCall
    slot: int
    seq: int
    status: CallStatus
    attempts: int
    result: Payload | None
    reason: str
    created_at: float
    finished_at: float | None

    @property
    def last_tick(self) -> CallStatus | None:
        """How the last tick of a repeated call ended that goes on; None: nothing is known of it."""
        timing = self.call.timing
        if timing is None or not timing.every_s or self.status.finished:
            return None
        return _ENDED.get(self.reason)


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A reliable call that a committed turn issued and that its target has not accepted yet.

    :param slot: of the sender, whose owner delivers it.
    :param position: rows from one object to one object are delivered in this order.
    :param parked: why it will not be delivered; empty: it will.
    """

    call: ReliableCall
    sender: ObjectId
    slot: int
    position: int
    parked: str
    created_at: float


class Outcome(NamedTuple):
    """How a commit finishes one pending call of its object. ``status`` is a finished one.

    :param again_at: of a repeated call, seconds since 1970: this tick is over, and the call is
        delayed again until then, with this result and reason and without attempts. A commit that
        deletes the object skips it instead.
    """

    call_id: str
    status: CallStatus
    result: Payload | None = None
    reason: str = ""
    again_at: float | None = None


class ObjectCommit(NamedTuple):
    """Everything that one object's turns did since its last commit; written all or none.

    :param version: the version it replaces; 0: there is no row. Every commit raises it by one,
        also one that keeps the state; a deletion leaves 0.
    :param state: the new state, or to keep or delete what is there. Deleting also skips the
        object's unfinished calls that ``outcomes`` does not name.
    :param outcomes: calls that these turns finished; all must be pending.
    :param outbox: calls that these turns issued, in order, under ids that never were.
    """

    fence: Fence
    object: ObjectId
    version: int
    state: State | Act = Act.KEEP
    outcomes: tuple[Outcome, ...] = ()
    outbox: tuple[ReliableCall, ...] = ()


class Verdict(enum.Enum):
    """What became of one item of a batch. Only DONE and KNOWN say that something is written."""

    DONE = "done"
    FENCED = "fenced"  # somebody raised the fence: this activation is over
    VERSION = "version"  # the object has another version than stated
    NOT_PENDING = "not_pending"  # a call named is not there or not in the status needed
    KNOWN = "known"  # the call id is there, for the same call
    CONFLICT = "conflict"  # the call id is there, for another call
    REFUSED = "refused"  # the database refuses this very item, whatever stands beside it


DONE, FENCED = Verdict.DONE, Verdict.FENCED


class CommitResult(NamedTuple):
    """``version`` is the object's after the commit, if it is DONE. ``message`` is for people."""

    verdict: Verdict
    version: int = 0
    message: str = ""


class Acceptance(NamedTuple):
    """A call to be recorded: as pending, or with a timing, whenever that is, as delayed.

    :param skip: not empty: record it as skipped for this reason, so that it can never run.
    """

    fence: Fence
    call: ReliableCall
    skip: str = ""

    @property
    def status(self) -> CallStatus:
        """What the call is recorded as."""
        if self.skip:
            return CallStatus.SKIPPED
        return CallStatus.PENDING if self.call.timing is None else CallStatus.DELAYED


class AcceptResult(NamedTuple):
    """DONE: recorded, at ``seq`` (0: delayed or skipped). KNOWN: ``stored`` is what is there. Else
    nothing is written."""

    verdict: Verdict
    seq: int = 0
    stored: StoredCall | None = None
    message: str = ""


class Step(enum.Enum):
    """What happens to a call's row outside of a commit; see the state machine in DESIGN.md."""

    ATTEMPT = "attempt"  # pending: count one attempt more
    PARK = "park"  # pending -> parked
    RETRY = "retry"  # parked -> pending, at the end of the order, without attempts
    RESET = "reset"  # pending: without attempts, in its place
    SKIP = "skip"  # pending, delayed, parked -> skipped


@dataclass(frozen=True, slots=True)
class CallStep:
    fence: Fence
    call_id: str
    step: Step
    reason: str = ""


class DelayedCall(NamedTuple):
    """What an owner keeps of a delayed call until it is due: not its arguments."""

    call_id: str
    slot: int
    object: ObjectId
    timing: Timing


@dataclass(frozen=True, slots=True)
class DelayedPage:
    """Delayed calls, and the store's clock when they were read."""

    now: float
    calls: tuple[DelayedCall, ...]


@dataclass(frozen=True, slots=True)
class DueStep:
    """A delayed call whose time may have come.

    :param was_at: the ``run_at`` that it is known with; with another one the step is not taken.
    :param run_at: the one that it has from now on: the same, or that of a later tick, if ticks
        were missed and are left out. If it has come by the store's clock, the call is pending from
        now on, at the end of the order; else it stays delayed until then.
    """

    fence: Fence
    call_id: str
    was_at: float
    run_at: float


class OutboxStep(enum.Enum):
    """What happens to an outbox row."""

    DELIVERED = "delivered"  # its target has it: the row goes
    PARK = "park"  # refused for good: stays, undelivered, where operators see it
    RETRY = "retry"  # parked -> to be delivered again


@dataclass(frozen=True, slots=True)
class OutboxChange:
    fence: Fence
    call_id: str
    step: OutboxStep
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StepResult:
    """DONE with the call's ``attempts`` and ``seq`` as they are now, FENCED or NOT_PENDING.

    After a `DueStep` a ``seq`` of 0 says that the call is still delayed. A step of an outbox row
    has neither number; DELIVERED is DONE also where the row is gone.
    """

    verdict: Verdict
    attempts: int = 0
    seq: int = 0
    message: str = ""
