"""A node and two gates on real ports, each of which can be stopped by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import goverse
from goverse.aio.runtime import Runtime
from goverse.cluster.surroundings import Surroundings
from goverse.config.settings import Settings
from goverse.coordination.memory import MemoryStore
from goverse.objects import Registry
from goverse.observability.metrics import Metrics
from goverse.transport.tcp_network import TcpNetwork
from goverse_gate.app import Gate, run_gate
from goverse_node.app import Node, run_node
from tests.support.eventually import eventually
from tests.support.real_gate import SETTINGS


@dataclass
class TwoGates:
    node: Node
    gates: dict[str, Gate] = field(default_factory=dict)
    lives: dict[str, AsyncExitStack] = field(default_factory=dict)

    def stop(self, name: str) -> asyncio.Task[None]:
        """Begin to stop a gate, as SIGTERM does."""
        return asyncio.ensure_future(self.lives.pop(name).aclose())


@asynccontextmanager
async def two_gates(
    *classes: type[goverse.Object], settings: Settings = SETTINGS, **gate: Any
) -> AsyncIterator[TwoGates]:
    """Ready to be called. :param gate: settings of both gates."""
    runtime = Runtime()
    store = MemoryStore(runtime)
    registry = Registry()
    for cls in classes:
        registry.add(cls)

    async def surroundings(stack: AsyncExitStack) -> Surroundings:
        made = Surroundings(
            coordinator=store.connect(runtime),
            network=TcpNetwork(),
            runtime=runtime,
            metrics=Metrics(),
        )
        stack.push_async_callback(made.coordinator.close)
        stack.push_async_callback(made.network.close)
        return made

    async with AsyncExitStack() as whole:
        node = await whole.enter_async_context(
            run_node(settings, await surroundings(whole), registry)
        )
        running = TwoGates(node)
        for name in ("g1", "g2"):
            life = running.lives[name] = AsyncExitStack()
            chosen = replace(settings, gate=replace(settings.gate, id=name, **gate))
            running.gates[name] = await life.enter_async_context(
                run_gate(chosen, await surroundings(life))
            )
        try:
            for one in running.gates.values():
                await eventually(lambda one=one: one.readiness().ready)
            yield running
        finally:
            for life in running.lives.values():
                await life.aclose()
