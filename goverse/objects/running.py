"""How a granted turn runs: its beginning, its end, and what of it is kept, told or undone.

What a turn changed goes to the store in one piece: its state, the outcome of the reliable call
that it ran for, and the reliable calls that it issued are noted together or not at all.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from goverse.call import OVER, Call, Forwarded, Receiver, Reply, Verb
from goverse.errors import (
    ApplicationError,
    Conflict,
    Executed,
    GoverseError,
    ObjectFailed,
    TooLarge,
)
from goverse.objects import encoding, lifecycle, outcome, reentry, stepping
from goverse.objects.activation import ACTIVE
from goverse.objects.context import CURRENT
from goverse.objects.durability.journal import Awaited
from goverse.objects.durable import Durable, because_of
from goverse.objects.recording import IssuedCalls, Record, failed, succeeded
from goverse.objects.turn import ENDED, RUNNING, Turn
from goverse.storage.values import Outcome

if TYPE_CHECKING:
    from goverse.objects.activation import Activation
    from goverse.objects.definition import MethodType

log = logging.getLogger(__name__)


async def run(activation: Activation, turn: Turn) -> Reply:
    """Run a granted turn to its outcome, in the calling task."""
    told = await _run(activation, turn)
    durable = activation.durable
    if (
        durable is not None
        and turn.interrupt is None  # otherwise what is told is why, and shows no state
        and not durable.is_committed(turn.ticket)
    ):
        await _committed(activation, turn, durable)
    return activation.tell(turn, told)


async def run_recorded(activation: Activation, turn: Turn, record: Record) -> None:
    """Run a granted turn of a reliable call, and return once it is over: ``record`` learns when
    its outcome is stored. Raises why it has none."""
    told = await _run(activation, turn)
    if turn.noted is not None:
        assert activation.durable is not None
        record.ran(turn.noted)
        activation.durable.when(turn.ticket, record)
    else:
        activation.tell(turn, told)
        raise AssertionError(f"{turn.call} has ended without an outcome")


def run_in_place(
    activation: Activation,
    call: Call,
    method: MethodType,
    arguments: Any,
    deadline: float,
    receiver: Receiver,
) -> Forwarded:
    """`run` for a method that never suspends, while nobody runs or waits there. Raises its
    failure, if that is known at once.

    It begins and ends in this very step, in which nothing else happens: so nobody can find it in
    the mailbox or among the turns, or interrupt it.
    """
    turn = Turn(call, method, arguments, deadline, method.shared)
    durable = activation.durable
    told = _in_place(activation, turn, method)
    if durable is not None and not durable.is_committed(turn.ticket):
        return durable.tell_later(turn, told, receiver)
    receiver.succeed(activation.tell(turn, told))
    return OVER


def run_recorded_in_place(activation: Activation, turn: Turn, method: MethodType) -> bool:
    """`run_recorded` under the conditions of `run_in_place`. False: there is no outcome. Raises
    why it has not begun."""
    record, durable = turn.record, activation.durable
    assert record is not None and durable is not None, "a reliable call is one of a durable object"
    _in_place(activation, turn, method)
    if turn.noted is None:
        return False
    record.ran(turn.noted)
    durable.when(turn.ticket, record)
    return True


def _in_place(activation: Activation, turn: Turn, method: MethodType) -> Reply | BaseException:
    """Run ``turn`` in this step: what its caller will be told."""
    services, durable, call = activation.services, activation.durable, turn.call
    if not services.lease_valid():
        raise activation.shard.not_owner()
    turn.state, turn.number, turn.activation = RUNNING, services.next_turn(), activation
    if durable is not None:
        _check_durable(activation, turn, durable)
    if activation.has_state and method.tracked:
        _remember(activation, turn)
    started = services.now()
    error: BaseException | None = None
    result: Any = None
    try:
        result = stepping.run_in_place(turn, method, activation.instance, services.loop)
    except BaseException as caught:
        error = caught
    told = _settle(activation, turn, result, error)
    turn.state = ENDED
    activation.last_used = ended = services.now()
    seconds = ended - started
    shard = activation.shard
    shard.turns += 1
    shard.busy_s += seconds
    observer = services.observer
    if observer is not None:
        status = "ok" if isinstance(told, Reply) else outcome.status_of(told)
        observer.turn_ended(call.type, call.method, status, seconds)
    return told


async def _run(activation: Activation, turn: Turn) -> Reply | BaseException:
    task = asyncio.current_task(activation.services.loop)
    _start(activation, turn, task)
    work = turn.work
    token = CURRENT.set(turn)
    error: BaseException | None = None
    result: Any = None
    try:
        if work is not None:
            result = await work.start(activation.instance, turn.arguments)
        elif turn.call.verb is Verb.DELETE:
            await lifecycle.delete(activation)
    except BaseException as caught:
        error = caught
        if type(caught) is GeneratorExit and asyncio.current_task() is not task:
            activation.end(turn)  # the coroutine is being closed, not run: nothing may be awaited
            raise
    CURRENT.reset(token)
    if turn.inner is not None and not turn.inner.idle:
        error = await reentry.finish(turn, error, activation.turns)
    return _over(activation, turn, result, error)


async def _committed(activation: Activation, turn: Turn, durable: Durable) -> None:
    """Return once what ``turn`` may have seen is committed. Raises why it will not be."""
    turn.future = activation.services.loop.create_future()
    durable.when(turn.ticket, Awaited(turn.future))
    error = await turn.future
    if error is not None:
        raise because_of(turn, error)


# -- the beginning


def _start(activation: Activation, turn: Turn, task: asyncio.Task[Any] | None) -> None:
    """The turn begins, unless it must not any more. Raises why."""
    services = activation.services
    if turn.interrupt is not None or activation.state is not ACTIVE or not services.lease_valid():
        turn.give_up()
        raise turn.interrupt or activation.shard.not_owner()
    if activation.durable is not None:
        _check_durable(activation, turn, activation.durable)
    work = turn.work
    if work is None:
        _check_new(activation, turn)
    elif activation.has_state and work.tracked:
        _remember(activation, turn)
    activation.begin(turn, task)
    turn.started = services.now()


def _check_durable(activation: Activation, turn: Turn, durable: Durable) -> None:
    """Raises Overloaded, Conflict, what a record says: ``turn`` was not begun."""
    try:
        if turn.record is not None:
            turn.record.check_begin()
        durable.check_room()
        if turn.call.verb is Verb.CREATE and durable.exists:
            raise Conflict(f"{activation} exists already")
    except GoverseError as error:
        turn.give_up()
        raise because_of(turn, error) from None


def _check_new(activation: Activation, turn: Turn) -> None:
    """Raises Conflict for the creation of what came with its shard, and was woken by it."""
    if turn.call.verb is Verb.CREATE and activation.restored is not None:
        turn.give_up()
        raise Conflict(f"{activation} exists already")


def _remember(activation: Activation, turn: Turn) -> None:
    """Keep what ``turn`` would be rolled back to. Raises ObjectFailed."""
    try:
        turn.before = activation.keeper.begin(nested=turn.parent is not None)
    except encoding.EncodingFault as fault:
        turn.give_up()
        error = outcome.cannot_encode(turn, "the declared state", fault)
        error.executed = Executed.NO
        raise error from None


# -- the end


def _over(
    activation: Activation, turn: Turn, result: Any, error: BaseException | None
) -> Reply | BaseException:
    """The turn is over: what its caller will be told."""
    told = _settle(activation, turn, result, error)
    activation.end(turn)
    seconds = activation.last_used - turn.started
    shard = activation.shard
    shard.turns += 1
    shard.busy_s += seconds
    observer = activation.services.observer
    if observer is not None:
        status = "ok" if isinstance(told, Reply) else outcome.status_of(told)
        method = turn.call.method or turn.call.verb.name
        observer.turn_ended(activation.object_id.type, method, status, seconds)
    if isinstance(told, asyncio.CancelledError):
        raise told  # the caller has gone: nobody is told
    return told


def _settle(
    activation: Activation, turn: Turn, result: Any, error: BaseException | None
) -> Reply | BaseException:
    """Keep what the turn did, or undo it: what its caller will be told."""
    told: Reply | BaseException
    if error is not None or turn.interrupt is not None:
        told = _undo(activation, turn, error, concluding=False)
    else:
        try:
            told = Reply(_conclude(activation, turn, result), turn.call.codec)
        except GoverseError as fault:
            told = _undo(activation, turn, fault, concluding=True)
    durable = activation.durable
    if durable is not None:
        _await_commit(activation, turn, durable, succeeded=isinstance(told, Reply))
    return told


def _await_commit(activation: Activation, turn: Turn, durable: Durable, *, succeeded: bool) -> None:
    """What ``turn`` may have seen or left; and what waits for that beside its reply."""
    binding = turn.noted is not None or turn.issued is not None
    turn.ticket = durable.newest if binding else durable.last
    if not succeeded:
        return
    if turn.issued and turn.parent is None:
        _hand_over(activation, turn, durable)
    if turn.pushes and not durable.is_committed(turn.ticket):
        durable.push_later(turn)  # also if the caller goes away meanwhile


def _conclude(activation: Activation, turn: Turn, result: Any) -> bytes:
    """Encode the result, and note the state that it reflects. Raises ObjectFailed, TooLarge."""
    work, call, durable = turn.work, turn.call, activation.durable
    if work is None:
        if call.verb is Verb.CREATE and durable is not None:
            durable.note_creation()
        return encoding.NONE[call.codec]
    try:
        payload = work.encode(result, call.codec)
    except encoding.EncodingFault as fault:
        raise outcome.cannot_encode(turn, "its result", fault) from None
    limit = activation.services.limits.max_payload_bytes
    if len(payload) > limit:
        raise TooLarge(
            f"{call}: its result has {len(payload)} bytes, above max_payload of {limit}",
            executed=Executed.UNKNOWN,
        )
    if turn.parent is not None:
        # The turn that it is part of looks at the state once, at its end.
        if turn.issued:
            turn.parent.issued = (turn.parent.issued or []) + turn.issued
        return payload
    state: bytes | None = None
    if turn.before is not None or (durable is not None and not work.read_only):
        state = _state(activation, turn)
    elif not work.read_only:
        activation.keeper.changed()
    if durable is not None:
        record = turn.record
        noted = succeeded(record.call_id, payload, record.again_at) if record is not None else None
        durable.note(state, noted, tuple(turn.issued or ()))
        turn.noted = noted
    return payload


def _state(activation: Activation, turn: Turn) -> bytes:
    """The declared state at the end of a turn. Raises ObjectFailed, TooLarge."""
    try:
        encoded = activation.keeper.end()
    except encoding.EncodingFault as fault:
        raise outcome.cannot_encode(turn, "the declared state", fault) from None
    limit = activation.services.limits.max_state_bytes
    if activation.durable is not None and len(encoded) > limit:
        raise TooLarge(
            f"{turn.call}: the declared state has {len(encoded)} bytes, above "
            f"limits.max_state_bytes of {limit}",
            executed=Executed.UNKNOWN,
        )
    return encoded


def _hand_over(activation: Activation, turn: Turn, durable: Durable) -> None:
    """What the turn issued goes out as soon as it is committed."""
    reliable = activation.services.reliable
    if reliable is not None and durable.journal is not None:
        calls = IssuedCalls(reliable, durable.journal.subject, tuple(turn.issued or ()))
        durable.when(turn.ticket, calls)


# -- failures


def _undo(
    activation: Activation, turn: Turn, error: BaseException | None, *, concluding: bool
) -> BaseException:
    """Undo the turn, and note what is to be kept of it; what is raised to its caller."""
    turn.issued = None
    rolled_back, kept = _roll_back(activation, turn)
    if concluding:
        assert isinstance(error, GoverseError)
        error.details["rolled_back"] = rolled_back
        told: BaseException = error
    else:
        told = _failure(activation, turn, error, rolled_back)
    noted = _recordable(activation, turn, told)
    if (kept is not None or noted is not None) and activation.durable is not None:
        try:
            activation.durable.note(kept, noted)
        except GoverseError as lost:
            log.error("%s: what a failed turn left cannot be stored: %s", activation, lost)
        else:
            turn.noted = noted
    return told


def _recordable(activation: Activation, turn: Turn, told: BaseException) -> Outcome | None:
    """The outcome of a reliable call whose method has failed by itself. Whatever cut it off
    leaves the call pending."""
    if (
        turn.record is None
        or turn.interrupt is not None
        or activation.dead
        or not activation.services.lease_valid()
        or not isinstance(told, ApplicationError | ObjectFailed | TooLarge)
    ):
        return None
    return failed(turn.record.call_id, told, turn.record.again_at)


def _failure(
    activation: Activation, turn: Turn, error: BaseException | None, rolled_back: bool
) -> BaseException:
    if turn.cancelled and turn.task is not None:
        turn.task.uncancel()
    if error is not None and outcome.cancelled_by_caller(turn, error):
        return error
    if turn.interrupt is not None:
        turn.interrupt.details["rolled_back"] = rolled_back
        return turn.interrupt
    assert error is not None
    expose = activation.services.expose_errors
    return outcome.failure_of(turn, error, rolled_back=rolled_back, expose=expose)


def _roll_back(activation: Activation, turn: Turn) -> tuple[bool, bytes | None]:
    """Undo what a failed turn did to declared state.

    Returns whether that is so, and otherwise the state to be kept: a class that asks for no
    rollback keeps what a failed turn changed, and so does the store.
    """
    if turn.before is not None and not activation.dead:
        activation.keeper.roll_back(turn.before, nested=turn.parent is not None)
        return True, None
    if turn.work is not None and turn.work.read_only:
        return False, None
    activation.keeper.changed()
    if activation.durable is None or turn.work is None or activation.dead:
        return False, None
    try:
        return False, _state(activation, turn)
    except GoverseError as fault:
        log.error("%s: what a failed turn left cannot be stored: %s", activation, fault)
        return False, None
