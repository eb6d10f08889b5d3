"""A gate in front of one catalog, without a cluster between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import goverse
from goverse.aio.runtime import Runtime
from goverse.call import Call, CallTarget, Reply
from goverse.config.settings import LimitSettings, ObjectSettings
from goverse.errors import ApplicationError
from goverse.ids import Epoch, MemberId
from goverse.objects import Catalog, Registry
from goverse.observability.metrics import Metrics
from goverse.sharding import shard_of
from goverse.transport.carrier import Listener, Network
from goverse.transport.link import LinkConfig
from goverse_gate.clients import Clients
from goverse_gate.gate_service import GateService
from goverse_gate.ingress import Ingress
from goverse_gate.session import Sessions
from tests.support.forwarding import Forwarding

SHARDS = 4


class Counter(goverse.Object):
    """A counter per id."""

    value: int = 0

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @goverse.method
    async def refuse(self, code: str) -> None:
        raise ApplicationError(code, "refused", {"value": self.value})

    @goverse.method
    async def fail(self) -> None:
        raise KeyError("inside")

    @goverse.method
    async def echo(self, text: str) -> str:
        return text

    @goverse.method
    async def client(self) -> str:
        return goverse.context().client_id

    @goverse.method
    async def remaining_s(self) -> float:
        return goverse.context().deadline - asyncio.get_running_loop().time()

    @goverse.method(read_only=True)
    async def wait(self) -> None:
        await asyncio.Event().wait()


class _Facts:
    node_name = "n1"

    def lease_valid(self) -> bool:
        return True

    def shard_of(self, id: str) -> int:
        return shard_of(id, SHARDS)


class _Node(Forwarding):
    """Each call in a task of its own, as it would come over a link."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def invoke(self, call: Call) -> Reply:
        return await asyncio.create_task(self._run(call))

    async def _run(self, call: Call) -> Reply:
        return await self._catalog.invoke(call)


@dataclass
class Hosted:
    catalog: Catalog
    ingress: Ingress
    metrics: Metrics
    clients: Clients
    sessions: Sessions
    service: GateService
    listener: Listener


@asynccontextmanager
async def hosted(
    network: Network,
    address: str,
    limits: LimitSettings | None = None,
    *classes: type[goverse.Object],
) -> AsyncIterator[Hosted]:
    limits = limits or LimitSettings()
    registry = Registry()
    for cls in (Counter, *classes):
        registry.add(cls)
    runtime, metrics = Runtime(), Metrics("g1")
    catalog = Catalog(registry, _Facts(), _nobody(), ObjectSettings(), limits, runtime)
    for shard in range(SHARDS):
        await catalog.shards.open_shard(shard, Epoch(1, 1))
    ingress = Ingress(_Node(catalog), limits, metrics)
    clients = Clients(ingress, "g1", limits, runtime.random, metrics, resume_grace_s=30)
    sessions = Sessions(clients, lambda: MemberId("g1", "x"), LinkConfig(limits, runtime, "g1"))
    service = GateService(ingress, clients, limits)
    listener = await network.listen(address, sessions.accept, services=(service.handler(),))
    try:
        yield Hosted(catalog, ingress, metrics, clients, sessions, service, listener)
    finally:
        clients.close("this gate is stopping")
        await service.close(1)
        await sessions.close(1)
        await listener.close()
        await catalog.stop(1)


def _nobody() -> CallTarget:
    class Nobody:
        async def invoke(self, call: Call) -> Reply:
            raise NotImplementedError

    return Nobody()
