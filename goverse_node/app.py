"""The composition root of a node: `run_node` reads top to bottom in the order of starting.

Stopping is the mirror: shards first, while everybody can still be reached, and the key in the
coordinator last, so that peers accept what this node sends until it has nothing left to send.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from goverse.aio.limits import Bounded, Limit, fullest
from goverse.cluster.member import LeaveMode, MemberSnapshot, NodeMember
from goverse.cluster.records import Kind
from goverse.cluster.registration import Identity
from goverse.cluster.surroundings import Surroundings
from goverse.config.addresses import advertised, member_name
from goverse.config.settings import Settings
from goverse.config.values import parse_capacity
from goverse.ids import MemberId
from goverse.objects import Catalog, CatalogSnapshot, Moves, Registry
from goverse.objects.counts import by_shard, quantiles
from goverse.objects.durability.service import Durability, DurabilitySnapshot
from goverse.objects.latch import Holds
from goverse.objects.luggage import Arrivals
from goverse.objects.metrics import CommitMetrics, LatchMetrics, MoveMetrics, TurnMetrics
from goverse.observability.health import LoopWatchdog, Readiness
from goverse.observability.metrics import Metrics
from goverse.observability.ops_server import OpsServer
from goverse.reliable.metrics import ReliableMetrics
from goverse.reliable.service import Reliability, ReliableSnapshot
from goverse.routing import Router
from goverse.routing.metrics import RouterMetrics
from goverse.security.operators import OperatorRule, read_token
from goverse.storage.measured import MeasuredStore
from goverse.storage.metrics import StoreMetrics
from goverse.transport.hello import Hello, Role, our_hello
from goverse.transport.link import LinkConfig
from goverse.transport.pool import LinkPool, PoolSnapshot
from goverse_node.admin.assembly import node_admin
from goverse_node.admin.http import PinRoutes
from goverse_node.admin.operations import NodeAdmin
from goverse_node.admin.service import AdminService
from goverse_node.durability import OwnedSlots, check_cluster, check_store
from goverse_node.goverse_service import GoverseService
from goverse_node.inbound import InboundLinks
from goverse_node.loads import NodeLoads
from goverse_node.local import LocalCalls
from goverse_node.moves import NodeLink, NodeMoves
from goverse_node.pushes import Pushes, PushesSnapshot
from goverse_node.readiness import node_readiness

log = logging.getLogger(__name__)

#: Beyond draining: for replies to be delivered and links to say goodbye.
LINK_CLOSE_S = 2.0


@dataclass(frozen=True)
class NodeSnapshot:
    """One node in numbers; ``limits`` has of each kind the fullest."""

    member: MemberSnapshot
    catalog: CatalogSnapshot
    pool: PoolSnapshot
    inbound_links: int
    local_calls: int
    pushes: PushesSnapshot
    durability: DurabilitySnapshot | None
    reliability: ReliableSnapshot | None
    limits: tuple[Limit, ...]


class Node:
    """A running node, made by `run_node`."""

    def __init__(
        self, name: str, member: NodeMember, catalog: Catalog, pool: LinkPool, settings: Settings
    ) -> None:
        self.name = name
        self.member = member
        self.catalog = catalog
        self.pool = pool
        self.stopping = False
        self.leave_mode = LeaveMode(settings.node.shutdown_mode)
        self.address = ""
        self.ops_address = ""
        self.admin: NodeAdmin
        self.inbound: InboundLinks
        self.local: LocalCalls
        self.service: AdminService
        self.ops: OpsServer | None = None
        self.pushes: Pushes
        self.durability: Durability | None = None
        self.reliability: Reliability | None = None
        self._ready_grace_s = settings.node.ready_grace_s

    def readiness(self) -> Readiness:
        return node_readiness(
            self.member.snapshot(), ready_grace_s=self._ready_grace_s, stopping=self.stopping
        )

    def snapshot(self) -> NodeSnapshot:
        return NodeSnapshot(
            self.member.snapshot(),
            self.catalog.snapshot(),
            self.pool.snapshot(),
            len(self.inbound),
            len(self.local),
            self.pushes.snapshot(),
            self.durability.snapshot() if self.durability is not None else None,
            self.reliability.snapshot() if self.reliability is not None else None,
            fullest(self._limits()),
        )

    def _limits(self) -> Iterator[Limit]:
        parts: tuple[Bounded, ...] = (
            self.member,
            self.catalog,
            self.pool,
            self.inbound,
            self.local,
            self.pushes,
            self.service,
        )
        for part in parts:
            yield from part.limits()
        if self.durability is not None:
            yield from self.durability.limits()
        if self.reliability is not None:
            yield from self.reliability.limits()
        if self.ops is not None:
            yield from self.ops.limits()


@dataclass(frozen=True)
class _Facts:
    """What the catalog asks of its node."""

    node_name: str
    member: NodeMember
    lease_valid: Callable[[], bool]

    def shard_of(self, id: str) -> int:
        return self.member.view.shard_of(id)


@asynccontextmanager
async def run_node(
    settings: Settings, surroundings: Surroundings, registry: Registry
) -> AsyncGenerator[Node, None]:
    """A node from its start to its orderly end.

    Serves once it is entered; readiness says when its shards are there. Raises OSError if an
    address cannot be had, `MissingStore` if a class must be durable and there is no store,
    `StoreRefused` if the store is another cluster's, `StorageUnavailable`.
    """
    runtime, limits, metrics = surroundings.runtime, settings.limits, surroundings.metrics
    coordinator, network = surroundings.coordinator, surroundings.network
    check_store(registry, surroundings.store)
    await check_cluster(surroundings, settings.cluster)
    name = member_name(settings.node.id, settings.node.listen)
    rule = OperatorRule(_token(settings.security.admin_token_file))
    async with AsyncExitStack() as stack:
        member = NodeMember(coordinator, settings.cluster, limits, runtime)
        stack.push_async_callback(member.stop)  # the key goes last

        digest = registry.types_digest()

        def term() -> MemberId | None:
            return member.membership.member if member.valid() else None

        def hello() -> Hello | None:
            now = member.membership.member
            return our_hello(Role.NODE, now, types_digest=digest) if now is not None else None

        # A link lives within one registration: what is queued when it ends is never sent.
        links = LinkConfig(limits, runtime, name, term)
        pool = LinkPool(network, hello, links)
        stack.push_async_callback(pool.close, LINK_CLOSE_S)
        store = durability = None
        if surroundings.store is not None:
            store = MeasuredStore(surroundings.store, StoreMetrics(metrics))
            slots = OwnedSlots(name, member, store)
            durability = Durability(store, slots, limits, runtime, CommitMetrics(metrics))
            stack.push_async_callback(durability.close)
            durability.start()
        local = LocalCalls(limits.max_inflight_calls)
        observer = RouterMetrics(metrics)
        router = Router(member.view, pool, name, local, limits, runtime, observer=observer)
        pushes = Pushes(member.view, member.membership.valid, limits, metrics)
        reliability = None
        if store is not None and durability is not None:
            reliability = Reliability(
                store,
                durability.fences,
                router,
                registry,
                limits,
                runtime,
                ReliableMetrics(metrics),
            )
            stack.push_async_callback(reliability.close)
        counted = MoveMetrics(metrics)
        arrivals = Arrivals(registry, counted, limits.max_moved_bytes)
        timeout_s = settings.node.move_timeout_s
        moves = NodeMoves(member, pool, arrivals, counted, timeout_s=timeout_s)
        catalog = Catalog(
            registry,
            _Facts(name, member, member.membership.valid),
            router,
            settings.objects,
            limits,
            runtime,
            observer=TurnMetrics(metrics),
            pushes=pushes,
            durability=durability,
            reliable=reliability,
            moves=Moves(arrivals, moves),
            machine=surroundings.machine,
            holds=Holds(settings.node.latch_max_hold_s, settings.node.latch_warn_after_s),
            latch_observer=LatchMetrics(metrics),
        )
        if reliability is not None:
            reliability.bind(catalog)
        local.bind(catalog)
        inbound = InboundLinks(
            hello, catalog, links, pushes.linked, lambda peer: NodeLink(catalog, moves, peer)
        )
        member.prepare(
            catalog.shards,
            metrics,
            drain_timeout_s=settings.node.drain_timeout_s,
            max_hold_s=settings.node.latch_max_hold_s,
            loads=NodeLoads(name, pool, catalog),
        )

        def lost(reason: str) -> None:
            catalog.shards.discard_all(reason)
            moves.discard()
            pushes.discard(reason)
            inbound.abort_all(reason)
            pool.abort_all(reason)
            metrics.leases_lost.inc()

        member.membership.on_lost(lost)
        member.view.on_member_gone(inbound.drop)
        node = Node(name, member, catalog, pool, settings)
        node.inbound, node.local, node.pushes = inbound, local, pushes
        node.durability, node.reliability = durability, reliability

        def decommission() -> None:
            # It does not come back, whatever is configured: nobody shall wait for it.
            node.leave_mode = LeaveMode.PERMANENT
            node.stopping = True
            surroundings.stop()

        node.admin = node_admin(
            name, member, coordinator, catalog, router, limits, store, decommission
        )
        _watch(metrics, node, per_shard=settings.metrics.per_shard)

        node.service = AdminService(node.admin, rule)
        services = (
            node.service.handler(),
            GoverseService(catalog, lambda: node.address, runtime.clock).handler(),
        )
        listener = await network.listen(settings.node.listen, inbound.accept, services=services)
        stack.push_async_callback(listener.close)
        stack.push_async_callback(inbound.close, LINK_CLOSE_S)
        stack.push_async_callback(pushes.close, LINK_CLOSE_S)
        node.address = advertised(settings.node.advertise, listener.address)
        if settings.node.ops_listen != "off":
            node.ops_address = await _serve_operations(stack, settings, metrics, node, rule)
        stack.push_async_callback(catalog.stop, settings.node.drain_timeout_s)

        capacity = parse_capacity(settings.node.capacity)
        identity = Identity(
            kind=Kind.NODE,
            name=name,
            address=node.address,
            ops_address=node.ops_address,
            # What was measured does not compare with the weights of nodes that measure nothing.
            weight=capacity if capacity is not None else 1.0,
            capacity=capacity if capacity is not None else surroundings.machine.quota().processors,
        )
        await member.start_view()
        await member.start(identity)
        log.info("node %s serves on %s", name, node.address)
        try:
            yield node
        finally:
            node.stopping = True
            await member.drain(node.leave_mode, timeout_s=settings.node.shutdown_timeout_s)


def _token(path: str) -> str:
    return read_token(path) if path else ""


async def _serve_operations(
    stack: AsyncExitStack, settings: Settings, metrics: Metrics, node: Node, rule: OperatorRule
) -> str:
    watchdog = LoopWatchdog()
    watchdog.start()
    stack.callback(watchdog.stop)
    server = OpsServer(
        settings.node.ops_listen,
        metrics=metrics,
        watchdog=watchdog,
        ready=node.readiness,
        routes=PinRoutes(node.admin, rule).routes(),
    )
    await server.start()
    node.ops = server
    stack.push_async_callback(server.close)
    return advertised("", server.address)


def _watch(metrics: Metrics, node: Node, *, per_shard: bool) -> None:
    """Gauges are read from the parts themselves, when somebody asks."""
    metrics.member = node.name
    node.member.watch(metrics)
    metrics.links.watch(lambda: len(node.pool.connected()) + len(node.inbound))
    metrics.calls_in_flight.watch(node.pool.calls_in_flight)
    metrics.push_queue.watch(node.pushes.waiting)
    metrics.activations.watch(node.catalog.census.count_by_type)
    metrics.shard_objects.watch(lambda: quantiles(node.catalog.census.count_by_shard()))
    if per_shard:
        metrics.objects_of_shard.watch(lambda: by_shard(node.catalog.census.count_by_shard()))
    metrics.latch_holders.watch(node.catalog.census.count_holders)
    metrics.latch_writers.watch(node.catalog.census.count_writers)
    if node.reliability is not None:
        metrics.reliable_pending.watch(node.reliability.count_by_type)
        metrics.reliable_oldest_seconds.watch(node.reliability.oldest_by_type)
        metrics.delayed_soon.watch(node.reliability.delayed_by_type)
