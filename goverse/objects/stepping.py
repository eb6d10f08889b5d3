"""Methods that never wait, and how one is run to its end in place: without a task of its own."""

from __future__ import annotations

import asyncio
import dis
import inspect
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable
from contextvars import copy_context
from types import CodeType
from typing import TYPE_CHECKING, Any, Protocol

from goverse.objects.context import CURRENT

if TYPE_CHECKING:
    from goverse.objects.turn import Turn


class Startable(Protocol):
    def start(self, instance: Any, arguments: Any) -> Any:
        """The coroutine."""
        ...


def never_suspends(function: Callable[..., Any]) -> bool:
    """Whether ``function`` is a coroutine function whose code has no place to wait at.

    A frame is suspended by one instruction alone, and every await, ``async for`` and ``async
    with`` contains it; what is not plain code of that kind is taken to suspend. So is what asks
    for its task: there is none.
    """
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or not code.co_flags & inspect.CO_COROUTINE:
        return False
    if "current_task" in code.co_names:
        return False
    return all(step.opname != "YIELD_VALUE" for step in dis.get_instructions(code))


def run_in_place(
    turn: Turn, method: Startable, instance: Any, loop: asyncio.AbstractEventLoop
) -> Any:
    """The result of ``method``, which never suspends, for ``turn``. Raises what it raises.

    It has a context of its own, and no current task: whatever reads calls must be neither seen
    nor cancelled by it.
    """
    reader = asyncio.current_task(loop)
    if reader is None:
        return copy_context().run(_to_end, turn, method, instance)
    # https://docs.python.org/3/library/asyncio-extending.html#task-lifetime-support
    _leave_task(loop, reader)
    try:
        return copy_context().run(_to_end, turn, method, instance)
    finally:
        _enter_task(loop, reader)


def _to_end(turn: Turn, method: Startable, instance: Any) -> Any:
    CURRENT.set(turn)
    running = method.start(instance, turn.arguments)
    try:
        running.send(None)
    except StopIteration as ended:
        return ended.value
    running.close()
    raise RuntimeError("a method without a place to wait at has waited")
