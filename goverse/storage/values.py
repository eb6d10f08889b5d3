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
        return self in (CallStatus.SUCCESS, CallStatus.FAILED, CallStatus.SKIPPED)


@dataclass(frozen=True, slots=True)
class ReliableCall:
    """One reliable call as its caller meant it.

    :param digest: of the bound, validated arguments; what tells a repetition from another call
        under the same id. Empty: not known, which only a cancellation may say.
    :param context: what travels with the call, encoded by whoever runs it; the store does not look.
    :param parent: the id of the reliable call whose turn issued this one.
    :param expires_at: past it the call is not run any more; None: never.
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


@dataclass(frozen=True, slots=True)
class StoredCall:
    """A row of the ledger.

    :param seq: its place in the object's order; 0 while it has none.
    :param result: what the method returned or raised, once it is finished and ran.
    :param reason: why it was parked or skipped.
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
    """How a commit finishes one pending call of its object. ``status`` is a finished one."""

    call_id: str
    status: CallStatus
    result: Payload | None = None
    reason: str = ""


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


class CommitResult(NamedTuple):
    """``version`` is the object's after the commit, if it is DONE. ``message`` is for people."""

    verdict: Verdict
    version: int = 0
    message: str = ""


class Acceptance(NamedTuple):
    """A call to be recorded.

    :param skip: not empty: record it as skipped for this reason, so that it can never run.
    """

    fence: Fence
    call: ReliableCall
    skip: str = ""


class AcceptResult(NamedTuple):
    """DONE: recorded, at ``seq``. KNOWN: ``stored`` is what is there. Else nothing is written."""

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

    A step of an outbox row has neither number; DELIVERED is DONE also where the row is gone.
    """

    verdict: Verdict
    attempts: int = 0
    seq: int = 0
    message: str = ""
