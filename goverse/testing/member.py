"""One node or gate of a test cluster, played as a simulated process."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from goverse.aio.runtime import Runtime
from goverse.cluster.surroundings import Surroundings
from goverse.config.settings import Settings
from goverse.coordination import memory as coordination
from goverse.objects import Registry
from goverse.observability.metrics import Metrics
from goverse.storage import memory as storage
from goverse.testing.channel import FaultyChannel
from goverse.testing.faults import STORE, Faults
from goverse.testing.loop import ProcessKilled, SimLoop, process_context, sim_runtime
from goverse.testing.machine import SteadyMachine
from goverse.transport.loopback import LoopbackHub
from goverse_gate.app import Gate, run_gate
from goverse_node.app import Node, run_node

#: Shorter than a lease: what a store does not answer is settled while the shard is still owned.
STORE_TIMEOUT_S = 1.0


class Kind(enum.Enum):
    NODE = "node"
    GATE = "gate"


class State(enum.Enum):
    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    KILLED = "killed"


@dataclass(frozen=True)
class World:
    """What all members of a test cluster share."""

    hub: LoopbackHub
    coordinator: coordination.MemoryStore
    store: storage.MemoryStore
    faults: Faults
    registry: Registry
    seed: int | str


@dataclass(frozen=True)
class MemberSnapshot:
    """One process; ``tasks`` are those that have not ended (virtual time only)."""

    name: str
    kind: Kind
    state: State
    paused: bool
    tasks: tuple[str, ...]


class Member:
    """One process from its start to its end; a restart makes another one.

    :param number: counts the processes that bore this name.
    """

    def __init__(
        self, world: World, kind: Kind, name: str, number: int, settings: Settings
    ) -> None:
        self.kind = kind
        self.name = name
        self.process = f"{name}#{number}"
        """Its name as a simulated process."""
        self.node: Node | None = None
        self.gate: Gate | None = None
        self.state = State.STARTING
        self.metrics = Metrics()
        self._world = world
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._serving: asyncio.Future[None] = self._loop.create_future()
        self._stopping = asyncio.Event()
        self._life: asyncio.Task[None] = self._loop.create_task(
            self._live(), name=f"life of {self.process}"
        )

    async def wait_serving(self) -> None:
        """Until it serves. Raises what ended it before that, `ProcessKilled` included."""
        await asyncio.wait([self._serving, self._life], return_when=asyncio.FIRST_COMPLETED)
        if not self._serving.done():
            await self._life
            raise ProcessKilled(f"{self.process} ended before it served")

    async def stop(self) -> None:
        """End it in order, and wait for that. Raises what its end raised."""
        self._stopping.set()
        await asyncio.shield(self._life)

    def kill(self) -> None:
        """End it without a word, as SIGKILL does. Virtual time only."""
        self._simulated().kill(self.process)
        self._world.hub.kill(self.name)
        self.state = State.KILLED

    def pause(self) -> None:
        """Stop its time, as SIGSTOP does. Virtual time only."""
        self._simulated().pause(self.process)

    def resume(self) -> None:
        self._simulated().resume(self.process)

    @property
    def alive(self) -> bool:
        return self.state in (State.STARTING, State.RUNNING)

    @property
    def paused(self) -> bool:
        return isinstance(self._loop, SimLoop) and self._loop.is_paused(self.process)

    def snapshot(self) -> MemberSnapshot:
        tasks = self._loop.tasks_of(self.process) if isinstance(self._loop, SimLoop) else ()
        return MemberSnapshot(self.name, self.kind, self.state, self.paused, tasks)

    def _simulated(self) -> SimLoop:
        if not isinstance(self._loop, SimLoop):
            raise RuntimeError(
                "killing and pausing need virtual time: mark the test with "
                "@pytest.mark.virtual_time, or use goverse.testing.run_virtual"
            )
        return self._loop

    async def _live(self) -> None:
        """The process's life, watched from outside of it."""
        try:
            if isinstance(self._loop, SimLoop):
                await self._loop.run_in(self.process, self._main())
            else:
                await self._loop.create_task(
                    self._main(), name=self.process, context=process_context(self.process)
                )
        except ProcessKilled:
            return
        finally:
            if self.state is not State.KILLED:
                self.state = State.STOPPED

    async def _main(self) -> None:
        """What the process's main function does."""
        surroundings = self._surroundings()
        try:
            async with self._app(surroundings):
                self.state = State.RUNNING
                self._serving.set_result(None)
                await self._stopping.wait()
        finally:
            await surroundings.network.close()
            await surroundings.coordinator.close()

    @asynccontextmanager
    async def _app(self, surroundings: Surroundings) -> AsyncGenerator[None, None]:
        if self.kind is Kind.NODE:
            async with run_node(self._settings, surroundings, self._world.registry) as self.node:
                yield
        else:
            async with run_gate(self._settings, surroundings) as self.gate:
                yield

    def _surroundings(self) -> Surroundings:
        world = self._world
        if isinstance(self._loop, SimLoop):
            runtime = sim_runtime(world.seed, self.process, loop=self._loop)
            record = self._loop.record
        else:
            runtime, record = Runtime(), lambda line: None
        channel = FaultyChannel(world.faults, self.name, record=record)
        return Surroundings(
            runtime=runtime,
            coordinator=world.coordinator.connect(runtime, channel),
            network=world.hub.network(self.name),
            machine=SteadyMachine(),
            metrics=self.metrics,
            stop=self._stopping.set,
            store=world.store.connect(
                FaultyChannel(world.faults, self.name, record=record, server=STORE),
                operation_timeout_s=STORE_TIMEOUT_S,
            ),
        )
