"""The composition root of a gate: `run_gate` reads top to bottom in the order of starting.

Stopping is the mirror: clients first, while every node can still be reached, and the key in the
coordinator last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from goverse.aio.limits import Bounded, Limit, fullest
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.call import CallTarget
from goverse.cluster.member import GateMember, MemberSnapshot
from goverse.cluster.records import Kind
from goverse.cluster.registration import Identity
from goverse.cluster.surroundings import Surroundings
from goverse.config.addresses import advertised, member_name
from goverse.config.settings import Settings
from goverse.errors import PermissionDenied
from goverse.ids import MemberId
from goverse.observability.health import LoopWatchdog, Readiness
from goverse.observability.metrics import Metrics
from goverse.observability.ops_server import OpsServer
from goverse.routing import Router
from goverse.routing.metrics import RouterMetrics
from goverse.transport.carrier import Listener
from goverse.transport.hello import Hello, Role, our_hello
from goverse.transport.link import Link, LinkConfig
from goverse.transport.pool import LinkPool, PoolSnapshot
from goverse_gate.clients import Clients, ClientsSnapshot
from goverse_gate.events import CompatibleEvents, EventStream, OwnEvents
from goverse_gate.gate_service import GateService, GateServiceSnapshot
from goverse_gate.http_app import HttpApp, HttpLimits, HttpSnapshot
from goverse_gate.http_compat import CompatibleCalls
from goverse_gate.http_front import Doors, Front
from goverse_gate.http_server import HttpServer, HttpServerSnapshot, open_http
from goverse_gate.ingress import Ingress, IngressSnapshot
from goverse_gate.node_links import NodeLinks
from goverse_gate.node_types import NodeTypes, NodeTypesSnapshot
from goverse_gate.openapi_page import OpenApiPage
from goverse_gate.pushes import PushTarget
from goverse_gate.readiness import gate_readiness
from goverse_gate.session import Sessions, SessionsSnapshot
from goverse_gate.websocket import WebSocketEvents

log = logging.getLogger(__name__)

#: What clients are told when they must go.
STOPPING = "this gate is stopping: connect again, to another"

#: A gRPC client that has asked nothing for so long has heard that it should go elsewhere.
GRPC_QUIET_S = 0.25

#: For links to nodes to say goodbye, once no client is left.
LINK_CLOSE_S = 2.0


@dataclass(frozen=True)
class GateSnapshot:
    """One gate in numbers; ``http`` and ``http_server`` are None where HTTP is off, and
    ``limits`` has of each kind the fullest."""

    member: MemberSnapshot
    pool: PoolSnapshot
    ingress: IngressSnapshot
    sessions: SessionsSnapshot
    clients: ClientsSnapshot
    gate_service: GateServiceSnapshot
    node_types: NodeTypesSnapshot
    http: HttpSnapshot | None
    http_server: HttpServerSnapshot | None
    limits: tuple[Limit, ...]


class Gate:
    """A running gate, made by `run_gate`."""

    def __init__(
        self, name: str, member: GateMember, pool: LinkPool, ingress: Ingress, sessions: Sessions
    ) -> None:
        self.node_types = NodeTypes(member.view, pool)
        self.name = name
        self.member = member
        self.pool = pool
        self.ingress = ingress
        self.sessions = sessions
        self.stopping = False
        self.address = ""
        self.http_address = ""
        self.ops_address = ""
        self.listener: Listener
        self.clients: Clients
        self.gate_service: GateService
        self.ops: OpsServer | None = None
        self._http_app: HttpApp | None = None
        self._http_server: HttpServer | None = None

    def serve_http(self, app: HttpApp, server: HttpServer) -> None:
        """Take over a listener: `drain` closes it."""
        self._http_app = app
        self._http_server = server
        self.http_address = server.address

    def readiness(self) -> Readiness:
        owners = {owner.member: None for owner in self.member.view.state.owners.values()}
        return gate_readiness(
            self.member.snapshot(),
            owners=owners,
            connected=self.pool.connected(),
            faults=self._faults(),
        )

    def _faults(self) -> list[str]:
        if self.stopping:
            return ["this gate is stopping"]
        if self._http_server is not None and not self._http_server.serving:
            return ["the HTTP listener has ended, the log says why"]
        return []

    async def drain(self, timeout_s: float, notice_s: float = 0.0) -> None:
        """Send every client to another gate, and let its calls end within ``timeout_s``.

        Not ready from the first moment. Each kind of client is told in its own way: sessions by a
        goodbye, event streams and WebSockets by their last event or close code, gRPC by GOAWAY,
        HTTP by ``Connection: close``. Listeners close last: an address that answers, if only to
        say no, is quicker to turn away from than one that is silent.

        :param notice_s: how long HTTP connections that are idle may still be told.
        """
        self.stopping = True
        log.info("gate %s sends %d clients elsewhere", self.name, len(self.clients))
        if self._http_server is not None:
            self._http_server.retire()  # before event streams end: their connections end with them
        self.clients.close(STOPPING)
        closing = [
            self.sessions.close(timeout_s),
            _close_grpc(self.listener, self.gate_service, timeout_s),
        ]
        if self._http_server is not None:
            closing.append(_close_http(self._http_server, timeout_s, min(notice_s, timeout_s)))
        await asyncio.gather(*closing)

    def snapshot(self) -> GateSnapshot:
        return GateSnapshot(
            member=self.member.snapshot(),
            pool=self.pool.snapshot(),
            ingress=self.ingress.snapshot(),
            sessions=self.sessions.snapshot(),
            clients=self.clients.snapshot(),
            gate_service=self.gate_service.snapshot(),
            node_types=self.node_types.snapshot(),
            http=self._http_app.snapshot() if self._http_app is not None else None,
            http_server=self._http_server.snapshot() if self._http_server is not None else None,
            limits=fullest(self._limits()),
        )

    def _limits(self) -> Iterator[Limit]:
        parts: list[Bounded] = [self.member, self.pool, self.ingress, self.sessions]
        parts += [self.clients, self.gate_service]
        parts += [part for part in (self._http_app, self._http_server, self.ops) if part]
        for part in parts:
            yield from part.limits()


@asynccontextmanager
async def run_gate(settings: Settings, surroundings: Surroundings) -> AsyncGenerator[Gate, None]:
    """A gate from its start to its orderly end.

    Serves once it is entered; readiness says when a node with shards is linked. Raises OSError
    if an address cannot be had.
    """
    runtime, limits, metrics = surroundings.runtime, settings.limits, surroundings.metrics
    coordinator, network = surroundings.coordinator, surroundings.network
    name = member_name(settings.gate.id, settings.gate.listen)
    async with AsyncExitStack() as stack:
        member = GateMember(coordinator, settings.cluster, limits, runtime)
        stack.push_async_callback(member.stop)  # the key goes last

        def hello() -> Hello | None:
            now = member.membership.member
            return our_hello(Role.GATE, now) if now is not None else None

        links = LinkConfig(limits, runtime, name)

        def serve(theirs: Hello, link: Link) -> CallTarget:
            # The gate has dialled it, at an address that the coordinator gave.
            if theirs.role is not Role.NODE:
                raise PermissionDenied(f"pushes come from nodes, not from a {theirs.role.value}")
            return pushes

        pool = LinkPool(network, hello, links, serve)
        stack.push_async_callback(pool.close, LINK_CLOSE_S)
        node_links = NodeLinks(member.view, member.membership, pool)
        router = Router(
            member.view, pool, None, None, limits, runtime, observer=RouterMetrics(metrics)
        )
        stack.push_async_callback(router.close)
        ingress = Ingress(router, limits, metrics)

        clients = Clients(
            ingress,
            name,
            limits,
            runtime.random,
            metrics,
            resume_grace_s=settings.gate.resume_grace_s,
        )
        pushes = PushTarget(clients)

        def identity_for_clients() -> MemberId:
            return member.membership.member or MemberId(name, "")

        sessions = Sessions(clients, identity_for_clients, links)
        gate = Gate(name, member, pool, ingress, sessions)
        gate.clients = clients
        gate.gate_service = GateService(ingress, clients, limits)
        stack.push_async_callback(gate.node_types.close)
        _watch(metrics, gate)

        service = gate.gate_service.handler()
        listener = await network.listen(settings.gate.listen, sessions.accept, services=(service,))
        stack.push_async_callback(listener.close)
        gate.listener = listener
        gate.address = advertised(settings.gate.advertise, listener.address)
        if settings.gate.ops_listen != "off":
            gate.ops_address = await _serve_operations(stack, settings, metrics, gate)
        stopping = settings.gate.shutdown_timeout_s, settings.gate.shutdown_notice_s
        stack.push_async_callback(gate.drain, *stopping)
        if settings.gate.http_listen != "off":
            await _serve_http(settings, runtime, gate)

        identity = Identity(
            kind=Kind.GATE,
            name=name,
            address=gate.address,
            ops_address=gate.ops_address,
        )
        await member.start_view()
        await member.start(identity)
        node_links.start()
        stack.push_async_callback(node_links.close)
        log.info("gate %s serves sessions on %s", name, gate.address)
        if gate.http_address:
            log.info("gate %s serves HTTP on %s", name, gate.http_address)
        yield gate


async def _close_grpc(listener: Listener, service: GateService, timeout_s: float) -> None:
    now = asyncio.get_running_loop().time
    deadline = now() + timeout_s
    # A client keeps its connection for as long as it holds on to a stream that is over.
    tasks = Tasks("gRPC clients")
    try:
        either = [
            tasks.spawn("leave", listener.retire(timeout_s)),
            tasks.spawn("are quiet", service.wait_quiet(GRPC_QUIET_S)),
        ]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await tasks.close()
    await service.close(max(0.0, deadline - now()))


async def _close_http(server: HttpServer, timeout_s: float, notice_s: float) -> None:
    now = asyncio.get_running_loop().time
    deadline = now() + timeout_s
    await server.wait_left(notice_s)
    await server.close(max(0.0, deadline - now()))


async def _serve_http(settings: Settings, runtime: Runtime, gate: Gate) -> None:
    http_limits = HttpLimits.of(settings.limits)
    door = gate.ingress.door(client_id="", max_calls=http_limits.max_requests)
    clients, heartbeat_s = gate.clients, settings.gate.event_heartbeat_s
    doors = Doors(door, clients.caller)
    fronts: dict[bytes, Front] = {
        CompatibleCalls.prefix: CompatibleCalls(doors),
        OpenApiPage.prefix: OpenApiPage(gate.node_types),
        b"/v1/events": EventStream(clients, heartbeat_s, runtime.random, OwnEvents()),
        b"/api/v1/events/stream": EventStream(
            clients, heartbeat_s, runtime.random, CompatibleEvents()
        ),
    }
    websockets = {b"/v1/events": WebSocketEvents(clients, heartbeat_s)}
    app = HttpApp(
        doors, http_limits, settings.gate.allowed_origins, fronts, websockets, runtime.random
    )
    gate.serve_http(app, await open_http(app, http_limits, settings.gate.http_listen))


async def _serve_operations(
    stack: AsyncExitStack, settings: Settings, metrics: Metrics, gate: Gate
) -> str:
    watchdog = LoopWatchdog()
    watchdog.start()
    stack.callback(watchdog.stop)
    server = OpsServer(
        settings.gate.ops_listen, metrics=metrics, watchdog=watchdog, ready=gate.readiness
    )
    await server.start()
    gate.ops = server
    stack.push_async_callback(server.close)
    return advertised("", server.address)


def _watch(metrics: Metrics, gate: Gate) -> None:
    """Gauges are read from the parts themselves, when somebody asks."""
    metrics.member = gate.name
    gate.member.watch(metrics)
    metrics.sessions.watch(lambda: gate.sessions.snapshot().sessions)
    metrics.clients.watch(gate.clients.by_transport)
    metrics.push_queue.watch(gate.clients.waiting)
    metrics.links.watch(lambda: len(gate.pool.connected()))
    metrics.calls_in_flight.watch(gate.pool.calls_in_flight)
