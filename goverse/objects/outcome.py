"""From what a method raised to what its caller is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from goverse.errors import (
    ApplicationError,
    DeadlineExceeded,
    Executed,
    Fenced,
    GoverseError,
    ObjectFailed,
)
from goverse.objects import encoding
from goverse.objects.turn import Turn, describe_chain

log = logging.getLogger(__name__)

#: What a running turn that is cut off is told.
Reason = Callable[[Turn], GoverseError]


def call_name(turn: Turn) -> str:
    """What finds this execution in the log: epoch and turn."""
    epoch = turn.activation.epoch if turn.activation is not None else "-"
    return f"{epoch}-{turn.number}"


def cancelled_by_caller(turn: Turn, error: BaseException | None) -> bool:
    """Whether ``error`` is the caller giving up, rather than a cancellation that the method
    raised by itself (from a task that it awaited, say): that one is a failure like any other."""
    if not isinstance(error, asyncio.CancelledError) or turn.task is None:
        return False
    return turn.task.cancelling() > turn.cancelling


def failure_of(
    turn: Turn, error: BaseException, *, rolled_back: bool, expose: bool
) -> GoverseError:
    """What the caller of a failed turn is told; logs what it is not told."""
    if isinstance(error, ApplicationError):
        fault = encoding.find_fault(error.details, json=True)
        if fault is None and isinstance(error.code, str) and isinstance(error.message, str):
            error.executed = Executed.YES
            return error
        error = TypeError(f"ApplicationError that cannot be sent: {fault or 'not text'}")
    if isinstance(error, DeadlineExceeded) and _is_over(turn):
        # The call that it waited for ended first, at the deadline that both share.
        return DeadlineExceeded(
            f"{turn.call} ran past its deadline: {error.message}",
            executed=Executed.UNKNOWN,
            details={"rolled_back": rolled_back},
        )
    if isinstance(error, Fenced) and _is_cut_off(turn):
        # What it wanted to do for its object was refused, as that is somebody else's by now. Its
        # failure is not the application's.
        return Fenced(f"{turn.call} was cut off: {error.message}")
    name = type(error).__qualname__
    details: dict[str, Any] = {
        "type": name,
        "call": call_name(turn),
        "rolled_back": rolled_back,
    }
    if turn.call.trace:
        details["trace"] = turn.call.trace
    if isinstance(error, GoverseError):
        details["cause"] = error.code
    log.error(
        "%s raised %s (call %s)%s",
        turn.call,
        name,
        details["call"],
        describe_chain(turn.call),
        exc_info=error,
        extra={
            "object": f"{turn.call.type}/{turn.call.id}",
            "method": turn.call.method,
            "call": details["call"],
        },
    )
    text = f"{turn.call} raised {name}"
    text += f": {error}" if expose else f"; the node's log has it under call {details['call']}"
    return ObjectFailed(text, executed=Executed.YES, details=details)


def cannot_encode(turn: Turn, what: str, fault: encoding.EncodingFault) -> GoverseError:
    """The method ran, and what it gave cannot leave: the application's fault."""
    return ObjectFailed(
        f"{turn.call}: {what} cannot be encoded: {fault}",
        executed=Executed.UNKNOWN,
        details={"path": fault.path, "call": call_name(turn)},
    )


def status_of(failure: BaseException | None) -> str:
    """A word for metrics: few, whatever codes applications invent."""
    if failure is None:
        return "ok"
    if isinstance(failure, ApplicationError):
        return "application_error"
    if isinstance(failure, GoverseError):
        return failure.code
    return "cancelled"


def _is_over(turn: Turn) -> bool:
    # Deadlines fire in steps: the inner one may do so a little before the outer one.
    return asyncio.get_running_loop().time() >= turn.deadline - 0.05


def _is_cut_off(turn: Turn) -> bool:
    activation = turn.activation
    return activation is not None and (activation.dead or not activation.services.lease_valid())
