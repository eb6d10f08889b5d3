"""What an activation runs outside of calls: spawned tasks and timers. They end with it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from goverse.call import Call, Codec, Reply
from goverse.errors import GoverseError, Overloaded
from goverse.objects.context import CURRENT, CallDefaults, Context
from goverse.objects.messages import refuse_outside_of_turns
from goverse.objects.turn import Turn
from goverse.transport.pushes import Push

if TYPE_CHECKING:
    from goverse.objects.activation import Activation

log = logging.getLogger(__name__)


class Background:
    """The frame of an activation's background tasks: their calls begin chains of their own."""

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Raises Overloaded, or Fenced if the activation is dead."""
        services = self._activation.services
        try:
            self._activation.check_alive()
            if len(self._tasks) >= services.limits.max_mailbox_calls:
                raise Overloaded(f"{self._activation} runs {len(self._tasks)} tasks already")
            task = services.tasks.spawn(f"{self._activation}:{name}", self._run(coro, name))
        except BaseException:
            coro.close()
            raise
        self._tasks[task] = None

        def ended(task: asyncio.Task[Any]) -> None:
            self._tasks.pop(task, None)
            coro.close()  # cancelled before its first step, it would never have been awaited

        task.add_done_callback(ended)
        return task

    def start_timer(
        self, delay_s: float, interval_s: float | None, action: Callable[[], Awaitable[Any]]
    ) -> Timer:
        """Raises ValueError for times that are not above 0."""
        if delay_s < 0 or (interval_s is not None and not interval_s > 0):
            raise ValueError("a timer needs delay_s of at least 0 and interval_s above 0")
        name = getattr(action, "__name__", "action")
        timer = Timer()
        timer.task = self.spawn(self._tick(timer, delay_s, interval_s, action), f"timer {name}")
        return timer

    def cancel(self) -> None:
        """The activation has ended."""
        for task in self._tasks:
            task.cancel()

    async def _run(self, coro: Coroutine[Any, Any, Any], name: str) -> None:
        CURRENT.set(self)
        try:
            await coro
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            # SystemExit and KeyboardInterrupt too: application code cannot end the node.
            log.error("%s: background %s failed", self._activation, name, exc_info=error)

    async def _tick(
        self,
        timer: Timer,
        delay_s: float,
        interval_s: float | None,
        action: Callable[[], Awaitable[Any]],
    ) -> None:
        await asyncio.sleep(delay_s)
        work = Action(action, shared=self._activation.object_type.options.concurrent)
        while True:
            try:
                await self._activation.services.run_work(self._activation, work)
            except GoverseError as error:
                log.warning("%s: timer %s: %s", self._activation, work.name, error)
            if interval_s is None or timer.cancelled:
                return
            await asyncio.sleep(interval_s)

    # -- the frame

    @property
    def defaults(self) -> CallDefaults:
        return self._activation.services.defaults

    def context(self) -> Context:
        return Context(
            object_id=self._activation.object_id,
            method="",
            epoch=self._activation.epoch,
            principal="",
            client_id="",
            deadline=float("inf"),
            chain=(),
            trace="",
        )

    async def invoke(self, call: Call) -> Reply:
        self._activation.check_alive()
        await self._activation.settled()
        return await self._activation.services.outgoing.invoke(call)

    def push(self, push: Push) -> None:
        refuse_outside_of_turns(push)


class Timer:
    """Handle of a running timer."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """Stop it; a turn of it that runs is cancelled, unless it is the caller's own, which
        goes on to its end and is the last."""
        self.cancelled = True
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()


class Action:
    """The work of a timer's turn."""

    __slots__ = ("_action", "name", "read_only", "shared", "tracked")

    def __init__(self, action: Callable[[], Awaitable[Any]], *, shared: bool) -> None:
        self._action = action
        self.name: str = getattr(action, "__name__", "action")
        self.read_only = False
        self.shared = shared
        self.tracked = not shared

    def start(self, instance: Any, arguments: Any) -> Awaitable[Any]:
        return _awaited(self._action())

    def encode(self, result: Any, codec: Codec) -> bytes:
        return b""


async def _awaited(started: Any) -> None:
    if inspect.isawaitable(started):
        await started


def timer_turn(activation: Activation, work: Action, deadline: float) -> Turn:
    """A turn that no call began."""
    id = activation.object_id
    call = Call(id.type, id.id, f"timer {work.name}", b"", deadline)
    return Turn(call, work, None, deadline, work.shared)
