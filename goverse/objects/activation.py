"""One live object on this node: its instance, its mailbox, its turns. See DESIGN.md.

How a turn runs is in `goverse.objects.running`.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from goverse.aio.limits import Limit
from goverse.aio.tasks import Tasks
from goverse.call import Call, CallTarget, Reply, Verb
from goverse.config.settings import LimitSettings
from goverse.errors import (
    Executed,
    Fenced,
    GoverseError,
    Overloaded,
    Unavailable,
)
from goverse.ids import Epoch, ObjectId
from goverse.objects import lifecycle, outcome, reentry
from goverse.objects.background import Action, Background, Timer
from goverse.objects.context import CallDefaults
from goverse.objects.durability.service import Durability
from goverse.objects.durable import Durable
from goverse.objects.encoding import EncodingFault
from goverse.objects.luggage import Restored, pack
from goverse.objects.mailbox import Mailbox, MailboxFull
from goverse.objects.messages import PushSink
from goverse.objects.recording import ReliableCalls
from goverse.objects.state import StateKeeper
from goverse.objects.turn import ENDED, RUNNING, Turn

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from goverse.objects.definition import Object, ObjectType
    from goverse.objects.shard import Shard


class ActivationState(enum.IntEnum):
    ACTIVATING = 0
    ACTIVE = 1
    DEACTIVATING = 2
    DEAD = 3


ACTIVATING, ACTIVE, DEACTIVATING, DEAD = ActivationState


#: Never written to: only `Activation.begin` adds, to a dict of its own.
_NO_TURNS: dict[int, Turn] = {}


class ObjectObserver(Protocol):
    """Told what happens to objects; counts it."""

    def activated(self, type_name: str) -> None: ...

    def deactivated(self, type_name: str) -> None: ...

    def turn_ended(self, type_name: str, method: str, status: str, seconds: float) -> None: ...


@dataclass(frozen=True)
class Services:
    """What the catalog gives to all its activations."""

    outgoing: CallTarget
    lease_valid: Callable[[], bool]
    limits: LimitSettings
    defaults: CallDefaults
    expose_errors: bool
    observer: ObjectObserver | None
    tasks: Tasks
    loop: asyncio.AbstractEventLoop
    now: Callable[[], float]
    """The loop's ``time``, found once."""
    next_turn: Callable[[], int]
    run_work: Callable[[Activation, Action], Awaitable[None]]
    pushes: PushSink | None
    """None: there are no gates."""
    removed: Callable[[Activation, list[Turn]], None]
    """Called once when an activation has ended, with the turns that waited for it."""
    over: Callable[[Activation], None]
    """Called when nothing of one that was cut off is under way any more."""
    unpackable: Callable[[Activation, EncodingFault], None]
    """Called when the state of one cannot go along with its shard."""
    durability: Durability | None = None
    reliable: ReliableCalls | None = None


