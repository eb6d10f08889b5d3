"""A gate from its composition root, with nodes, on loopback links; HTTP and operations are real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import httpx
import pytest

import goverse.client
from goverse.aio.runtime import Runtime
from goverse.cluster.surroundings import Surroundings
from goverse.config.settings import ClusterSettings, GateSettings, NodeSettings, Settings
from goverse.coordination.memory import MemoryStore
from goverse.errors import GoverseError, Unavailable
from goverse.objects import Registry
from goverse.observability.metrics import Metrics
from goverse.transport.loopback import LoopbackHub
from goverse_gate.app import Gate, run_gate
from goverse_node.app import Node, run_node
from tests.support.eventually import eventually
from tests.support.hosted import Counter

SETTINGS = Settings(
    cluster=ClusterSettings(
        coordinator="memory://", lease_ttl_s=3.0, stability_duration_s=0.1, initial_num_shards=8
    ),
    node=NodeSettings(ops_listen="off", shutdown_timeout_s=2.0),
    gate=GateSettings(
        id="g1",
        listen="g1:49000",
        http_listen="127.0.0.1:0",
        ops_listen="127.0.0.1:0",
        shutdown_timeout_s=2.0,
    ),
)


class World:
    def __init__(self) -> None:
        self.hub = LoopbackHub()
        self.runtime = Runtime()
        self.store = MemoryStore(self.runtime)
        self.metrics = Metrics()

    def _surroundings(self, name: str, metrics: Metrics) -> Surroundings:
        return Surroundings(
            coordinator=self.store.connect(self.runtime),
            network=self.hub.network(name),
            runtime=self.runtime,
            metrics=metrics,
        )

    @asynccontextmanager
    async def gate(self, settings: Settings = SETTINGS) -> AsyncIterator[Gate]:
        surroundings = self._surroundings("g1", self.metrics)
        async with run_gate(settings, surroundings) as gate:
            yield gate
        await surroundings.coordinator.close()

    @asynccontextmanager
    async def node(self, name: str) -> AsyncIterator[Node]:
        registry = Registry()
        registry.add(Counter)
        node = replace(SETTINGS.node, id=name, listen=f"{name}:48000")
        surroundings = self._surroundings(name, Metrics())
        async with run_node(replace(SETTINGS, node=node), surroundings, registry) as running:
            yield running
        await surroundings.coordinator.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    assert world.hub.connections() == 0


async def ready(gate: Gate) -> str:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://{gate.ops_address}/ready")
    return f"{answer.status_code} {answer.text}"


async def test_a_call_reaches_its_object_by_session_and_by_http(world: World) -> None:
    async with world.node("n1"), world.gate() as gate:
        await eventually(lambda: gate.readiness().ready)
        async with goverse.client.connect(
            "g1:49000", network=world.hub.network("client")
        ) as client:
            assert await client.get(Counter, "a").add(5) == 5
        url = f"http://{gate.http_address}/v1/objects/Counter"
        async with httpx.AsyncClient() as http:
            answer = await http.post(f"{url}/a/add", content=b'{"amount": 5}')
            assert (answer.status_code, answer.content) == (200, b"10")
            answer = await http.post(f"{url}/shard%235%2Fx/add")
            assert (answer.status_code, answer.content) == (200, b"1")
            answer = await http.post(f"{url}/a/refuse", content=b'{"code": "no_money"}')
            assert (answer.status_code, answer.json()["code"]) == (422, "no_money")
            for body in (b"{", b"[]", b'{"amount": "x"}', b'{"quantity": 1}', b"\xff"):
                answer = await http.post(f"{url}/a/add", content=body)
                told = answer.json()
                assert (answer.status_code, told["code"]) == (400, "invalid_argument"), body
                assert told["executed"] == "no"
            answer = await http.post(f"{url}/a/nothing")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        snapshot = gate.snapshot()
        assert snapshot.ingress.calls == 0
        assert snapshot.http is not None and snapshot.http.requests == 0


async def test_L23_readiness_follows_the_facts_and_never_latches(world: World) -> None:
    async with world.gate() as gate:
        assert "no shard has an owner" in await ready(gate)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(world.node("n1"))
            await eventually(lambda: gate.readiness().ready)
            assert await ready(gate) == "200 ready\nlinked 1/1\n"
        await eventually(lambda: not gate.readiness().ready)
        assert (await ready(gate)).startswith("503 not ready")
        async with world.node("n2"):
            await eventually(lambda: gate.readiness().ready)


async def test_L23_a_gate_whose_links_are_cut_is_not_ready(world: World) -> None:
    async with world.node("n1"), world.gate() as gate:
        await eventually(lambda: gate.readiness().ready)
        world.hub.set_policy(lambda source, destination: None)
        await eventually(lambda: not gate.readiness().ready)
        assert "no link to a node with shards" in str(gate.readiness())
        world.hub.set_policy(None)
        await eventually(lambda: gate.readiness().ready)


async def test_links_to_nodes_are_there_before_the_first_call(world: World) -> None:
    async with world.gate() as gate, world.node("n1"), world.node("n2"):
        await eventually(lambda: len(gate.pool.connected()) == 2)
        assert gate.ingress.snapshot().calls == 0


async def test_calls_follow_an_object_to_its_next_owner(world: World) -> None:
    async with world.gate() as gate, AsyncExitStack() as first:
        await first.enter_async_context(world.node("n1"))
        await eventually(lambda: gate.readiness().ready)
        async with goverse.client.connect(
            "g1:49000", network=world.hub.network("client")
        ) as client:
            assert await client.get(Counter, "a").add() == 1
            async with world.node("n2"):
                await first.aclose()
                assert await client.get(Counter, "a").add() >= 1
                owner = gate.member.view.owner_of_id("a")
                assert owner is not None and owner.member.name == "n2"


async def test_L19_a_gate_stops_while_clients_are_connected(world: World) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(world.node("n1"))
        gate_stack = await stack.enter_async_context(AsyncExitStack())
        gate = await gate_stack.enter_async_context(world.gate())
        await eventually(lambda: gate.readiness().ready)
        client = await stack.enter_async_context(
            goverse.client.connect("g1:49000", network=world.hub.network("client"))
        )
        http = await stack.enter_async_context(httpx.AsyncClient())
        url = f"http://{gate.http_address}/v1/objects/Counter/a"
        assert (await http.post(f"{url}/add")).status_code == 200
        hanging = [
            asyncio.ensure_future(client.get(Counter, "a").wait()),
            asyncio.ensure_future(http.post(f"{url}/wait", timeout=30)),
        ]
        await eventually(lambda: gate.ingress.snapshot().calls == 2)
        await asyncio.wait_for(gate_stack.aclose(), 10)
        with pytest.raises(GoverseError):
            await hanging[0]
        answer = await hanging[1]
        assert (answer.status_code, answer.json()["executed"]) == (503, "unknown")
        with pytest.raises(httpx.ConnectError):
            await http.post(f"{url}/add")
        assert gate.ingress.snapshot().calls == 0
        assert gate.sessions.snapshot().sessions == 0


async def test_an_idle_stop_is_quick_and_says_that_it_stops(world: World) -> None:
    async with world.node("n1"):
        async with AsyncExitStack() as stack:
            gate = await stack.enter_async_context(world.gate())
            await eventually(lambda: gate.readiness().ready)
            await asyncio.wait_for(stack.aclose(), 2)
        assert "stopping" in str(gate.readiness())
        assert "g1" not in {key.rpartition("/")[2] for key in world.store.list("/").items}


async def test_metrics_and_health_are_told(world: World) -> None:
    async with world.node("n1"), world.gate() as gate:
        await eventually(lambda: gate.readiness().ready)
        async with goverse.client.connect(
            "g1:49000", network=world.hub.network("client")
        ) as client:
            await client.get(Counter, "a").add(5)
            async with httpx.AsyncClient() as http:
                text = (await http.get(f"http://{gate.ops_address}/metrics")).text
                health = await http.get(f"http://{gate.ops_address}/healthz")
        assert (
            'goverse_operation_duration_seconds_count{member="g1",operation="call",status="ok"} 1.0'
            in text
        )
        assert "goverse_sessions 1.0" in text
        assert "goverse_links 1.0" in text
        assert health.status_code == 200


async def test_an_address_that_is_taken_is_told(world: World) -> None:
    async with world.gate() as gate:
        taken = replace(SETTINGS.gate, listen="g1:49001", http_listen=gate.http_address)
        other = World()
        with pytest.raises(OSError, match=gate.http_address):
            async with other.gate(replace(SETTINGS, gate=taken)):
                pass
        assert other.hub.connections() == 0


async def test_a_client_waits_for_a_gate_that_restarts(world: World) -> None:
    async with world.node("n1"), AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        await first.enter_async_context(world.gate())
        client = await stack.enter_async_context(
            goverse.client.connect("g1:49000", network=world.hub.network("client"))
        )
        assert await client.get(Counter, "a").add() == 1
        await first.aclose()
        waiting = asyncio.ensure_future(client.get(Counter, "a").add())
        await eventually(lambda: client.snapshot().session.waiting == 1)
        await stack.enter_async_context(world.gate())
        assert await waiting == 2


async def test_without_a_gate_connecting_says_what_to_do(world: World) -> None:
    with pytest.raises(Unavailable, match="goverse-gate serve"):
        async with goverse.client.connect("g1", network=world.hub.network("client")):
            pass
