"""What travels: Call, Reply, and the one verb of the whole stack, ``invoke``.

Most calls meet nobody that they must wait for: the owner is known, its link stands, the object is
free. For these, `invoke` has a form without coroutine, task or future: `Forwarder.forward`.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Protocol

import msgspec

from goverse.ids import Epoch, ObjectId


class Codec(enum.IntEnum):
    """How a payload is encoded. A reply uses the codec of its call."""

    MSGPACK = 0
    JSON = 1
    ANY = 2  # a serialized google.protobuf.Any


class Verb(enum.IntEnum):
    """What a call asks of its object."""

    CALL = 0
    CREATE = 1  # conflict if it is active already; `method` is empty
    DELETE = 2  # succeeds whether or not it is active; `method` is empty
    DESCRIBE = 3  # of a node, by members only: which types it hosts; all names are empty
    ENQUEUE = 4  # a call with a call id, from an outbox: the reply says that it is accepted
    LOOKUP = 5  # what is known of the call with this call id, on any node
    LOAD = 6  # of a node, by members only: how much it has to do; all names are empty
    MOVE = 7  # state that goes with a shard, from node to node only; all names are empty
    CANCEL = 8  # the call with this call id shall not run any more
    RETRY = 9  # the call, or delivery, with this id is parked no more; from operators only
    SCHEDULE = 10  # a call with a call id that runs later: the reply says that it is accepted


# For what is asked of every call: to find a member in its enum takes Python 3.11 ten times as
# long as to find these.
MSGPACK, JSON, ANY = Codec.MSGPACK, Codec.JSON, Codec.ANY
CALL, LOOKUP, CANCEL = Verb.CALL, Verb.LOOKUP, Verb.CANCEL
ENQUEUE, SCHEDULE = Verb.ENQUEUE, Verb.SCHEDULE

#: Verbs that ask nothing of an object.
OF_A_NODE = (Verb.DESCRIBE, Verb.LOAD, Verb.MOVE)


class ChainEntry(msgspec.Struct, frozen=True, array_like=True):
    """One suspended turn on the path of a call. Written by members only."""

    type: str
    id: str
    epoch: Epoch
    turn: int


class Call(msgspec.Struct, gc=False):
    """One request to one object.

    ``payload`` is untouched bytes in ``codec``: arguments by name (msgpack or JSON map; empty
    means none). ``deadline`` is absolute, in seconds of the running loop's ``time()``.
    """

    type: str
    id: str
    method: str
    payload: bytes
    deadline: float
    codec: Codec = Codec.MSGPACK
    verb: Verb = Verb.CALL
    chain: tuple[ChainEntry, ...] = ()
    principal: str = ""
    client_id: str = ""
    call_id: str = ""  # not empty: a reliable call
    trace: str = ""  # W3C traceparent

    @property
    def object_id(self) -> ObjectId:
        return ObjectId(self.type, self.id)

    def __str__(self) -> str:
        if self.verb is Verb.LOOKUP:
            return f"look-up of call {self.call_id}"
        if self.verb is Verb.MOVE:
            return "state of a moving shard"
        if self.verb in (Verb.CALL, Verb.ENQUEUE, Verb.SCHEDULE):
            return f"{self.type}/{self.id}.{self.method}"
        if self.verb is Verb.CANCEL or self.verb is Verb.RETRY:
            return f"{self.verb.name.lower()} call {self.call_id} of {self.type}/{self.id}"
        return f"{self.verb.name.lower()} {self.type}/{self.id}"


def look_up(call_id: str, deadline: float, codec: Codec = Codec.MSGPACK) -> Call:
    """The call that asks what is known of ``call_id``. Any node can answer; which one does is
    drawn from the id."""
    place = hashlib.blake2b(call_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Call("Call", place, "", b"", deadline, codec=codec, verb=Verb.LOOKUP, call_id=call_id)


class Reply(msgspec.Struct, gc=False):
    """The successful outcome of a call. Failures are raised as errors of `goverse.errors`."""

    payload: bytes
    codec: Codec = Codec.MSGPACK


class CallTarget(Protocol):
    """Whoever can take a call: router, link, catalog, activation, a client's session."""

    async def invoke(self, call: Call) -> Reply:
        """Carry out ``call`` and return its reply.

        Raises an error of `goverse.errors`; cancelling the awaiting task cancels the call.
        """
        ...


class Receiver(Protocol):
    """Who is told the outcome of a forwarded call: one of the two, once. Neither may raise."""

    def succeed(self, reply: Reply) -> None: ...

    def fail(self, error: Exception) -> None:
        """:param error: what `CallTarget.invoke` would have raised."""
        ...


class Forwarded(Protocol):
    """A forwarded call that is under way."""

    def cancel(self) -> object:
        """Nobody waits for it any more: its receiver will not be told."""
        ...


class Forwarder(CallTarget, Protocol):
    """A `CallTarget` that can begin a call in the middle of other work."""

    def forward(self, call: Call, receiver: Receiver) -> Forwarded | None:
        """Begin ``call`` now; ``receiver`` is told its outcome, later or before this returns.

        None: that would mean to wait. Nothing has happened then, and the call is to be invoked.
        Raises what stands in its way already; the receiver is not told then.
        """
        ...


class Over:
    """What is left of a call whose receiver was told before `Forwarder.forward` returned."""

    def cancel(self) -> None:
        """Too late."""


OVER = Over()
