"""Calls that come back to an object whose turn waits for them.

Admitted, such a call is part of that turn: inner turns have a mailbox of their own, are rolled
back to where they began, and the outer turn is not over before they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from goverse.errors import Executed, FailedPrecondition, GoverseError
from goverse.objects.mailbox import Mailbox
from goverse.objects.turn import Turn, describe_chain

if TYPE_CHECKING:
    from goverse.objects.definition import ClassOptions

#: Inner turns of one turn that wait or run; a turn that fans out wider is refused.
MAX_INNER = 1024


def join(turn: Turn, outer: Turn, options: ClassOptions) -> Mailbox | None:
    """Where ``turn``, which comes back to ``outer``'s object, waits; None: nowhere, it runs.

    Raises FailedPrecondition at once where waiting could only end at the deadline.
    """
    if outer.is_hook or outer.work is None:
        why = f"no call is admitted while {outer.call.method or outer.call.verb.name} runs"
    elif turn.work is None:
        why = "an object cannot be created or deleted from within its own turn"
    elif options.concurrent:
        return None
    elif options.reentrancy != "allow":
        why = f'class {turn.call.type} does not admit that; reentrancy="allow" would'
    elif outer.work.read_only and not turn.work.read_only:
        why = "that turn is read-only, and admits read-only calls only"
    else:
        if outer.inner is None:
            outer.inner = Mailbox(MAX_INNER)
        turn.parent = outer
        return outer.inner
    raise FailedPrecondition(
        f"{turn.call} comes back to the object whose turn {outer.number} "
        f"({outer.call.method}) waits for it: {why}{describe_chain(turn.call)}",
        details={"chain": [f"{entry.type}/{entry.id}" for entry in turn.call.chain]},
    )


def ended(outer: Turn) -> None:
    """An inner turn of ``outer`` has ended or was given up."""
    if outer.inner_idle is not None and not outer.inner_idle.done():
        assert outer.inner is not None
        if outer.inner.idle:
            outer.inner_idle.set_result(None)


async def finish(
    outer: Turn, error: BaseException | None, turns: Mapping[int, Turn]
) -> BaseException | None:
    """Wait for the turns that are part of ``outer``: its place is theirs too, and the next turn
    must not overlap with them. If it failed they fail with it. Returns its error."""
    inner = outer.inner
    assert inner is not None
    while not inner.idle:
        if error is not None or outer.interrupt is not None:
            _stop(outer, turns)
            if inner.idle:
                break
        outer.inner_idle = asyncio.get_running_loop().create_future()
        try:
            await outer.inner_idle
        except asyncio.CancelledError as cancelled:
            error = error or cancelled
        finally:
            outer.inner_idle = None
    return error


def refuse_waiting(outer: Turn, reason: Callable[[Turn], GoverseError]) -> None:
    """Inner turns that have not begun never will."""
    if outer.inner is None:
        return
    for entry in outer.inner.take_waiting(lambda _: True):
        assert isinstance(entry, Turn)
        entry.mailbox = None
        entry.refuse(reason(entry))


def _stop(outer: Turn, turns: Mapping[int, Turn]) -> None:
    refuse_waiting(outer, lambda turn: _ended_before(turn, Executed.NO))
    for turn in list(turns.values()):
        if turn.parent is outer:
            turn.stop(_ended_before(turn, Executed.UNKNOWN))


def _ended_before(turn: Turn, executed: Executed) -> GoverseError:
    return FailedPrecondition(
        f"{turn.call}: the turn that it was part of has failed{describe_chain(turn.call)}",
        executed=executed,
    )
