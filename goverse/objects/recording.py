"""What turns and reliable calls know of each other.

A reliable call is run by `goverse.reliable`, in a turn like any other; the turn carries a
`Record`, and what it leaves is an outcome in the same commit as its state. What a method issues
is collected by its turn, and handed over once it is committed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from goverse.call import Call, Forwarded, Receiver, Reply
from goverse.errors import BY_CODE, ApplicationError, Executed, GoverseError, Internal
from goverse.ids import ObjectId
from goverse.objects import encoding
from goverse.objects.durability.journal import Subject, Waiter
from goverse.storage.values import CallStatus, Outcome, Payload, ReliableCall

if TYPE_CHECKING:
    from goverse.objects.shard import Shard

#: Ids that the system makes: 128 random bits, which nobody has whom nobody told.
ISSUED = re.compile(r"~[0-9a-f]{32}")

_MAX_MESSAGE_CHARS = 4096
_MAX_DETAILS_BYTES = 64 * 1024


class Record(Waiter, Protocol):
    """The reliable call that a turn runs for; told when the turn's outcome is stored, or lost."""

    @property
    def call_id(self) -> str: ...

    @property
    def again_at(self) -> float | None:
        """Of a repeated call: when it is due after this tick, seconds since 1970."""
        ...

    def check_begin(self) -> None:
        """Immediately before the turn begins. Raises Unavailable if it must not."""
        ...

    def ran(self, outcome: Outcome) -> None:
        """The turn is over, and left ``outcome``."""
        ...


class ReliableCalls(Protocol):
    """What the catalog of a node with a store hands on, and is asked for."""

    async def invoke(self, call: Call) -> Reply:
        """Carry out a call that has a call id, or one that looks for one."""
        ...

    def forward(self, call: Call, receiver: Receiver) -> Forwarded | None:
        """`invoke`, as `goverse.call.Forwarder` has it."""
        ...

    async def opening(self, shard: Shard, *, released: bool) -> None:
        """The fence of ``shard`` is raised: read what is pending, before calls are let in.

        :param released: its former owner gave it up in an orderly way. Raises Unavailable.
        """
        ...

    def opened(self, shard: Shard) -> None:
        """Calls are being let in."""
        ...

    def closed(self, shard: Shard) -> None:
        """The shard is not here any more."""
        ...

    def deleted(self, shard: Shard, object: ObjectId) -> None:
        """The store has nothing of ``object`` any more, and has skipped its calls."""
        ...

    def issued(self, sender: Subject, calls: tuple[ReliableCall, ...]) -> None:
        """``calls`` are committed, and are to be delivered."""
        ...

    def new_call_id(self) -> str: ...

    def wall(self) -> float:
        """Seconds since 1970, as expiry is measured."""
        ...

    def store_now(self) -> float:
        """Seconds since 1970 by the store's clock, as delays are counted."""
        ...


class IssuedCalls:
    """Waits for the commit of what a turn issued."""

    __slots__ = ("_calls", "_reliable", "_sender")

    def __init__(
        self, reliable: ReliableCalls, sender: Subject, calls: tuple[ReliableCall, ...]
    ) -> None:
        self._reliable = reliable
        self._sender = sender
        self._calls = calls

    def committed(self) -> None:
        self._reliable.issued(self._sender, self._calls)

    def lost(self, error: GoverseError) -> None:
        """They were in the turn's commit alone, and are gone with it."""


class Context(msgspec.Struct, array_like=True):
    """What travels with a reliable call beside its arguments."""

    client_id: str = ""
    trace: str = ""

    def encode(self) -> bytes:
        return encoding.encode(self) if self.client_id or self.trace else b""

    @classmethod
    def decode(cls, encoded: bytes) -> Context:
        return _context.decode(encoded) if encoded else cls()


_context = msgspec.msgpack.Decoder(Context)


class _Failure(msgspec.Struct, array_like=True):
    code: str
    message: str
    application: bool
    details: dict[str, Any] = {}


_failure = msgspec.msgpack.Decoder(_Failure)


def succeeded(call_id: str, payload: bytes, again_at: float | None = None) -> Outcome:
    """:param payload: the result, in msgpack."""
    return _ended(call_id, CallStatus.SUCCESS, payload, again_at)


def failed(call_id: str, error: GoverseError, again_at: float | None = None) -> Outcome:
    """The outcome of a method that raised, such that the same error can be raised again."""
    details = error.details
    try:
        if len(encoding.encode(details)) > _MAX_DETAILS_BYTES:
            details = {"truncated": True}
    except encoding.EncodingFault:
        details = {"truncated": True}
    code = _text(error.code)[:256]
    failure = _Failure(
        code, _text(error.message), isinstance(error, ApplicationError), dict(details)
    )
    return _ended(call_id, CallStatus.FAILED, encoding.encode(failure), again_at)


def _ended(call_id: str, status: CallStatus, payload: bytes, again_at: float | None) -> Outcome:
    # A row that goes on says by its reason how this tick ended: `StoredCall.last_tick`.
    reason = "" if again_at is None else status.value
    return Outcome(call_id, status, Payload(payload), reason, again_at)


def error_of(payload: bytes) -> GoverseError:
    """The error that `failed` stored, new on every call."""
    try:
        failure = _failure.decode(payload)
    except encoding.DECODE_ERRORS as error:
        return Internal(f"the stored error cannot be read: {error}", executed=Executed.YES)
    if failure.application:
        return ApplicationError(failure.code, failure.message, failure.details)
    cls = BY_CODE.get(failure.code, Internal)
    return cls(failure.message, executed=Executed.YES, details=failure.details)


def _text(text: str) -> str:
    return text[:_MAX_MESSAGE_CHARS].encode("utf-8", "replace").decode()
