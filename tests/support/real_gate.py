"""A node and a gate from their composition roots, on real ports, with the coordinator in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import goverse
from goverse.aio.runtime import Runtime
from goverse.cluster.surroundings import Surroundings
from goverse.config.settings import ClusterSettings, GateSettings, NodeSettings, Settings
from goverse.coordination.memory import MemoryStore
from goverse.objects import Registry
from goverse.observability.metrics import Metrics
from goverse.storage.api import Store
from goverse.transport.tcp_network import TcpNetwork
from goverse_gate.app import Gate, run_gate
from goverse_node.app import Node, run_node
from tests.support.eventually import eventually

SETTINGS = Settings(
    cluster=ClusterSettings(
        coordinator="memory://", lease_ttl_s=3.0, stability_duration_s=0.1, initial_num_shards=8
    ),
    node=NodeSettings(id="n1", listen="127.0.0.1:0", ops_listen="off", shutdown_timeout_s=2.0),
    gate=GateSettings(
        id="g1",
        listen="127.0.0.1:0",
        http_listen="127.0.0.1:0",
        ops_listen="off",
        shutdown_timeout_s=2.0,
    ),
)


class Kept(Protocol):
    """A store that several processes share; `goverse.storage.memory.MemoryStore` is one."""

    def connect(self) -> Store: ...


@dataclass(frozen=True)
class Running:
    gate: Gate
    node: Node


@asynccontextmanager
async def real_gate(
    *classes: type[goverse.Object], kept: Kept | None = None
) -> AsyncIterator[Running]:
    """Ready to be called.

    :param kept: where durable objects are kept.
    """
    runtime = Runtime()
    store = MemoryStore(runtime)
    registry = Registry()
    for cls in classes:
        registry.add(cls)

    def surroundings() -> Surroundings:
        return Surroundings(
            coordinator=store.connect(runtime),
            network=TcpNetwork(),
            runtime=runtime,
            metrics=Metrics(),
            store=kept.connect() if kept is not None else None,
        )

    of_node, of_gate = surroundings(), surroundings()
    try:
        async with (
            run_node(SETTINGS, of_node, registry) as node,
            run_gate(SETTINGS, of_gate) as gate,
        ):
            await eventually(lambda: gate.readiness().ready)
            yield Running(gate, node)
    finally:
        for one in (of_gate, of_node):
            await one.network.close()
            await one.coordinator.close()
