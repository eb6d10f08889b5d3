"""Objects that push, and a gate in front of them whose HTTP is real."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import goverse
from goverse.aio.runtime import Runtime
from goverse.cluster.surroundings import Surroundings
from goverse.config.settings import (
    ClusterSettings,
    GateSettings,
    LimitSettings,
    NodeSettings,
    Settings,
)
from goverse.coordination.memory import MemoryStore
from goverse.errors import ApplicationError
from goverse.objects import Registry
from goverse.observability.metrics import Metrics
from goverse.transport.loopback import LoopbackHub
from goverse_gate.app import Gate, run_gate
from goverse_node.app import Node, run_node
from tests.support.eventually import eventually


@goverse.message
class Note:
    """What the objects of these tests push."""

    number: int
    text: str = ""


class Room(goverse.Object):
    """Pushes to whoever joined."""

    members: list[str] = []
    number: int = 0

    @goverse.method
    async def join(self) -> str:
        client = goverse.context().client_id
        self.members = [*self.members, client]
        return client

    @goverse.method
    async def say(self, text: str = "", fail: bool = False) -> int:
        self.number += 1
        goverse.push(self.members, Note(self.number, text))
        if fail:
            raise ApplicationError("no", "as it was told")
        return self.number

    @goverse.method
    async def shout(self, text: str) -> None:
        goverse.broadcast(Note(0, text))

    @goverse.method
    async def burst(self, count: int) -> None:
        for number in range(count):
            goverse.push(self.members, Note(number))

    @goverse.method
    async def tell(self, client: str, text: str) -> None:
        goverse.push(client, Note(0, text))

    @goverse.method
    async def say_through(self, other: str, fail: bool = False) -> None:
        goverse.push(self.members, Note(1, "before"))
        await goverse.get(Room, other).tell(self.members[0], "inner")
        goverse.push(self.members, Note(2, "after"))
        if fail:
            raise ApplicationError("no")


def outcomes(metrics: Metrics) -> dict[str, float]:
    """What a process says became of pushes."""
    return {outcome: n for (outcome,), n in metrics.pushes.children().items()}


@dataclass
class World:
    """A node and its gates, on loopback links."""

    hub: LoopbackHub = field(default_factory=LoopbackHub)
    runtime: Runtime = field(default_factory=Runtime)
    metrics: dict[str, Metrics] = field(default_factory=dict)
    store: MemoryStore = field(init=False)
    settings: Settings = field(init=False)
    node: Node = field(init=False)

    def __post_init__(self) -> None:
        self.store = MemoryStore(self.runtime)
        self.settings = Settings(
            cluster=ClusterSettings(
                coordinator="memory://",
                lease_ttl_s=3.0,
                stability_duration_s=0.1,
                initial_num_shards=8,
            ),
            node=NodeSettings(id="n1", listen="n1:48000", ops_listen="off"),
        )

    def _surroundings(self, name: str) -> Surroundings:
        self.metrics[name] = Metrics(name)
        return Surroundings(
            coordinator=self.store.connect(self.runtime),
            network=self.hub.network(name),
            runtime=self.runtime,
            metrics=self.metrics[name],
        )

    @asynccontextmanager
    async def running_node(self) -> AsyncIterator[Node]:
        registry = Registry()
        registry.add(Room)
        surroundings = self._surroundings("n1")
        async with run_node(self.settings, surroundings, registry) as self.node:
            yield self.node
        await surroundings.coordinator.close()

    @asynccontextmanager
    async def gate(
        self, name: str = "g1", limits: LimitSettings | None = None, **gate: Any
    ) -> AsyncIterator[Gate]:
        chosen = GateSettings(
            id=name,
            listen=f"{name}:49000",
            ops_listen="off",
            shutdown_timeout_s=2.0,
            **{"http_listen": "127.0.0.1:0", **gate},
        )
        settings = replace(self.settings, gate=chosen, limits=limits or self.settings.limits)
        surroundings = self._surroundings(name)
        async with run_gate(settings, surroundings) as running:
            await eventually(lambda: running.readiness().ready)
            yield running
        await surroundings.coordinator.close()