class Activation:
    """Runs the turns of one object under one epoch."""

    __slots__ = (
        "_background",
        "created",
        "durable",
        "ended",
        "epoch",
        "has_state",
        "hook",
        "hook_task",
        "instance",
        "keeper",
        "last_used",
        "mailbox",
        "object_id",
        "object_type",
        "reminder",
        "restored",
        "services",
        "shard",
        "state",
        "turns",
    )

    def __init__(
        self, services: Services, shard: Shard, object_id: ObjectId, object_type: ObjectType
    ) -> None:
        self.services = services
        self.shard = shard
        self.epoch: Epoch = shard.epoch
        self.object_id = object_id
        self.object_type = object_type
        self.state = ACTIVE
        self.mailbox = Mailbox(services.limits.max_mailbox_calls)
        #: Set once it is dead, its last turn is over (one that is told to end may take time), and
        #: nothing of it is on its way to the store.
        self.ended: asyncio.Event | None = None
        #: Turns that run now, by number. Most objects have none most of the time, and share that.
        self.turns: dict[int, Turn] = _NO_TURNS
        self.last_used = self.created = services.now()
        self._background: Background | None = None
        #: The turn of a lifecycle hook that has taken the mailbox, and the task that runs it.
        self.hook: Turn | None = None
        self.hook_task: asyncio.Task[Any] | None = None
        #: Where the catalog is reminded of it, so that the end of the activation ends that too.
        self.reminder: dict[Activation, None] | None = None
        self.instance: Object = object_type.cls()
        self.keeper = StateKeeper(object_type.state, self.instance)
        self.has_state = bool(object_type.state)
        #: What it began with, if that came with its shard.
        self.restored: Restored | None = None
        self.durable: Durable | None = None
        if object_type.stored is not None and services.durability is not None:
            interval_s = object_type.options.effective_interval_s
            self.durable = Durable(self, services.durability, object_type.stored, interval_s)
        object.__setattr__(self.instance, "__goverse_host__", self)

    def __str__(self) -> str:
        return str(self.object_id)

    def limits(self) -> Iterator[Limit]:
        most = self.services.limits.max_mailbox_calls
        yield Limit("object.waiting_calls", self.mailbox.waiting, most)
        yield Limit("object.running_turns", self.mailbox.running, most)
        if self._background is not None:
            # An object that has nothing to do may well have a timer.
            yield Limit("object.background_tasks", len(self._background), most, standing=True)
        if self.durable is not None and self.durable.journal is not None:
            yield from self.durable.journal.limits()
        for turn in self.turns.values():
            if turn.inner is not None:
                yield Limit("object.inner_calls", turn.inner.waiting, reentry.MAX_INNER)

    # -- what the instance may ask for

    @property
    def id(self) -> str:
        return self.object_id.id

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> None:
        self._in_background().spawn(coro, name)

    def start_timer(
        self, delay_s: float, interval_s: float | None, action: Callable[[], Awaitable[Any]]
    ) -> Timer:
        return self._in_background().start_timer(delay_s, interval_s, action)

    def _in_background(self) -> Background:
        if self._background is None:
            self._background = Background(self)
            self.keeper.shared = True
        return self._background

    # -- admission: synchronous, so that no await lies between the check of ownership and here

    def admit(self, turn: Turn) -> None:
        """Let ``turn`` run or wait. Raises Overloaded, FailedPrecondition."""
        mailbox: Mailbox | None = self.mailbox
        chain = turn.call.chain
        if chain:
            outer = self._suspended(turn)
            if outer is not None:
                mailbox = reentry.join(turn, outer, self.object_type.options)
        granted = True
        if mailbox is not None:
            try:
                granted = mailbox.enter(turn)
            except MailboxFull:
                turn.parent = None
                raise Overloaded(
                    f"{turn.call}: {mailbox.waiting} calls wait and {mailbox.running} run there "
                    "already"
                ) from None
        turn.activation = self
        turn.mailbox = mailbox
        turn.room = self
        self.shard.holders += 1
        if granted:
            turn.granted()

    def _suspended(self, turn: Turn) -> Turn | None:
        """The innermost turn running here that waits for ``turn``, by its chain."""
        for entry in reversed(turn.call.chain):
            if entry.id == self.object_id.id and entry.type == self.object_id.type:
                found = self.turns.get(entry.turn)
                if found is not None and entry.epoch == self.epoch:
                    return found
        return None

    def withdraw(self, turn: Turn) -> None:
        """``turn`` was given up while it waited here."""
        if turn.mailbox is not None:
            turn.mailbox.withdraw(turn)
        self._left(turn)

    def leave(self, turn: Turn) -> None:
        """``turn`` gives its place to the next."""
        if turn.mailbox is not None:
            turn.mailbox.leave()
        self._left(turn)

    def _left(self, turn: Turn) -> None:
        if turn.parent is not None:
            reentry.ended(turn.parent)
        self.shard.ended()

    def take_waiting(self, wanted: Callable[[Turn], bool] = lambda turn: True) -> list[Turn]:
        """Remove those turns that have not begun and are ``wanted``, in order."""
        entries = self.mailbox.take_waiting(lambda entry: isinstance(entry, Turn) and wanted(entry))
        turns = [entry for entry in entries if isinstance(entry, Turn)]
        for turn in turns:
            turn.room = turn.mailbox = turn.activation = None
            self.shard.ended()
        return turns

    # -- turns

    async def settled(self) -> None:
        """Before a call leaves: the effect of earlier turns must not be seen before it stands."""
        if self.durable is not None:
            await self.durable.wait(self.durable.last)
            self.check_alive()

    def tell(self, turn: Turn, told: Reply | BaseException) -> Reply:
        """The outcome, at the moment when it leaves. Raises what the caller is told instead."""
        self.check_may_leave(turn)
        if not isinstance(told, Reply):
            raise told
        if turn.pushes:
            self.release_pushes(turn)
        return told

    def check_may_leave(self, turn: Turn) -> None:
        """Immediately before a reply or an error leaves: without a valid lease somebody else may
        own the object by now, and nothing that this activation did may be seen. Raises Fenced."""
        if not self.services.lease_valid():
            raise Fenced(f"{turn.call}: the lease ended during the turn; its effect is discarded")

    def release_pushes(self, turn: Turn) -> None:
        """``turn`` has succeeded, and the lease was valid a moment ago: its messages leave, or
        wait with those of the turn that it is part of. No await since its end, so that those of
        the next turn come after."""
        if not turn.pushes or self.services.pushes is None:
            return
        pushes, turn.pushes = turn.pushes, None
        if turn.parent is None:
            self.services.pushes.send(pushes)
        else:
            turn.parent.pushes = [*(turn.parent.pushes or ()), *pushes]

    def check_alive(self) -> None:
        """Before anything else leaves, or begins, on behalf of this activation. Raises Fenced."""
        if self.state is DEAD:
            raise Fenced(f"{self} is not active here any more", executed=Executed.NO)
        if not self.services.lease_valid():
            raise Fenced(f"{self}: the node's lease has ended", executed=Executed.NO)

    def begin(self, turn: Turn, task: asyncio.Task[Any] | None) -> None:
        """``turn`` runs from now on; in ``task``, if it can be interrupted."""
        turn.number = number = self.services.next_turn()
        if task is not None:
            turn.task = task
            turn.cancelling = task.cancelling()
        turn.state = RUNNING
        if self.turns is _NO_TURNS:
            self.turns = {}
        self.turns[number] = turn

    def end(self, turn: Turn) -> None:
        """``turn`` has run to its end, and gives its place to the next."""
        self.forget(turn)
        self.last_used = self.services.now()
        if turn.call.verb is Verb.DELETE and self.state is not DEAD:
            self.retire()
        self.leave(turn)

    def forget(self, turn: Turn) -> None:
        """``turn`` runs no more."""
        turn.state = ENDED
        self.turns.pop(turn.number, None)
        if not self.turns:
            self.turns = _NO_TURNS
            if self.ended is not None:
                self.check_ended()

    def encode_state(self) -> bytes:
        """The declared state as it is now, between turns. Raises `EncodingFault`."""
        return self.keeper.end()

    # -- the end of the activation

    def retire(self, *, hand_over: bool = True) -> list[Turn]:
        """Orderly end. Who waited gets a new activation, or is returned if not ``hand_over``."""
        waiting = self.take_waiting()
        self._die()
        if self.durable is not None:
            # Only a deletion that ran out of time leaves something behind.
            self.durable.discard(self._discarded())
            if self.durable.in_flight:
                self.ended = asyncio.Event()
        self.services.removed(self, waiting if hand_over else [])
        return waiting

    @property
    def dead(self) -> bool:
        return self.state is DEAD

    def begin_activation(self, first: Call, predecessor: asyncio.Event | None) -> None:
        """Load stored state, and run the hook of a class that has one, once the turns of
        ``predecessor`` are over."""
        if self.object_type.activates or predecessor is not None or self.durable is not None:
            self.state = ACTIVATING
            lifecycle.activate(self, first, predecessor)
        elif self.restored is not None:
            self.restored.began()

    def activated(self) -> None:
        """The hook has ended well."""
        if self.state is ACTIVATING:
            self.state = ACTIVE
            if self.restored is not None:
                self.restored.began()

    def begin_deactivation(self) -> None:
        """End an idle activation in an orderly way, through its hook if it has one."""
        assert self.mailbox.idle and self.state is ACTIVE
        if self.shard.departing:
            self.pack(last=not self.object_type.deactivates)
        if self.object_type.deactivates or self.durable is not None:
            self.state = DEACTIVATING
            lifecycle.deactivate(self)
        else:
            self.retire()

    def pack(self, *, last: bool) -> None:
        """Its shard is about to leave: what it declares goes along.

        :param last: False: if its hook ends well it is packed again.
        """
        luggage = self.shard.luggage
        if self.object_type.packed is None or luggage is None:
            return
        try:
            packed = pack(self, self.services.limits.max_state_bytes)
        except EncodingFault as fault:
            if last:
                luggage.take(self.object_id)
                self.services.unpackable(self, fault)
        else:
            luggage.put(packed, self.last_used)

    def discard(self, reason: outcome.Reason) -> None:
        """End it now: synchronously, nothing of it may leave afterwards. Turns that run end with
        ``reason``; those that wait were not executed."""
        if self.state is DEAD:
            return
        waiting = self.take_waiting()
        self._die()
        if self.hook_task is not None:
            self.hook_task.cancel()
        for turn in list(self.turns.values()):
            if not turn.is_hook:
                turn.stop(reason(turn))
            reentry.refuse_waiting(turn, lambda _: self.shard.not_owner())
        if self.turns or (self.durable is not None and self.durable.in_flight):
            self.ended = asyncio.Event()
        self.services.removed(self, [])
        if self.durable is not None:
            self.durable.discard(self._discarded())
        for turn in waiting:
            turn.refuse(self.shard.not_owner())
        holding = self._holding()
        if holding:
            # Told to end, they may take their time, and nobody waits for the dead.
            self.shard = self.shard.apart(holding)

    def _holding(self) -> int:
        """Turns and hooks of it that hold its shard, none of them waiting."""
        count = self.mailbox.running
        for turn in self.turns.values():
            if turn.mailbox is None:
                count += 1
            if turn.inner is not None:
                count += turn.inner.running
        return count

    @property
    def lingers(self) -> bool:
        """Whether something of it still runs."""
        return bool(self.turns) or self.hook is not None

    def _discarded(self) -> GoverseError:
        text = f"{self} was cut off before its last turns were committed"
        return (
            Fenced(text)
            if not self.services.lease_valid()
            else Unavailable(text, executed=Executed.UNKNOWN)
        )

    def check_ended(self) -> None:
        """After the end of a turn, or of a commit: whether a successor may begin."""
        in_flight = self.durable is not None and self.durable.in_flight
        if self.ended is not None and not self.turns and not in_flight:
            self.ended.set()
            self.services.over(self)

    def _die(self) -> None:
        self.state = DEAD
        if self._background is not None:
            self._background.cancel()

    # -- for people

    def describe_running(self) -> str:
        """The turns that run, for messages."""
        return ", ".join(
            f"{turn.call.method or turn.call.verb.name.lower()} (turn {turn.number})"
            for turn in self.turns.values()
        )
