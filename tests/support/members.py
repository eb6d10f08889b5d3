"""Members of a cluster as simulated processes in virtual time, without objects or links.

``@in_world(shards=16)`` turns ``async def test(world)`` into a test. Every host checks, each time
a shard is opened, that nobody else serves it under a lease he may believe in.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from goverse.cluster import GateMember, Identity, Keys, Kind, LeaveMode, NodeMember
from goverse.cluster.loads import LoadSource
from goverse.config.settings import ClusterSettings, LimitSettings
from goverse.coordination import Compare, Coordinator, CoordinatorUnavailable, Delete, Put
from goverse.coordination.api import KeyValue, Lease, Snapshot, TxnResult, Watch
from goverse.coordination.memory import MemoryStore
from goverse.errors import Unavailable
from goverse.ids import NO_EPOCH, Epoch
from goverse.observability.metrics import Metrics
from goverse.sharding import NODE_SHARD
from goverse.testing.channel import FaultyChannel
from goverse.testing.faults import COORDINATOR, Faults
from goverse.testing.loop import SimLoop, run_virtual, sim_runtime

TTL_S = 3.0


@dataclass
class Host:
    """A `ShardHost` that serves nothing, and remembers all it was told."""

    process: Process
    open: dict[int, Epoch] = field(default_factory=dict)
    opened: list[tuple[int, Epoch]] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    busy: dict[int, bool] = field(default_factory=dict)
    """Shards whose turns do not end."""
    broken: dict[int, bool] = field(default_factory=dict)
    """Shards that cannot be opened."""
    away: bool = False
    """Whether its store cannot be reached, so that no shard can be opened for now."""
    refusals: int = 0
    wanted: list[tuple[int, float]] = field(default_factory=list)
    """Every attempt to close a shard, and for how long that had been wanted."""
    close_s: float = 0.001
    released: dict[int, Epoch] = field(default_factory=dict)
    """What was said of the claims before."""

    async def open_shard(self, shard: int, epoch: Epoch, *, released: Epoch = NO_EPOCH) -> None:
        if self.broken.get(shard):
            raise RuntimeError(f"shard {shard} is broken")
        if self.away:
            self.refusals += 1
            raise Unavailable("the store is away")
        self.process.world.check_opening(self.process, shard, epoch)
        self.open[shard] = epoch
        self.opened.append((shard, epoch))
        self.released[shard] = released

    async def close_shard(
        self, shard: int, *, drain_timeout_s: float, wanted_s: float = 0.0
    ) -> bool:
        self.wanted.append((shard, wanted_s))
        if self.busy.get(shard):
            await asyncio.sleep(drain_timeout_s)
            return False
        await asyncio.sleep(self.close_s)
        self.open.pop(shard, None)
        return True

    def discard_all(self, reason: str) -> None:
        self.discarded.append(reason)
        self.open.clear()

    @property
    def shards(self) -> list[int]:
        return sorted(shard for shard in self.open if shard != NODE_SHARD)


class Loose(Coordinator):
    """A coordinator's client whose answers can be lost, or come late, after the work was done."""

    def __init__(self, inner: Coordinator) -> None:
        self._inner = inner
        self.lose: Callable[[Sequence[Put | Delete]], bool] = lambda operations: False
        self.before: Callable[[Sequence[Put | Delete]], None] = lambda operations: None
        self.answers: Callable[[Sequence[Put | Delete]], Awaitable[None]] | None = None
        self.results: list[tuple[Sequence[Put | Delete], bool]] = []
        self.lost = 0
        self.grants = 0

    async def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TxnResult:
        self.before(operations)
        result = await self._inner.transact(compares, operations)
        self.results.append((operations, result.succeeded))
        if self.answers is not None:
            await self.answers(operations)
        if self.lose(operations):
            self.lost += 1
            raise CoordinatorUnavailable("the answer was lost")
        return result

    async def get(self, key: str) -> KeyValue | None:
        return await self._inner.get(key)

    async def list(self, prefix: str) -> Snapshot:
        return await self._inner.list(prefix)

    def watch(self, prefix: str) -> Watch:
        return self._inner.watch(prefix)

    async def grant(self, ttl_s: float) -> Lease:
        self.grants += 1
        return await self._inner.grant(ttl_s)

    def snapshot(self) -> Any:
        return self._inner.snapshot()

    async def close(self) -> None:
        await self._inner.close()


