"""An event loop with virtual time, in which one program plays a whole cluster.

Nothing waits for real: when no callback is ready, time jumps to the next timer. Every callback
carries the name of the simulated process that scheduled it, in its `contextvars.Context`; that
is how one process is paused or killed while the others go on, without any help from the code
under test.

    ready ──run──> done          pause(p)            resume(p)
      ^                    ready ───────> parked  ───────────> ready
      └── timer due              kill(p)
                           ready, parked, timers ──> dropped; frames kept until the loop closes
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import random
import sys
import warnings
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any, TypeVar

from goverse.aio.runtime import Runtime
from goverse.testing.trace import Trace

T = TypeVar("T")

#: The simulated process whose code is running; empty for the surroundings (network, test).
current_process: ContextVar[str] = ContextVar("goverse_simulated_process", default="")


class SimulationError(Exception):
    """The run cannot go on: everybody waits, or a limit is reached."""


class ProcessKilled(Exception):
    """What was awaited in a simulated process will never happen: the process was killed."""


class SimTask(asyncio.Task[Any]):
    """A task that knows its process and its place in the order of births.

    Its hash is that place and not its address, so that sets of tasks, which asyncio itself
    keeps, are walked in the same order in every run.
    """

    def __init__(self, coro: Any, *, number: int, process: str, **options: Any) -> None:
        self.number = number
        self.process = process
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number


def process_context(process: str) -> Context:
    """A fresh context in which everything belongs to ``process``."""
    context = Context()
    context.run(current_process.set, process)
    return context


class SimLoop(asyncio.BaseEventLoop):
    """See the module's docstring. Use `run_virtual` unless you need the loop itself.

    :param seed: with a seed, ready callbacks of different processes run in an order chosen by
        it; within a process the order is always first come, first served. None: always that.
    :param max_time_s: virtual seconds after which the run is given up.
    :param max_steps: callbacks after which the run is given up.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _timer_cancelled_count: int

    def __init__(
        self,
        seed: int | str | None = None,
        *,
        max_time_s: float = 3600.0,
        max_steps: int = 20_000_000,
    ) -> None:
        super().__init__()
        self._now = self._start = 1000.0  # not zero: nothing may take a time for "never"
        self._order = None if seed is None else random.Random(f"order:{seed}")
        self._max_time_s = max_time_s
        self._max_steps = max_steps
        self.steps = 0
        self.trace = Trace()
        self.errors: list[str] = []
        """What reached the loop's exception handler; a clean run leaves it empty."""
        self._births = 0
        self._parked: dict[str, tuple[list[asyncio.Handle], list[asyncio.Handle]]] = {}
        self._killed: dict[str, list[SimTask]] = {}
        self._awaited: dict[str, dict[asyncio.Future[Any], None]] = {}
        self._discarding = False
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

    # -- time ---------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    @property
    def elapsed_s(self) -> float:
        return self._now - self._start

    def record(self, line: str) -> None:
        """Feed one event into the run's trace, with the time and the number of steps so far."""
        self.trace.record(f"{self._now - self._start:.6f} {self.steps} {line}")

    # -- processes ----------------------------------------------------------------------------

    def spawn(
        self, process: str, coro: Coroutine[Any, Any, T], *, name: str = "main"
    ) -> asyncio.Task[T]:
        """Start ``coro`` as a task of ``process``."""
        return self.create_task(coro, name=f"{process}:{name}", context=process_context(process))

    async def run_in(self, process: str, coro: Coroutine[Any, Any, T]) -> T:
        """Run ``coro`` in ``process`` and return its result to a caller outside of it.

        Raises `ProcessKilled` if the process is killed meanwhile; cancelling cancels ``coro``.
        """
        if process in self._killed:
            coro.close()
            raise ProcessKilled(process)
        task = self.spawn(process, coro, name="run_in")
        ended: asyncio.Future[None] = self.create_future()
        waiting = self._awaited.setdefault(process, {})
        waiting[ended] = None

        def finish(_: object) -> None:
            if not ended.done():
                ended.set_result(None)

        task.add_done_callback(finish, context=Context())
        try:
            await ended
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            waiting.pop(ended, None)
        return task.result()

    def pause(self, process: str) -> None:
        """Give ``process`` no more time, as SIGSTOP does. What becomes due is kept, in order."""
        if process not in self._killed:
            self._parked.setdefault(process, ([], []))

    def resume(self, process: str) -> None:
        """Let a paused process go on.

        With a seed, either what arrived meanwhile runs before the timers that became due, as
        after a real SIGCONT, or the other way round.
        """
        parked = self._parked.pop(process, None)
        if parked is None:
            return
        arrived, due = parked
        if self._order is not None and self._order.random() < 0.5:
            arrived, due = due, arrived
        self._ready.extend(arrived)
        self._ready.extend(due)

    def kill(self, process: str) -> None:
        """End ``process`` as SIGKILL does: none of its code runs again, no ``finally`` either."""
        if process in self._killed:
            return
        self._parked.pop(process, None)
        # Held here, or the garbage collector would close the coroutines and run their cleanup.
        self._killed[process] = [task for task in self._live_tasks() if task.process == process]
        for waiter in list(self._awaited.pop(process, {})):
            if not waiter.done():
                waiter.set_exception(ProcessKilled(process))

    def is_paused(self, process: str) -> bool:
        return process in self._parked

    def is_killed(self, process: str) -> bool:
        return process in self._killed

    def tasks_of(self, process: str) -> tuple[str, ...]:
        """Names of the unfinished tasks of ``process``, in the order of their births."""
        return tuple(task.get_name() for task in self._live_tasks() if task.process == process)

    def _live_tasks(self) -> list[SimTask]:
        tasks = [task for task in asyncio.all_tasks(self) if isinstance(task, SimTask)]
        return sorted(tasks, key=lambda task: task.number)

    # -- the engine ---------------------------------------------------------------------------

    def _run_once(self) -> None:
        """One round, as in asyncio: everything ready now, then what that made ready."""
        if not self._ready:
            self._jump()
        self._collect_due()
        ready = self._ready
        batch = [ready.popleft() for _ in range(len(ready))]
        if self._order is not None and len(batch) > 1:
            batch = self._interleave(batch, self._order)
        self.steps += len(batch)
        held = self._parked or self._killed
        for handle in batch:
            if handle._cancelled:
                continue
            # Asked again for each: a callback of this very batch can pause or kill a process.
            if held and self._hold(handle, timer=False):
                continue
            handle._run()
            held = self._parked or self._killed

    def _jump(self) -> None:
        """Move time to the next timer. Raises `SimulationError` if there is none."""
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]
        if self._stopping:  # type: ignore[attr-defined]
            return
        if not scheduled:
            raise SimulationError(f"nothing is ready and no timer is set; {self.describe()}")
        self._now = max(self._now, scheduled[0].when())
        if self.elapsed_s > self._max_time_s:
            raise SimulationError(f"more than {self._max_time_s} virtual s; {self.describe()}")

    def _collect_due(self) -> None:
        if self.steps > self._max_steps:
            raise SimulationError(f"more than {self._max_steps} steps; {self.describe()}")
        scheduled = self._scheduled
        # Never a timer before its time: a real loop may be early by its clock's resolution, but
        # then its clock has moved on by the time anybody looks at it.
        while scheduled and scheduled[0].when() <= self._now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]
            if timer._cancelled:
                self._timer_cancelled_count -= 1
            elif not self._hold(timer, timer=True):
                self._ready.append(timer)

    def _hold(self, handle: asyncio.Handle, *, timer: bool) -> bool:
        """Park or drop a callback of a process that gets no time. False: run it."""
        process = handle._context.get(current_process)  # type: ignore[attr-defined]
        if process in self._killed:
            return True
        parked = self._parked.get(process)
        if parked is None:
            return False
        parked[timer].append(handle)
        return True

    @staticmethod
    def _interleave(batch: list[asyncio.Handle], order: random.Random) -> list[asyncio.Handle]:
        """Mix the processes' callbacks at random; each process's own stay in their order."""
        queues: dict[str, deque[asyncio.Handle]] = {}
        lots: list[str] = []
        for handle in batch:
            process = handle._context.get(current_process)  # type: ignore[attr-defined]
            queues.setdefault(process, deque()).append(handle)
            lots.append(process)
        if len(queues) == 1:
            return batch
        order.shuffle(lots)
        return [queues[process].popleft() for process in lots]

    def _make_task(
        self, _loop: asyncio.AbstractEventLoop, coro: Generator[Any, None, Any], **options: Any
    ) -> SimTask:
        self._births += 1
        context: Context | None = options.get("context")
        process = current_process.get() if context is None else context.get(current_process, "")
        task = SimTask(coro, loop=self, number=self._births, process=process, **options)
        if self._discarding:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        elif process in self._killed:
            self._killed[process].append(task)
        return task

    def describe(self) -> str:
        """Who waits, for the report of a run that cannot go on."""
        lines = [f"{self.elapsed_s:.3f} virtual s, {self.steps} steps; waiting tasks:"]
        for task in self._live_tasks():
            if task.process in self._killed or task.done():
                continue
            frames = task.get_stack(limit=1)
            where = f"{frames[0].f_code.co_qualname}:{frames[0].f_lineno}" if frames else "?"
            paused = " (paused)" if task.process in self._parked else ""
            lines.append(f"  {task.process or '-'}{paused} {task.get_name()} in {where}")
        return "\n".join(lines)

    # -- what a loop without a selector must provide -------------------------------------------

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._discarding or current_process.get() in self._killed:
            return
        error = context.get("exception")
        self.errors.append(f"{context.get('message')}: {error!r}")
        super().call_exception_handler(context)

    def _call_soon(
        self, callback: Callable[..., object], args: Any, context: Context | None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._discarding:
            self._ready.append(handle)
        return handle

    def _write_to_self(self) -> None:
        """There is no selector to wake."""

    def _process_events(self, event_list: object) -> None:
        raise NotImplementedError

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("a simulated process has no threads")

    def close(self) -> None:
        """Drop what is left, killed processes included, without a warning from any of it."""
        if self.is_closed():
            return
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        self._discard()
        super().close()

    def _discard(self) -> None:
        """Close every coroutine while nothing that its cleanup asks for can happen any more."""
        self._discarding = True
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        events._set_running_loop(self)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                closed = 0
                # Cleanup, and the collector's too, may start tasks; they never run, and are
                # closed in the next round.
                while tasks := [task for task in self._live_tasks() if task.number > closed]:
                    closed = tasks[-1].number
                    for task in tasks:
                        _close(task)
                    del tasks, task
                    for held in (self._killed, self._parked, self._awaited):
                        held.clear()
                    self._ready.clear()
                    self._scheduled.clear()
                    gc.collect()
        finally:
            events._set_running_loop(None)
            sys.unraisablehook = hook


def _close(task: SimTask) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    try:
        task.get_coro().close()
    except BaseException:
        # Cleanup of a process that is no more; its troubles concern nobody.
        pass


class SimClock:
    """The clock of one simulated process: virtual time plus an offset of its own.

    Clocks of different machines disagree, and nothing may compare them; give each process
    another ``offset_s`` to show that.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, offset_s: float = 0.0) -> None:
        self._loop = loop
        self._offset_s = offset_s

    def now(self) -> float:
        return self._loop.time() + self._offset_s

    def wall(self) -> float:
        return 1_700_000_000.0 + self._loop.time()


def sim_runtime(
    seed: int | str, name: str, *, loop: asyncio.AbstractEventLoop | None = None
) -> Runtime:
    """Time and chance of the simulated process ``name``; the clock's offset follows the seed."""
    source = random.Random(f"{seed}:{name}")
    offset_s = source.uniform(0.0, 1_000_000.0)
    clock = SimClock(loop or asyncio.get_running_loop(), offset_s=offset_s)
    return Runtime(clock=clock, random=source)


def run_virtual(
    main: Callable[[SimLoop], Coroutine[Any, Any, T]],
    *,
    seed: int | str | None = None,
    max_time_s: float = 3600.0,
    max_steps: int = 20_000_000,
) -> T:
    """Run ``main(loop)`` to its end in virtual time.

    The garbage collector stands still meanwhile: its moment depends on what else the program
    did, and a finalizer may schedule callbacks.
    """
    loop = SimLoop(seed, max_time_s=max_time_s, max_steps=max_steps)
    collecting = gc.isenabled()
    gc.disable()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close()
        if collecting:
            gc.enable()
