"""A whole cluster in one process, made of the same composition roots as the real one.

Coordinator and links are in memory; everything else is the code that runs in production. In
virtual time (`goverse.testing.run_virtual`, or the pytest mark ``virtual_time``) nodes can also
be killed and paused, and minutes pass in milliseconds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType

from goverse import client as client_library
from goverse.aio.runtime import Runtime
from goverse.cluster.admin import pin_shard, unpin_shard
from goverse.cluster.keys import Keys
from goverse.cluster.records import ClaimValue, decode
from goverse.config.settings import ClusterSettings, LimitSettings, Settings
from goverse.coordination import memory as coordination
from goverse.coordination.api import KeyValue
from goverse.objects import Object, Registry, load_modules
from goverse.sharding.placement import NODE_SHARD, node_of, shard_of
from goverse.storage import memory as storage
from goverse.testing.faults import Faults, FaultsSnapshot
from goverse.testing.loop import SimLoop, sim_runtime
from goverse.testing.member import Kind, Member, MemberSnapshot, World
from goverse.transport.loopback import LoopbackHub

#: Short enough for tests in real time, long enough for a busy machine.
TEST_SETTINGS = Settings(
    cluster=ClusterSettings(
        coordinator="memory://", lease_ttl_s=3.0, stability_duration_s=0.2, initial_num_shards=16
    )
)


@dataclass(frozen=True)
class ClusterSnapshot:
    """What can be seen from outside.

    :param owners: names of the nodes that hold the claims, by shard.
    """

    num_shards: int
    owners: dict[int, str]
    members: tuple[MemberSnapshot, ...]
    faults: FaultsSnapshot


class Cluster:
    """Nodes and gates under test; an async context manager that stops them in the end.

    ::

        async with Cluster(Counter, nodes=2) as cluster:
            client = await cluster.client()
            assert await client.get(Counter, "a").add(5) == 5

    :param objects: the classes that every node hosts; ``modules``: modules or files of such.
    :param nodes: nodes to start with, named n1, n2, ... :param gates: gates g1, g2, ...
    :param settings: for every member; names and addresses are filled in.
    :param seed: of all chance in the cluster. In virtual time: the same seed, the same run.
    :param latency_s: shortest and longest ordinary delay of a message.
    """

    def __init__(
        self,
        *objects: type[Object],
        modules: Sequence[str] = (),
        nodes: int = 1,
        gates: int = 1,
        settings: Settings = TEST_SETTINGS,
        seed: int = 0,
        latency_s: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.settings = settings
        self._first_nodes = [f"n{number + 1}" for number in range(nodes)]
        self._first_gates = [f"g{number + 1}" for number in range(gates)]
        self._seed = seed
        self._registry = Registry()
        for cls in objects:
            self._registry.add(cls)
        load_modules(modules, self._registry)
        self._faults = Faults(
            random.Random(f"faults:{seed}"), latency_s=latency_s, record=self._record
        )
        self._hub = LoopbackHub()
        self._hub.set_policy(self._faults.delay)
        self._keys = Keys(settings.cluster.etcd.prefix)
        self._members: dict[str, Member] = {}
        self._births: dict[str, int] = {}
        self._clients = AsyncExitStack()
        self._coordinator: coordination.MemoryStore | None = None
        self._store: storage.MemoryStore | None = None

    async def __aenter__(self) -> Cluster:
        self._coordinator = coordination.MemoryStore(
            self._runtime("coordinator"), start_revision=1_000
        )
        self._store = storage.MemoryStore(self._runtime("store"))
        try:
            await asyncio.gather(
                *(self.start_node(name) for name in self._first_nodes),
                *(self.start_gate(name) for name in self._first_gates),
            )
            if self._first_nodes:
                await self.wait_all_claimed()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End faults, then clients, gates and nodes, in this order."""
        self._faults.heal()
        await self._clients.aclose()
        for kind in (Kind.GATE, Kind.NODE):
            for member in [m for m in self._members.values() if m.kind is kind and m.alive]:
                member.resume() if member.paused else None
                await member.stop()

    # -- processes ------------------------------------------------------------------------------

    async def start_node(
        self, name: str, *, weight: float = 1.0, shutdown_mode: str = "permanent"
    ) -> Member:
        """Start a node, or start one again; returns when it serves."""
        node = replace(
            self.settings.node,
            shutdown_mode=shutdown_mode,
            id=name,
            listen=f"{name}:48000",
            advertise=f"{name}:48000",
            ops_listen="off",
            capacity=f"{weight:g}",
        )
        return await self._start(Kind.NODE, name, replace(self.settings, node=node))

    async def start_gate(self, name: str) -> Member:
        """Start a gate; returns when it serves."""
        gate = replace(
            self.settings.gate,
            id=name,
            listen=f"{name}:49000",
            advertise=f"{name}:49000",
            http_listen="off",
            ops_listen="off",
        )
        return await self._start(Kind.GATE, name, replace(self.settings, gate=gate))

    async def stop(self, name: str) -> None:
        """Stop a member in order: its replies are delivered, its shards handed over."""
        await self.member(name).stop()

    def kill(self, name: str) -> None:
        """End a member without a word. Virtual time only."""
        self._record(f"kill {name}")
        self.member(name).kill()

    def pause(self, name: str) -> None:
        """Give a member no more time, while time goes on. Virtual time only."""
        self._record(f"pause {name}")
        self.member(name).pause()

    def resume(self, name: str) -> None:
        """Let a paused member find out how late it is."""
        self._record(f"resume {name}")
        self.member(name).resume()

    def member(self, name: str) -> Member:
        """The latest process of that name. Raises KeyError."""
        return self._members[name]

    @property
    def members(self) -> tuple[Member, ...]:
        """The latest process of each name, in the order of first births."""
        return tuple(self._members.values())

    async def pin(self, shard: int, node: str | None) -> None:
        """Pin a shard to a node, or unpin it, as an operator does."""
        operator = self.coordinator.connect(self._runtime("operator"))
        try:
            if node is None:
                await unpin_shard(operator, self._keys, shard)
            else:
                await pin_shard(operator, self._keys, shard, node)
        finally:
            await operator.close()

    # -- faults ---------------------------------------------------------------------------------

    @property
    def faults(self) -> Faults:
        """Every fault there is; those below are the common ones."""
        return self._faults

    def cut(self, a: str, b: str) -> None:
        """Let nothing pass between two members, or a member and `COORDINATOR` or `STORE`."""
        self._faults.cut(a, b)

    def slow(self, a: str, b: str, delay_s: float) -> None:
        """Make messages between two members take ``delay_s`` longer."""
        self._faults.slow(a, b, delay_s)

    def heal(self) -> None:
        """End all faults of cables and coordinator. Paused members stay paused."""
        self._faults.heal()

    # -- looking --------------------------------------------------------------------------------

    @property
    def coordinator(self) -> coordination.MemoryStore:
        """The coordinator's data: the truth about who owns what."""
        assert self._coordinator is not None, "the cluster is used as an async context manager"
        return self._coordinator

    @property
    def store(self) -> storage.MemoryStore:
        """Where the nodes keep durable objects."""
        assert self._store is not None, "the cluster is used as an async context manager"
        return self._store

    @property
    def keys(self) -> Keys:
        return self._keys

    def claims(self) -> dict[int, KeyValue]:
        """Every claim that stands, by shard."""
        prefix = self._keys.prefix + "claims/"
        items = self.coordinator.list(prefix).items
        return {int(key[len(prefix) :]): value for key, value in items.items()}

    def owners(self) -> dict[int, str]:
        """Names of the nodes that hold claims, by shard."""
        return {
            shard: decode(item, ClaimValue).node for shard, item in sorted(self.claims().items())
        }

    def owner_of(self, id: str) -> str:
        """Name of the node that the object ``id`` lives on, or would; empty while there is none."""
        shard = shard_of(id, self.settings.cluster.initial_num_shards)
        return node_of(id) if shard == NODE_SHARD else self.owners().get(shard, "")

    async def wait_all_claimed(self, timeout_s: float = 30.0) -> None:
        """Until every shard is claimed by a node that runs, and open there. Raises TimeoutError."""
        await self.wait_until(self._all_claimed, timeout_s)

    async def wait_until(self, check: Callable[[], object], timeout_s: float = 30.0) -> None:
        """Until ``check()`` is true. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            # What is checked is spread over processes and has no event of its own.
            while not check():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def snapshot(self) -> ClusterSnapshot:
        return ClusterSnapshot(
            self.settings.cluster.initial_num_shards,
            self.owners(),
            tuple(member.snapshot() for member in self._members.values()),
            self._faults.snapshot(),
        )

    # -- clients --------------------------------------------------------------------------------

    async def client(
        self, gate: str = "g1", *, name: str = "client", limits: LimitSettings | None = None
    ) -> client_library.Client:
        """A connected client, closed with the cluster; see `connect`."""
        return await self._clients.enter_async_context(self.connect(gate, name=name, limits=limits))

    def connect(
        self, gate: str = "g1", *, name: str = "client", limits: LimitSettings | None = None
    ) -> AbstractAsyncContextManager[client_library.Client]:
        """A client for an ``async with`` block.

        :param gate: or several, separated by commas, of which one is used at a time.
        :param name: its process, for cuts between it and the gate. :param limits: its own.
        """
        return client_library.connect(
            *(f"{one}:49000" for one in gate.split(",")),
            limits=limits,
            network=self._hub.network(name),
            runtime=self._runtime(name),
        )

    # -- inside ---------------------------------------------------------------------------------

    async def _start(self, kind: Kind, name: str, settings: Settings) -> Member:
        if name in self._members and self._members[name].alive:
            raise ValueError(f"{name} runs already")
        number = self._births[name] = self._births.get(name, 0) + 1
        self._record(f"start {name}#{number}")
        world = World(
            self._hub, self.coordinator, self.store, self._faults, self._registry, self._seed
        )
        member = self._members[name] = Member(world, kind, name, number, settings)
        await member.wait_serving()
        return member

    def _all_claimed(self) -> bool:
        owners = self.owners()
        running = [m.name for m in self._members.values() if m.alive and m.kind is Kind.NODE]
        return len(owners) == self.settings.cluster.initial_num_shards and all(
            owner in running for owner in owners.values()
        )

    def _runtime(self, name: str) -> Runtime:
        loop = asyncio.get_running_loop()
        if isinstance(loop, SimLoop):
            return sim_runtime(self._seed, name, loop=loop)
        return Runtime()

    @staticmethod
    def _record(line: str) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(loop, SimLoop):
            loop.record(line)