class Process:
    """One simulated process with one member. A restarted one is another process."""

    def __init__(self, world: World, name: str, kind: Kind, settings: ClusterSettings) -> None:
        self.world = world
        self.name = name
        self.kind = kind
        self.process = f"{name}#{world.births}"
        self.runtime = sim_runtime(world.seed, self.process, loop=world.loop)
        channel = FaultyChannel(world.faults, self.process)
        inner = world.store.connect(self.runtime, channel, operation_timeout_s=5.0)
        self.coordinator = Loose(inner)
        self.host = Host(self)
        self.metrics = Metrics()
        limits = LimitSettings(max_waiting_calls=100)
        made = NodeMember if kind is Kind.NODE else GateMember
        self.member = made(self.coordinator, settings, limits, self.runtime)
        self.member.membership.on_lost(self.host.discard_all)

    @property
    def node(self) -> NodeMember:
        assert isinstance(self.member, NodeMember)
        return self.member

    async def run(self, weight: float) -> None:
        if isinstance(self.member, NodeMember):
            loads = self.world.loads
            self.member.prepare(self.host, self.metrics, drain_timeout_s=0.5, loads=loads)
        await self.member.start_view()
        await self.member.start(Identity(self.kind, self.name, f"{self.name}:1", weight=weight))

    def kill(self) -> None:
        self.world.loop.kill(self.process)

    def pause(self) -> None:
        self.world.loop.pause(self.process)

    def resume(self) -> None:
        self.world.loop.resume(self.process)

    def cut(self) -> None:
        self.world.faults.cut(self.process, COORDINATOR)

    def mend(self) -> None:
        self.world.faults.mend(self.process, COORDINATOR)

    async def drain(
        self, mode: LeaveMode = LeaveMode.PERMANENT, *, timeout_s: float = 10.0
    ) -> bool:
        coro = self.node.drain(mode, timeout_s=timeout_s)
        return await self.world.loop.run_in(self.process, coro)

    async def stop(self) -> None:
        await self.world.loop.run_in(self.process, self.member.stop())
        await self.world.loop.run_in(self.process, self.coordinator.close())

    @property
    def dead(self) -> bool:
        return self.world.loop.is_killed(self.process)


