"""Calls from this node to itself: as isolated as calls over a link."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator

from goverse.aio.limits import Limit
from goverse.call import Call, CallTarget, Receiver, Reply
from goverse.errors import Overloaded


class LocalCalls:
    """Carries each call out in a task of its own, as a link does for calls that arrive.

    The catalog runs a turn in the task that brings the call, and may interrupt it; a method that
    calls an object on its own node must not be that task. Nor must what the callee does to its
    context variables be seen by the caller.

    :param max_calls: calls under way; one object that calls many others at once, each with room
        for more, would otherwise make as many tasks as it likes.
    """

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._context = contextvars.copy_context()
        self._running: dict[asyncio.Task[Reply], None] = {}
        self._target: CallTarget

    def bind(self, target: CallTarget) -> None:
        """Where calls go. The catalog needs a router, and the router this."""
        self._target = target

    def forward(self, call: Call, receiver: Receiver) -> None:
        """Declined: only a task keeps the callee apart from its caller."""

    async def invoke(self, call: Call) -> Reply:
        if len(self._running) >= self._max_calls:
            raise Overloaded(
                f"{call}: this node makes {len(self._running)} calls to itself already"
            )
        task = asyncio.get_running_loop().create_task(
            self._run(call), name=f"local:{call.type}", context=self._context.copy()
        )
        self._running[task] = None
        try:
            # Awaiting a task hands a cancellation on to it, and waits until it has ended.
            return await task
        finally:
            del self._running[task]

    async def _run(self, call: Call) -> Reply:
        return await self._target.invoke(call)

    def limits(self) -> Iterator[Limit]:
        yield Limit("node.local_calls", len(self._running), self._max_calls)

    def __len__(self) -> int:
        return len(self._running)
