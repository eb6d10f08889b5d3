"""A gate with real HTTP in front of nodes, in this process, so that its snapshots can be read."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from goverse.aio.limits import Limit
from goverse.aio.runtime import Runtime
from goverse.cluster.surroundings import Surroundings
from goverse.config.settings import ClusterSettings, GateSettings, NodeSettings, Settings
from goverse.coordination.memory import MemoryStore
from goverse.objects import Object, Registry
from goverse.observability.metrics import Metrics
from goverse.transport.loopback import LoopbackHub
from goverse_gate.app import Gate, run_gate
from goverse_node.app import Node, run_node
from tests.support.eventually import eventually

SETTINGS = Settings(
    cluster=ClusterSettings(
        coordinator="memory://", lease_ttl_s=10.0, stability_duration_s=0.1, initial_num_shards=16
    ),
    node=NodeSettings(ops_listen="off", shutdown_timeout_s=2.0),
    gate=GateSettings(
        id="g1",
        listen="g1:49000",
        http_listen="127.0.0.1:0",
        ops_listen="off",
        shutdown_timeout_s=2.0,
    ),
)


class World:
    """Start nodes and gates with one coordinator and one network in memory."""

    def __init__(self) -> None:
        self.hub = LoopbackHub()
        self.runtime = Runtime()
        self.store = MemoryStore(self.runtime)

    def _surroundings(self, name: str) -> Surroundings:
        return Surroundings(
            coordinator=self.store.connect(self.runtime),
            network=self.hub.network(name),
            runtime=self.runtime,
            metrics=Metrics(),
        )

    @asynccontextmanager
    async def gate(self, settings: Settings = SETTINGS) -> AsyncIterator[Gate]:
        surroundings = self._surroundings("g1")
        async with run_gate(settings, surroundings) as gate:
            yield gate
        await surroundings.coordinator.close()

    @asynccontextmanager
    async def node(self, name: str, *classes: type[Object]) -> AsyncIterator[Node]:
        registry = Registry()
        for cls in classes:
            registry.add(cls)
        node = dataclasses.replace(SETTINGS.node, id=name, listen=f"{name}:48000")
        surroundings = self._surroundings(name)
        settings = dataclasses.replace(SETTINGS, node=node)
        async with run_node(settings, surroundings, registry) as running:
            yield running
        await surroundings.coordinator.close()


@asynccontextmanager
async def http_world(
    *classes: type[Object], nodes: int = 2
) -> AsyncIterator[tuple[Gate, list[Node]]]:
    """``nodes`` nodes that host ``classes``, and a gate that is ready."""
    world = World()
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(world.node(f"n{number + 1}", *classes))
            for number in range(nodes)
        ]
        gate = await stack.enter_async_context(world.gate())
        await eventually(
            lambda: gate.readiness().ready and len(gate.pool.connected()) == nodes, 10.0
        )
        yield gate, running


#: Fields of snapshots that count what is under way, or hold it: zero where all is at rest. A
#: field that is new must be put into one of the two, which a test sees to.
AT_REST = frozenset(
    [
        "assemblies", "away", "bytes", "calls", "clients", "connections", "dialling", "fetching",
        "held", "held_bytes", "holders", "local_calls", "messages", "moving", "opening",
        "queued_bytes", "queued_frames", "releasing", "requests", "running", "running_tasks",
        "sending", "served_bytes", "served_calls", "sessions", "streams", "used", "waiting",
        "waiting_bytes", "waiting_calls",
    ]
)  # fmt: skip
#: What else snapshots count: state of the cluster, and what only ever grows.
STATE = frozenset(
    [
        "age_s", "by_transport", "capacity", "claimed", "closing", "contact_age_s",
        "create_revision", "current", "doors", "epoch", "generation", "idle_s", "inbound_links",
        "joins", "leading", "lease", "lease_remaining_s", "links", "loaded", "losses",
        "messages_received", "messages_sent", "number", "objects", "oldest_unclaimed_s", "open",
        "owned", "plans", "revision", "shard", "silent_s", "stable", "standing", "stopped",
        "targeted", "transactions", "valid", "weight",
    ]
)  # fmt: skip


def unrest(*snapshots: Any) -> list[str]:
    """Where in ``snapshots`` something is still under way: ``path=value``."""
    return [
        f"{path}={value}"
        for snapshot in snapshots
        for path, value in _numbers(snapshot, type(snapshot).__name__)
        if field_of(path) in AT_REST and value
    ]


def field_of(path: str) -> str:
    """The name of the field that ``path`` ends in, without an index."""
    return path.rpartition(".")[2].partition("[")[0]


def numbers(snapshot: Any) -> Iterator[tuple[str, Any]]:
    return _numbers(snapshot, type(snapshot).__name__)


def _numbers(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Limit):
        yield f"{path}.{'standing' if value.standing else 'used'}", value.used
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _numbers(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{path}[{key}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _numbers(item, f"{path}[{index}]")
    elif isinstance(value, int | float):
        yield path, value
