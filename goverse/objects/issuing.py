"""``goverse.issue``: reliable calls from one object to another.

They are part of the turn that issues them: committed with its state, delivered afterwards, and
gone if it fails.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from goverse.call import Codec
from goverse.errors import FailedPrecondition
from goverse.ids import ObjectId
from goverse.objects import encoding
from goverse.objects.context import CURRENT
from goverse.objects.recording import Context, ReliableCalls
from goverse.objects.reference import Reference, take_unstarted
from goverse.objects.timing import timing_of, when
from goverse.objects.turn import RUNNING, Turn
from goverse.storage.checks import check_call_id
from goverse.storage.values import Payload, ReliableCall

if TYPE_CHECKING:
    from goverse.objects.activation import Activation
    from goverse.objects.definition import Object


def issue(
    call: Coroutine[Any, Any, Any],
    *,
    expires_after_s: float | None = None,
    run_at: datetime.datetime | float | None = None,
    delay_s: float | None = None,
    every_s: float | None = None,
    catch_up: str = "one",
) -> str:
    """Make ``call`` once this turn is committed, exactly once; the id that it will have.

    ::

        @goverse.method
        async def transfer(self, to: Account, amount: int) -> str:
            self.balance -= amount
            return goverse.issue(to.deposit(amount=amount))

    Nothing is sent if the turn fails. Calls from one object to one other arrive in order. What
    becomes of a call is found under its id; its result comes back to nobody.

    With ``run_at`` or ``delay_s`` it is made later, and with ``every_s`` again and again, until
    `goverse.cancel`, or the end of its object. A call to this object itself is its reminder.

    :param call: a call of a reference's method, not awaited.
    :param expires_after_s: seconds after which the call is skipped if nobody could run it; of a
        delayed one, seconds after it was due. Not for a repeated one.
    :param run_at: when it is due: an aware datetime, or seconds since 1970.
    :param delay_s: seconds from now, in its place.
    :param every_s: seconds from one tick to the next, 0.01 at least; the first is one period from
        now, unless ``run_at`` or ``delay_s`` says otherwise. A tick is never begun before the one
        before it is over.
    :param catch_up: what is run of ticks that were missed because nobody could run them in time:
        ``"each"`` one after the other, ``"one"`` for all of them, or ``"none"``.

    Raises FailedPrecondition where there is no turn whose commit it could be part of, TypeError,
    ValueError.
    """
    taken = take_unstarted(call)
    said = when(run_at=run_at, delay_s=delay_s, every_s=every_s, catch_up=catch_up)
    if expires_after_s is not None and every_s is not None:
        raise ValueError(
            "a repeated call does not expire: leave expires_after_s out, and cancel it"
        )
    if expires_after_s is not None and not expires_after_s > 0:
        raise ValueError(f"expires_after_s must be above 0, not {expires_after_s}")
    if taken.reference._call_id:
        raise ValueError("a call that is issued gets an id of its own: leave call_id out")
    target = ObjectId(taken.reference._type, taken.reference._id)
    name = f"{target}.{taken.method}"
    turn, activation, reliable = _issuer(name)
    interface = taken.reference._interface
    hosted = getattr(interface, "stored", activation)  # a class knows; a name alone does not
    if hosted is None:
        raise FailedPrecondition(
            f"{name} cannot be issued: class {target.type} is not durable; give it "
            'durability="acknowledged"'
        )
    activation.check_alive()
    timing = None if said is None else timing_of(said, reliable.store_now())
    expires_at = None
    if expires_after_s is not None:
        due_at = reliable.wall() if timing is None else timing.run_at
        expires_at = due_at + expires_after_s
    payload = taken.payload or encoding.NO_ARGUMENTS[Codec.MSGPACK]
    made = _made(turn, reliable, target, taken.method, payload)
    made = dataclasses.replace(made, expires_at=expires_at, timing=timing)
    return _issue(turn, activation, made, name)


def cancel(target: Object, call_id: str) -> None:
    """Have the call ``call_id``, which was issued to ``target``, not be made (any more), once this
    turn is committed.

    ::

        @goverse.method
        async def stop(self) -> None:
            goverse.cancel(goverse.get(Meter, self.id), self.reminder)

    A call that has begun meanwhile ends as it would; of a repeated one that tick is the last. What
    was issued in this turn, or before, can be cancelled. Raises as `issue`.
    """
    if not isinstance(target, Reference):
        raise TypeError(f"expected a reference made by get(), not {target!r:.60}")
    check_call_id(call_id)
    name = f"the cancellation of {call_id}"
    turn, activation, reliable = _issuer(name)
    activation.check_alive()
    to = ObjectId(target._type, target._id)
    # A row without a method cancels what its arguments name, in the order of those to this object.
    made = _made(turn, reliable, to, "", call_id.encode())
    _issue(turn, activation, made, name)


def _made(
    turn: Turn, reliable: ReliableCalls, target: ObjectId, method: str, payload: bytes
) -> ReliableCall:
    return ReliableCall(
        reliable.new_call_id(),
        target,
        method,
        Payload(payload),
        b"",  # its target looks at the arguments as it understands them
        turn.call.principal,
        Context(turn.call.client_id, turn.call.trace).encode(),
        turn.call.call_id,
    )


def _issue(turn: Turn, activation: Activation, made: ReliableCall, name: str) -> str:
    if turn.issued is None:
        turn.issued = []
    if len(turn.issued) >= activation.services.limits.max_issued_calls:
        raise FailedPrecondition(
            f"{name}: this turn has issued {len(turn.issued)} calls already, as many as one may "
            "(limits.max_issued_calls)"
        )
    turn.issued.append(made)
    return made.call_id


def _issuer(name: str) -> tuple[Turn, Activation, ReliableCalls]:
    """Who issues. Raises FailedPrecondition, naming what stands in the way."""
    turn = CURRENT.get()
    if not isinstance(turn, Turn) or turn.state is not RUNNING or turn.activation is None:
        raise FailedPrecondition(
            f"{name} cannot be issued here: goverse.issue(...) belongs into a turn of a durable "
            "object, as it is part of that turn's commit"
        )
    activation = turn.activation
    reliable = activation.services.reliable
    if activation.durable is None or reliable is None:
        raise FailedPrecondition(
            f"{name} cannot be issued by {activation}, as class {activation.object_type.name} is "
            'not durable; give it durability="acknowledged"'
        )
    if turn.work is None or turn.is_hook:
        raise FailedPrecondition(f"{name} cannot be issued by a lifecycle hook")
    if turn.work.read_only:
        raise FailedPrecondition(
            f"{name} cannot be issued in a read-only turn, which commits nothing"
        )
    return turn, activation, reliable
