"""One call's execution in an activation, from its arrival to its outcome.

::

    WAITING ──granted──► GRANTED ──its task runs──► RUNNING ──► ENDED
       │                    │                          │
       └── given up ────────┴──────────────────────────┴─► ENDED

A turn waits in a mailbox, or held back by a shard that is opening or draining; it can be moved
between those without its task noticing. It runs in the task that brought the call, or, if its
method never suspends and nothing has to be waited for, in place and without one.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from goverse.call import Call, ChainEntry, Codec, Reply
from goverse.errors import (
    DeadlineExceeded,
    Executed,
    FailedPrecondition,
    GoverseError,
    Overloaded,
    TooLarge,
)
from goverse.ids import ObjectId
from goverse.objects.context import CallDefaults, Context
from goverse.transport.pushes import Push

if TYPE_CHECKING:
    from goverse.objects.activation import Activation
    from goverse.objects.mailbox import Mailbox
    from goverse.objects.recording import Record
    from goverse.storage.values import Outcome, ReliableCall

#: Longest chain of suspended turns: recursion through objects ends here, not in the memory.
MAX_CHAIN = 128

#: Messages that one turn may push, the turns that are part of it included.
MAX_PUSHES = 1_024


class TurnState(enum.IntEnum):
    WAITING = 0
    GRANTED = 1
    RUNNING = 2
    ENDED = 3


WAITING, GRANTED, RUNNING, ENDED = TurnState


class Work(Protocol):
    """What a turn does: a method of the class, or the action of a timer."""

    @property
    def read_only(self) -> bool: ...

    @property
    def shared(self) -> bool:
        """Whether it interleaves with other shared work."""
        ...

    @property
    def tracked(self) -> bool:
        """Whether declared state is compared, and rolled back if it fails."""
        ...

    def start(self, instance: Any, arguments: Any) -> Awaitable[Any]: ...

    def encode(self, result: Any, codec: Codec) -> bytes: ...


class WaitingRoom(Protocol):
    """Where a turn can wait."""

    def withdraw(self, turn: Turn) -> None: ...


class Turn(msgspec.Struct, eq=False):
    """The frame of a running method, and before that its place in a queue.

    :param work: None for create and delete.
    :param shared: whether ``work`` is.
    """

    # A struct for its constructor: one call of C for every call of an object.
    call: Call
    work: Work | None
    arguments: Any
    deadline: float
    shared: bool = False
    state: TurnState = WAITING
    number: int = 0
    started: float = 0.0
    """When it began, by the loop; a hook: when it took the mailbox. 0: it has not, or in place."""
    is_hook: bool = False
    activation: Activation | None = None
    mailbox: Mailbox | None = None
    """The mailbox that it entered: the activation's, or the one of the turn it is part of."""
    room: WaitingRoom | None = None
    future: asyncio.Future[GoverseError | None] | None = None
    ticket: int = 0
    """The change that its outcome may reflect, and must not leave before."""
    task: asyncio.Task[Any] | None = None
    cancelling: int = 0
    interrupt: GoverseError | None = None
    """Why it must end."""
    cancelled: bool = False
    """Whether its task was cancelled for that."""
    before: bytes | None = None
    """Declared state at its beginning, if it would be rolled back."""
    parent: Turn | None = None
    """The suspended turn that it is part of."""
    inner: Mailbox | None = None
    inner_idle: asyncio.Future[None] | None = None
    record: Record | None = None
    """The reliable call that it runs for."""
    noted: Outcome | None = None
    """The outcome of that call, once it was noted with the turn's state."""
    issued: list[ReliableCall] | None = None
    """Reliable calls that the method has issued."""
    outgoing: dict[int, Call] | None = None
    pushes: list[Push] | None = None
    """What leaves if it succeeds."""
    _entry: ChainEntry | None = None

    # -- waiting

    async def wait(self) -> None:
        """Return once the turn is granted. Raises why it never will be."""
        self.future = asyncio.get_running_loop().create_future()
        try:
            await self.future
        except asyncio.CancelledError:
            # Granted and cancelled in the same pass of the loop: the grant must go on to the
            # next in the queue, or the object would never run again.
            self.give_up()
            raise
        if self.state is not GRANTED and self.interrupt is not None:
            raise self.interrupt

    def granted(self) -> None:
        self.state = GRANTED
        self._wake()

    def give_up(self) -> None:
        """Leave the queue, or hand the grant back."""
        if self.state is WAITING:
            self.state = ENDED
            if self.room is not None:
                self.room.withdraw(self)
        elif self.state is GRANTED:
            self.state = ENDED
            if self.activation is not None:
                self.activation.leave(self)

    def refuse(self, error: GoverseError) -> None:
        """End it before it began; ``error`` is for its caller."""
        self.interrupt = error
        if self.state is WAITING:
            self.give_up()
            self._wake()

    def _wake(self) -> None:
        # A result also for a refusal: an exception in a future whose task is cancelled at the
        # same time would never be fetched, and be reported as lost.
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    # -- ending early

    def expire(self) -> None:
        """The deadline has passed."""
        if self.state is RUNNING:
            self.stop(self._overdue())
        elif self.state is ENDED:
            if self.future is not None and not self.future.done():
                text = f"{self.call} has run, and was not committed before its deadline"
                self.future.set_result(DeadlineExceeded(text, executed=Executed.UNKNOWN))
        else:
            self.refuse(self.not_begun())

    def stop(self, reason: GoverseError) -> None:
        """Interrupt a running turn; the first reason stays."""
        if self.state is not RUNNING:
            return
        if self.interrupt is None:
            self.interrupt = reason
        # Never the task that runs right now: its method would meet the cancellation at a later,
        # unrelated await, or the caller after it. Its calls and its result are refused instead.
        task = self.task
        if not self.cancelled and task is not None and task is not asyncio.current_task():
            self.cancelled = True
            task.cancel()

    def _overdue(self) -> GoverseError:
        text = f"{self.call} ran past its deadline"
        if self.outgoing:
            text += f", waiting for {', '.join(map(str, self.outgoing.values()))}"
        return DeadlineExceeded(text + describe_chain(self.call), executed=Executed.UNKNOWN)

    def not_begun(self) -> GoverseError:
        """The error for a deadline that passed before the turn began."""
        text = f"{self.call} did not get its turn before its deadline"
        running = self.activation.describe_running() if self.activation is not None else ""
        if running:
            text += f"; the object is busy with {running}"
        return DeadlineExceeded(text + describe_chain(self.call))

    # -- the frame of the method

    @property
    def defaults(self) -> CallDefaults:
        return self._activation.services.defaults

    @property
    def _activation(self) -> Activation:
        assert self.activation is not None
        return self.activation

    def context(self) -> Context:
        call, activation = self.call, self._activation
        return Context(
            object_id=ObjectId(call.type, call.id),
            method=call.method,
            epoch=activation.epoch,
            principal=call.principal,
            client_id=call.client_id,
            deadline=self.deadline,
            chain=call.chain,
            trace=call.trace,
        )

    def entry(self) -> ChainEntry:
        """This turn in the chain of the calls that it makes."""
        if self._entry is None:
            call = self.call
            self._entry = ChainEntry(call.type, call.id, self._activation.epoch, self.number)
        return self._entry

    async def invoke(self, call: Call) -> Reply:
        """Carry out a call that the method makes: it continues this turn's chain."""
        activation, mine = self._activation, self.call
        activation.check_alive()
        if call.call_id and self.state is not ENDED:
            raise FailedPrecondition(
                f"{call} has a call id: its outcome could come only after this turn, so it cannot "
                "be awaited in it; goverse.issue(...) makes the call once the turn is committed"
            )
        call.principal = mine.principal
        call.client_id = mine.client_id
        call.trace = mine.trace
        if self.state is ENDED:
            # A task that outlived its turn: nobody waits in a suspended turn for what it does.
            await activation.settled()
            return await activation.services.outgoing.invoke(call)
        if len(mine.chain) >= MAX_CHAIN:
            raise FailedPrecondition(
                f"{call} would be call {MAX_CHAIN + 1} of its chain{describe_chain(mine)}"
            )
        call.chain = (*mine.chain, self.entry())
        call.deadline = min(call.deadline, self.deadline)
        if self.outgoing is None:
            self.outgoing = {}
        key = id(call)
        self.outgoing[key] = call
        try:
            await activation.settled()
            return await activation.services.outgoing.invoke(call)
        finally:
            del self.outgoing[key]

    def push(self, push: Push) -> None:
        """Keep a message until the turn has succeeded. Raises FailedPrecondition, Overloaded,
        TooLarge."""
        activation = self._activation
        activation.check_alive()
        if self.state is ENDED:
            raise FailedPrecondition(f"{self.call}: its turn is over, and {push.type} too late")
        if activation.services.pushes is None:
            raise FailedPrecondition("there are no gates here to push through")
        size, limit = len(push.json) + len(push.any), activation.services.limits.max_push_bytes
        if size > limit:
            raise TooLarge(
                f"{self.call}: the message {push.type} has {size} bytes, the limit is {limit} "
                "(limits.max_push_bytes)"
            )
        waiting, turn = 0, self
        while True:
            waiting += len(turn.pushes or ())
            if turn.parent is None:
                break
            turn = turn.parent
        if waiting >= MAX_PUSHES:
            raise Overloaded(f"{self.call} has pushed {waiting} messages, as many as a turn may")
        if self.pushes is None:
            self.pushes = []
        self.pushes.append(push)


def describe_chain(call: Call) -> str:
    """``; call chain: A/1 (turn 7) > B/2.get``; empty for a call that begins a chain."""
    if not call.chain:
        return ""
    path = [f"{entry.type}/{entry.id} (turn {entry.turn})" for entry in call.chain]
    return f"; call chain: {' > '.join([*path, str(call)])}"
