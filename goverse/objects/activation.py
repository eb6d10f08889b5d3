"""One live object on this node: its instance, its mailbox, its turns. See DESIGN.md."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from goverse.aio.limits import Limit
from goverse.aio.tasks import Tasks
from goverse.call import OVER, Call, CallTarget, Forwarded, Receiver, Reply, Verb
from goverse.config.settings import LimitSettings
from goverse.errors import (
    Conflict,
    Executed,
    Fenced,
    GoverseError,
    Overloaded,
    TooLarge,
    Unavailable,
)
from goverse.ids import Epoch, ObjectId
from goverse.objects import encoding, lifecycle, outcome, reentry, stepping
from goverse.objects.background import Action, Background, Timer
from goverse.objects.context import CURRENT, CallDefaults
from goverse.objects.durability.journal import Awaited
from goverse.objects.durability.service import Durability
from goverse.objects.durable import Durable, because_of
from goverse.objects.mailbox import Mailbox, MailboxFull
from goverse.objects.messages import PushSink
from goverse.objects.state import StateKeeper
from goverse.objects.turn import ENDED, RUNNING, Turn

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from goverse.objects.definition import MethodType, Object, ObjectType
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

    def turn_started(self, type_name: str, method: str) -> None: ...

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
    durability: Durability | None = None


class Activation:
    """Runs the turns of one object under one epoch."""

    __slots__ = (
        "_background",
        "_has_state",
        "_keeper",
        "created",
        "durable",
        "ended",
        "epoch",
        "hook_task",
        "instance",
        "last_used",
        "mailbox",
        "object_id",
        "object_type",
        "reminder",
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
        #: The task that runs a lifecycle hook, if one runs.
        self.hook_task: asyncio.Task[Any] | None = None
        #: Where the catalog is reminded of it, so that the end of the activation ends that too.
        self.reminder: dict[Activation, None] | None = None
        self.instance: Object = object_type.cls()
        self._keeper = StateKeeper(object_type.state, self.instance)
        self._has_state = bool(object_type.state)
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
            self._keeper.shared = True
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
        self.shard.busy += 1
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

    def take_waiting(self, *, chained: bool) -> list[Turn]:
        """Remove turns that have not begun, in order; without ``chained`` only those that begin
        a chain, since nobody's running turn waits for them."""
        entries = self.mailbox.take_waiting(
            lambda entry: isinstance(entry, Turn) and (chained or not entry.call.chain)
        )
        turns = [entry for entry in entries if isinstance(entry, Turn)]
        for turn in turns:
            turn.room = turn.mailbox = turn.activation = None
            self.shard.ended()
        return turns

    # -- turns

    async def run(self, turn: Turn) -> Reply:
        """Run a granted turn to its outcome, in the calling task."""
        task = asyncio.current_task(self.services.loop)
        started = self._start(turn, task)
        work = turn.work
        token = CURRENT.set(turn)
        error: BaseException | None = None
        result: Any = None
        try:
            if work is not None:
                result = await work.start(self.instance, turn.arguments)
            elif turn.call.verb is Verb.DELETE:
                await lifecycle.before_delete(self)
                if self.durable is not None:
                    await self.durable.delete()
        except BaseException as caught:
            error = caught
            if type(caught) is GeneratorExit and asyncio.current_task() is not task:
                self._end(turn)  # the coroutine is being closed, not run: nothing may be awaited
                raise
        CURRENT.reset(token)
        if turn.inner is not None and not turn.inner.idle:
            error = await reentry.finish(turn, error, self.turns)
        told = self._over(turn, result, error, started)
        durable = self.durable
        if (
            durable is not None
            and turn.interrupt is None  # otherwise what is told is why, and shows no state
            and not durable.is_committed(turn.ticket)
        ):
            await self._committed(turn, durable)
        return self.tell(turn, told)

    def run_in_place(
        self, call: Call, method: MethodType, arguments: Any, deadline: float, receiver: Receiver
    ) -> Forwarded:
        """`run` for a method that never suspends, while nobody runs or waits here. Raises its
        failure, if that is known at once.

        It begins and ends in this very step, in which nothing else happens: so nobody can find
        it in the mailbox or among the turns, or interrupt it.
        """
        services = self.services
        if not services.lease_valid():
            raise self.shard.not_owner()
        number = services.next_turn()
        turn = Turn(call, method, arguments, deadline, method.shared, RUNNING, number, False, self)
        if self.durable is not None:
            self._check_durable(turn, self.durable)
        if self._has_state and method.tracked:
            self._remember(turn)
        observer = services.observer
        if observer is not None:
            observer.turn_started(call.type, call.method)
        started = services.now()
        error: BaseException | None = None
        result: Any = None
        try:
            result = stepping.run_in_place(turn, method, self.instance, services.loop)
        except BaseException as caught:
            error = caught
        told = self._settle(turn, result, error)
        turn.state = ENDED
        self.last_used = ended = services.now()
        if observer is not None:
            status = "ok" if isinstance(told, Reply) else outcome.status_of(told)
            observer.turn_ended(call.type, call.method, status, ended - started)
        if self.durable is not None and not self.durable.is_committed(turn.ticket):
            return self.durable.tell_later(turn, told, receiver)
        receiver.succeed(self.tell(turn, told))
        return OVER

    async def _committed(self, turn: Turn, durable: Durable) -> None:
        """Return once what ``turn`` may have seen is committed. Raises why it will not be."""
        turn.future = self.services.loop.create_future()
        durable.when(turn.ticket, Awaited(turn.future))
        error = await turn.future
        if error is not None:
            raise because_of(turn, error)

    async def settled(self) -> None:
        """Before a call leaves: the effect of earlier turns must not be seen before it stands."""
        if self.durable is not None:
            await self.durable.wait(self.durable.last)
            self.check_alive()

    def _start(self, turn: Turn, task: asyncio.Task[Any] | None) -> float:
        """The turn begins, unless it must not any more. Raises why."""
        services = self.services
        if turn.interrupt is not None or self.state is not ACTIVE or not services.lease_valid():
            turn.give_up()
            raise turn.interrupt or self.shard.not_owner()
        if self.durable is not None:
            self._check_durable(turn, self.durable)
        if self._has_state and turn.work is not None and turn.work.tracked:
            self._remember(turn)
        self.begin(turn, task)
        if services.observer is not None:
            method = turn.call.method or turn.call.verb.name
            services.observer.turn_started(self.object_id.type, method)
        return self.services.now()

    def _check_durable(self, turn: Turn, durable: Durable) -> None:
        """Raises Overloaded, Conflict: ``turn`` was not begun."""
        try:
            durable.check_room()
            if turn.call.verb is Verb.CREATE and durable.exists:
                raise Conflict(f"{self} exists already")
        except GoverseError as error:
            turn.give_up()
            raise because_of(turn, error) from None

    def _over(
        self, turn: Turn, result: Any, error: BaseException | None, started: float
    ) -> Reply | BaseException:
        """The turn is over: what its caller will be told."""
        told = self._settle(turn, result, error)
        self._end(turn)
        observer = self.services.observer
        if observer is not None:
            status = "ok" if isinstance(told, Reply) else outcome.status_of(told)
            method = turn.call.method or turn.call.verb.name
            observer.turn_ended(self.object_id.type, method, status, self.last_used - started)
        if isinstance(told, asyncio.CancelledError):
            raise told  # the caller has gone: nobody is told
        return told

    def tell(self, turn: Turn, told: Reply | BaseException) -> Reply:
        """The outcome, at the moment when it leaves. Raises what the caller is told instead."""
        self.check_may_leave(turn)
        if not isinstance(told, Reply):
            raise told
        if turn.pushes:
            self.release_pushes(turn)
        return told

    def _settle(
        self, turn: Turn, result: Any, error: BaseException | None
    ) -> Reply | BaseException:
        """Keep what the turn did, or undo it: what its caller will be told."""
        told: Reply | BaseException
        if error is not None or turn.interrupt is not None:
            told = self._failure(turn, error)
        else:
            try:
                told = Reply(self._conclude(turn, result), turn.call.codec)
            except GoverseError as fault:
                fault.details["rolled_back"] = self._roll_back(turn)
                told = fault
        durable = self.durable
        if durable is not None:
            turn.ticket = durable.last
            if turn.pushes and isinstance(told, Reply) and not durable.is_committed(turn.ticket):
                durable.push_later(turn)  # also if the caller goes away meanwhile
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

    def _end(self, turn: Turn) -> None:
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

    def _conclude(self, turn: Turn, result: Any) -> bytes:
        """Encode the result, and the state that it reflects. Raises ObjectFailed, TooLarge."""
        work, call = turn.work, turn.call
        if work is None:
            if call.verb is Verb.CREATE and self.durable is not None:
                self.durable.note_creation()
            return encoding.NONE[call.codec]
        try:
            payload = work.encode(result, call.codec)
        except encoding.EncodingFault as fault:
            raise outcome.cannot_encode(turn, "its result", fault) from None
        limit = self.services.limits.max_payload_bytes
        if len(payload) > limit:
            raise TooLarge(
                f"{call}: its result has {len(payload)} bytes, above max_payload of {limit}",
                executed=Executed.UNKNOWN,
            )
        if turn.parent is not None:
            return payload  # the turn that it is part of looks at the state once, at its end
        if turn.before is not None or (self.durable is not None and not work.read_only):
            try:
                encoded = self._keeper.end()
            except encoding.EncodingFault as fault:
                raise outcome.cannot_encode(turn, "the declared state", fault) from None
            if self.durable is not None:
                self.durable.note(encoded)
        elif not work.read_only:
            self._keeper.changed()
        return payload

    def _failure(self, turn: Turn, error: BaseException | None) -> BaseException:
        """Undo the turn; what is raised to its caller."""
        rolled_back = self._roll_back(turn)
        if turn.cancelled and turn.task is not None:
            turn.task.uncancel()
        if error is not None and outcome.cancelled_by_caller(turn, error):
            return error
        if turn.interrupt is not None:
            turn.interrupt.details["rolled_back"] = rolled_back
            return turn.interrupt
        assert error is not None
        expose = self.services.expose_errors
        return outcome.failure_of(turn, error, rolled_back=rolled_back, expose=expose)

    # -- rollback

    def _remember(self, turn: Turn) -> None:
        """Keep what ``turn`` would be rolled back to. Raises ObjectFailed."""
        try:
            turn.before = self._keeper.begin(nested=turn.parent is not None)
        except encoding.EncodingFault as fault:
            turn.give_up()
            error = outcome.cannot_encode(turn, "the declared state", fault)
            error.executed = Executed.NO
            raise error from None

    def _roll_back(self, turn: Turn) -> bool:
        """Undo what a failed turn did to declared state; whether that is so."""
        if turn.before is None or self.state is DEAD:
            if turn.work is None or not turn.work.read_only:
                self._keeper.changed()
                self._keep_what_failed(turn)
            return False
        self._keeper.roll_back(turn.before, nested=turn.parent is not None)
        return True

    def _keep_what_failed(self, turn: Turn) -> None:
        """A class that asks for no rollback keeps what a failed turn changed; so does the store."""
        if self.durable is None or turn.work is None or self.state is DEAD:
            return
        try:
            self.durable.note(self._keeper.end())
        except (encoding.EncodingFault, GoverseError) as fault:
            log.error("%s: what a failed turn left cannot be stored: %s", self, fault)

    def encode_state(self) -> bytes:
        """The declared state as it is now, between turns. Raises `EncodingFault`."""
        return self._keeper.end()

    # -- the end of the activation

    def retire(self, *, hand_over: bool = True) -> list[Turn]:
        """Orderly end. Who waited gets a new activation, or is returned if not ``hand_over``."""
        waiting = self.take_waiting(chained=True)
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

    def activated(self) -> None:
        """The hook has ended well."""
        if self.state is ACTIVATING:
            self.state = ACTIVE

    def begin_deactivation(self) -> None:
        """End an idle activation in an orderly way, through its hook if it has one."""
        assert self.mailbox.idle and self.state is ACTIVE
        if self.object_type.deactivates or self.durable is not None:
            self.state = DEACTIVATING
            lifecycle.deactivate(self)
        else:
            self.retire()

    def discard(self, reason: outcome.Reason) -> None:
        """End it now: synchronously, nothing of it may leave afterwards. Turns that run end with
        ``reason``; those that wait were not executed."""
        if self.state is DEAD:
            return
        waiting = self.take_waiting(chained=True)
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
