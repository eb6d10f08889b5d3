"""``goverse.issue``: reliable calls from one object to another.

They are part of the turn that issues them: committed with its state, delivered afterwards, and
gone if it fails.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from goverse.call import Codec
from goverse.errors import FailedPrecondition
from goverse.ids import ObjectId
from goverse.objects import encoding
from goverse.objects.context import CURRENT
from goverse.objects.recording import Context, ReliableCalls
from goverse.objects.reference import take_unstarted
from goverse.objects.turn import RUNNING, Turn
from goverse.storage.values import Payload, ReliableCall

if TYPE_CHECKING:
    from goverse.objects.activation import Activation


def issue(call: Coroutine[Any, Any, Any], *, expires_after_s: float | None = None) -> str:
    """Make ``call`` once this turn is committed, exactly once; the id that it will have.

    ::

        @goverse.method
        async def transfer(self, to: Account, amount: int) -> str:
            self.balance -= amount
            return goverse.issue(to.deposit(amount=amount))

    Nothing is sent if the turn fails. Calls from one object to one other arrive in order. What
    becomes of a call is found under its id; its result comes back to nobody.

    :param call: a call of a reference's method, not awaited.
    :param expires_after_s: seconds after which the call is skipped if nobody could run it.

    Raises FailedPrecondition where there is no turn whose commit it could be part of, TypeError,
    ValueError.
    """
    taken = take_unstarted(call)
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
    expires_at = None
    if expires_after_s is not None:
        expires_at = reliable.wall() + expires_after_s
    made = ReliableCall(
        reliable.new_call_id(),
        target,
        taken.method,
        Payload(taken.payload or encoding.NO_ARGUMENTS[Codec.MSGPACK]),
        b"",  # its target looks at the arguments as it understands them
        turn.call.principal,
        Context(turn.call.client_id, turn.call.trace).encode(),
        turn.call.call_id,
        expires_at,
    )
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