class World:
    def __init__(self, loop: SimLoop, seed: int, settings: ClusterSettings) -> None:
        self.loop = loop
        self.seed = seed
        self.settings = settings
        self.random = random.Random(f"world:{seed}")
        self.faults = Faults(random.Random(f"faults:{seed}"), latency_s=(0.0002, 0.002))
        self.store = MemoryStore(sim_runtime(seed, "store", loop=loop))
        self.keys = Keys(settings.etcd.prefix)
        self.births = 0
        self.processes: list[Process] = []
        self.epochs: dict[tuple[str, int], Epoch] = {}
        self.violations: list[str] = []
        #: What nodes that start from now on ask for loads.
        self.loads: LoadSource | None = None

    # -- members ------------------------------------------------------------------------------

    def spawn(
        self, name: str, kind: Kind = Kind.NODE, *, weight: float = 1.0, **over: Any
    ) -> Process:
        """Start a process; it joins in its own time."""
        self.births += 1
        process = Process(self, name, kind, replace(self.settings, **over))
        self.processes.append(process)
        self.loop.spawn(process.process, process.run(weight))
        return process

    async def node(self, name: str, *, weight: float = 1.0, **over: Any) -> Process:
        """Start a node and wait until it is registered."""
        process = self.spawn(name, weight=weight, **over)
        await self.until(lambda: process.member.membership.member is not None)
        return process

    async def gate(self, name: str) -> Process:
        process = self.spawn(name, Kind.GATE)
        await self.until(lambda: process.member.membership.member is not None)
        return process

    # -- time ---------------------------------------------------------------------------------

    async def until(self, check: Callable[[], bool], timeout_s: float = 60.0) -> float:
        """Wait until ``check`` holds; returns how long that took. Virtual time costs nothing."""
        started = self.loop.time()
        while not check():
            if self.loop.time() - started > timeout_s:
                raise AssertionError(f"not within {timeout_s} s: {inspect.getsource(check)}")
            await asyncio.sleep(0.01)
        return self.loop.time() - started

    async def passes(self, seconds: float) -> None:
        """Let virtual time pass: for what must not happen meanwhile."""
        await asyncio.sleep(seconds)

    # -- what is so ---------------------------------------------------------------------------

    @property
    def live(self) -> list[Process]:
        return [p for p in self.processes if not p.dead and p.kind is Kind.NODE]

    def all_open(self) -> bool:
        """Every shard is served by somebody whose lease holds."""
        served = sorted(shard for p in self.live if p.member.valid() for shard in p.host.shards)
        return served == list(range(self.settings.initial_num_shards))

    def settled(self) -> bool:
        """Everything is served, and where it is targeted."""
        return self.all_open() and all(
            self.targets().get(shard) == p.name
            for p in self.live
            if p.member.valid()
            for shard in p.host.shards
        )

    def items(self, folder: str) -> dict[str, KeyValue]:
        prefix = f"{self.keys.prefix}{folder}/"
        return {key[len(prefix) :]: item for key, item in self.store.list(prefix).items.items()}

    def targets(self) -> dict[int, str]:
        view = self.live[0].member.view if self.live else None
        assert view is not None
        return {shard: target.node for shard, target in view.state.targets.items()}

    def put(self, key: str, value: bytes, lease: int = 0) -> None:
        """Write by hand, as an operator with the wrong tool would."""
        assert self.store.transact([], [Put(key, value, lease)]).succeeded

    def delete(self, key: str) -> None:
        assert self.store.transact([], [Delete(key)]).succeeded

    @property
    def leader(self) -> Process:
        return next(p for p in self.live if p.node.leadership.leading)

    def check_opening(self, opener: Process, shard: int, epoch: Epoch) -> None:
        """Nobody else may serve ``shard`` who still believes in his lease.

        Noted, not raised: whoever opens shards survives an exception, as he should.
        """
        if not opener.member.valid():
            self.violations.append(f"shard {shard} is opened by {opener.process} without a lease")
        for other in self.processes:
            if other is opener or other.dead or shard == NODE_SHARD:
                continue
            if shard in other.host.open and other.member.valid():
                self.violations.append(
                    f"shard {shard} is served by {other.process} and opened by {opener.process}"
                )
        place = (opener.name if shard == NODE_SHARD else "", shard)
        before = self.epochs.get(place)
        if before is not None and before >= epoch:
            self.violations.append(f"shard {shard}: epoch {epoch} after {before}")
        self.epochs[place] = epoch


def in_world(
    *, shards: int = 16, seed: int = 1, **over: Any
) -> Callable[[Callable[[World], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """Run a test in virtual time, in a world with an empty coordinator."""

    def decorate(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        def run(*args: Any, **kwargs: Any) -> None:
            async def main(loop: SimLoop) -> None:
                settings = ClusterSettings(
                    initial_num_shards=shards,
                    lease_ttl_s=TTL_S,
                    stability_duration_s=0.5,
                    restart_grace_s=8.0,
                    loop_stall_limit_s=TTL_S,
                )
                chosen = kwargs.get("seed", seed)
                world = World(loop, chosen, replace(settings, **over))
                await function(world, *args, **kwargs)
                assert world.violations == []
                assert loop.errors == []

            run_virtual(main, seed=kwargs.get("seed", seed), max_time_s=600.0)

        functools.update_wrapper(run, function)
        del run.__wrapped__  # type: ignore[attr-defined]
        parameters = list(inspect.signature(function).parameters.values())[1:]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate
