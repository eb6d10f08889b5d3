"""The life of one development session: start, say so, restart on change, stop in order."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from goverse.aio.backoff import Backoff
from goverse.aio.tasks import Tasks
from goverse_cli.dev.backing import Backing
from goverse_cli.dev.etcd import DevelopmentEtcd
from goverse_cli.dev.examples import find_example
from goverse_cli.dev.plan import Plan, banner, gate_command, node_command, single_command
from goverse_cli.dev.processes import Command, Console
from goverse_cli.dev.ready import wait_ready
from goverse_cli.dev.state import StateFault
from goverse_cli.dev.supervisor import Child
from goverse_cli.dev.watch import Watch, syntax_fault

#: Longest wait for a restarted node before the next one is restarted all the same.
_ROLL_S = 15.0

#: Seconds to end a process that was told to hurry.
_HURRY_S = 0.2

Signals = asyncio.Queue[signal.Signals]


async def run(plan: Plan, source: Path, moved: dict[int, int], *, began: float) -> None:
    """Run ``plan`` until SIGINT, SIGTERM or SIGHUP; a second one ends everything at once.

    :param source: the file that holds the application.
    :param moved: usual ports that were in use, and what was taken instead.
    :param began: the loop's ``time()`` when the user began to wait.

    Raises FileNotFoundError where several processes are asked for and there is no etcd, and
    `StateFault` if the application's objects cannot be kept.
    """
    console = Console(sys.stderr, colour=sys.stderr.isatty())
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_stop_signals())
        etcd = None
        if plan.etcd_port:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="goverse-dev-"))
            etcd = DevelopmentEtcd(plan, Path(folder), console, Backoff(random.Random()))
        session = Session(plan, source, console, etcd)
        crashes: list[BaseException] = []

        def crashed(name: str, error: BaseException) -> None:
            crashes.append(error)
            stop.put_nowait(signal.SIGTERM)

        async def start() -> None:
            try:
                await session.start(tasks)
            except StateFault as fault:
                crashed("start", fault)

        tasks = Tasks("dev session", on_crash=crashed)
        try:
            tasks.spawn("start", start())
            tasks.spawn("announce", session.announce(moved, began))
            tasks.spawn("watch", session.restart_on_change(tasks))
            await stop.get()
            console.say("Stopping; once more to stop at once.")
            await _stop(session, stop, tasks)
        finally:
            await tasks.close()
        if crashes:
            raise crashes[0]


async def _stop(session: Session, stop: Signals, tasks: Tasks) -> None:
    stopping = tasks.spawn("stop", session.stop())
    again = tasks.spawn("second signal", stop.get())
    await asyncio.wait((stopping, again), return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        stopping.cancel()
        await session.kill()


@contextlib.contextmanager
def _stop_signals() -> Iterator[Signals]:
    received: Signals = asyncio.Queue()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, received.put_nowait, number)
    try:
        yield received
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


class Session:
    """The processes of one session.

    They are started together: each waits for what it needs, so that the imports of one overlap
    with the start of another. They are stopped one stage after the other.
    """

    def __init__(
        self, plan: Plan, source: Path, console: Console, etcd: DevelopmentEtcd | None
    ) -> None:
        self._plan = plan
        self._source = source
        self._console = console
        self._etcd = etcd
        self._backing = Backing(plan, etcd, console) if etcd is not None else None
        self._watch = Watch(source)
        self._started = asyncio.Event()
        self._changed = asyncio.Event()
        if etcd is None:
            self._nodes = [self._child(single_command(plan), piped=False)]
            self._gates: list[Child] = []
        else:
            self._nodes = [self._child(node_command(plan, node)) for node in plan.nodes]
            self._gates = [self._child(gate_command(plan))]

    def _child(self, command: Command, *, piped: bool = True) -> Child:
        return Child(
            command, self._console, random.Random(), piped=piped, on_start=self._started.set
        )

    async def start(self, tasks: Tasks) -> None:
        """Start every process, once the application is Python at all."""
        while fault := syntax_fault(self._source):
            self._changed.clear()
            self._console.say(f"{fault}\n{self._source.name} waits for the next change")
            await self._changed.wait()
        if self._etcd is not None:
            tasks.spawn("etcd", self._etcd.run())
        await self._prepare_store(tasks)
        for child in (*self._nodes, *self._gates):
            tasks.spawn(child.command.name, child.run())

    async def _prepare_store(self, tasks: Tasks) -> None:
        """Raises `StateFault`."""
        if self._backing is None:
            return
        await self._backing.prepare(tasks)
        for child, node in zip(self._nodes, self._plan.nodes, strict=True):
            child.command = node_command(self._plan, node, self._backing.own)

    async def announce(self, moved: dict[int, int], began: float) -> None:
        """Print the banner when all answers for the first time, afterwards a line each time."""
        loop = asyncio.get_running_loop()
        first = True
        while True:
            await self._started.wait()
            again_from = loop.time()
            await wait_ready(self._plan.ops_ports)
            self._started.clear()
            if first:
                text = banner(self._plan, moved, find_example(self._source), loop.time() - began)
                with contextlib.suppress(BrokenPipeError):
                    print(text, flush=True)
                first = False
            else:
                self._console.say(f"Ready again ({loop.time() - again_from:.1f} s).")

    async def restart_on_change(self, tasks: Tasks) -> None:
        async for names in self._watch.changes():
            self._changed.set()
            if fault := syntax_fault(self._source):
                self._console.say(f"{fault}\nWhat runs goes on; waiting for the next change.")
                continue
            self._console.say(f"{', '.join(names[:3])} changed: restarting")
            try:
                await self._prepare_store(tasks)
            except StateFault as fault:
                self._console.say(f"{fault}\nWhat runs goes on; waiting for the next change.")
                continue
            await self._roll()

    async def _roll(self) -> None:
        """Restart what runs the application, one process at a time, so that calls find a node."""
        for child, node in zip(self._nodes, self._plan.nodes, strict=True):
            await child.restart()
            if len(self._nodes) > 1:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_ROLL_S):
                        await wait_ready((node.ops_port,))

    async def stop(self) -> None:
        """Gate, nodes, store, etcd: nobody loses what it needs in order to stop."""
        for stage in (self._gates, self._nodes):
            await asyncio.gather(*(child.stop() for child in stage))
        if self._backing is not None:
            await self._backing.stop()
        if self._etcd is not None:
            await self._etcd.stop()

    async def kill(self) -> None:
        children = (*self._gates, *self._nodes)
        await asyncio.gather(*(child.stop(timeout_s=_HURRY_S) for child in children))
        if self._backing is not None:
            await self._backing.kill()
        if self._etcd is not None:
            await self._etcd.kill()
