"""Everything that can grow is listed with its limit, and at its limit it refuses at once.

Each test here fills one thing: what comes then is refused, what stands beside it goes on, and
afterwards nothing of it is left.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

import goverse
from goverse.admin.wire import METHODS
from goverse.aio.limits import Limit, fullest
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.call import Call, Codec, Reply
from goverse.client.session import Session
from goverse.cluster.claim_queue import ClaimQueue
from goverse.cluster.closing import ClosingWindow
from goverse.config.settings import LimitSettings
from goverse.coordination import Changes, Snapshot
from goverse.coordination.feed import MAX_BUFFERED_ITEMS, Feed
from goverse.errors import GoverseError, Overloaded, RateLimited
from goverse.ids import Epoch, MemberId
from goverse.objects import reentry
from goverse.observability.metrics import Metrics
from goverse.security.operators import OperatorRule
from goverse.testing.cluster import TEST_SETTINGS, Cluster
from goverse.transport.hello import Role, our_hello
from goverse.transport.link import LinkConfig
from goverse.transport.loopback import LoopbackHub
from goverse.transport.pb.gate import gate_pb2
from goverse.transport.pool import LinkPool
from goverse_gate.attachment import Attachment, Transport
from goverse_gate.buffer import Message
from goverse_gate.clients import Clients
from goverse_gate.gate_service import GateService
from goverse_gate.http_app import HttpApp, HttpLimits
from goverse_gate.http_front import Doors
from goverse_gate.ingress import Ingress
from goverse_node.admin import service as admin_service
from goverse_node.inbound import MAX_REMEMBERED, MAX_WARNED_DIGESTS, InboundLinks
from goverse_node.local import LocalCalls
from tests.support.containers import ROOT, growing, limit_names
from tests.support.eventually import eventually
from tests.support.inventory import LIMITED, UNLIMITED
from tests.support.links import Held, Target, call, hello, pair, raw_pair
from tests.support.virtual import elapse, virtual

FILLED: dict[str, Callable[[], None]] = {}

#: What needs sockets or a thread, or is filled beside its neighbours: where that is done.
ELSEWHERE = {
    "client.inbox": "unit/push/test_push_parts.py::"
    "test_L26_what_an_inbox_cannot_hold_is_dropped_and_seen",
    "durability.loads": "unit/objects/test_objects_durable.py::"
    "test_objects_that_wait_to_be_loaded_have_a_limit",
    "durability.uncommitted_bytes": "unit/objects/test_objects_commits.py::"
    "test_uncommitted_bytes_are_limited_and_given_back",
    "http.connections": "integration/test_gate_http.py::test_connections_have_a_limit",
    "http.pipelined": "integration/test_gate_http.py::test_requests_sent_ahead_have_a_limit",
    "link.replies_arriving_bytes": "unit/transport/test_transport_chunks.py::"
    "test_results_that_arrive_have_a_limit_together",
    "log.records": "unit/observability/test_logs.py::"
    "test_L24_a_log_that_stalls_drops_and_counts_and_stops_nobody",
    "node.push_bytes": "unit/push/test_push_node.py::test_L26_a_full_queue_drops_and_counts",
    "node.pushes": "unit/push/test_push_node.py::test_L26_a_full_queue_drops_and_counts",
    "objects.moved_bytes": "unit/objects/test_objects_luggage.py::"
    "test_L29_state_that_waits_is_bounded_in_bytes_and_given_back",
    "object.uncommitted_turns": "unit/objects/test_objects_durable.py::"
    "test_too_many_uncommitted_turns_are_refused_before_they_begin",
    "ops.connections": "integration/test_ops_server.py::"
    "test_a_crowd_of_silent_connections_keeps_no_probe_out",
    "reliable.bytes": "unit/reliable/test_reliable_calls.py::"
    "test_the_bytes_of_calls_under_way_are_limited",
    "reliable.calls": "unit/reliable/test_reliable_calls.py::"
    "test_the_number_of_calls_under_way_is_limited",
    "reliable.delayed": "unit/reliable/test_reliable_delayed.py::"
    "test_L29_only_what_is_due_next_is_in_memory",
    "reliable.outbox": "unit/reliable/test_reliable_outbox.py::"
    "test_past_the_bound_rows_wait_in_the_store_and_keep_their_order",
}

Story = Callable[[], Coroutine[Any, Any, None]]


def fills(*names: str) -> Callable[[Story], Callable[[], None]]:
    """Note what a test fills, and run it in virtual time."""

    def register(story: Story) -> Callable[[], None]:
        test = virtual(story)
        for name in names:
            assert name not in FILLED
            FILLED[name] = test
        return test

    return register


def used(limits: Iterable[Limit], name: str) -> tuple[int, int]:
    """(used, most) of the fullest one of that name."""
    for limit in fullest(limits):
        if limit.name == name:
            return limit.used, limit.most
    raise AssertionError(f"no limit {name}")


def full(limits: Iterable[Limit], name: str) -> bool:
    return any(limit.used == limit.most for limit in limits if limit.name == name)


def at_rest(limits: Iterable[Limit]) -> bool:
    return not [limit for limit in limits if limit.used and not limit.standing]


def start(coros: Iterable[Coroutine[Any, Any, Any]]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(coro) for coro in coros]


async def refused(coro: Awaitable[Any], kind: type[GoverseError] = Overloaded) -> None:
    """It is refused, and at once: no virtual time passes beyond what messages take."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    with pytest.raises(kind) as caught:
        await coro
    assert caught.value.executed.value == "no"
    assert loop.time() - before < 0.1


# -- the list ---------------------------------------------------------------------------------


def test_every_container_of_production_code_is_listed() -> None:
    """Whoever adds a queue says what bounds it: see tests/support/inventory.py."""
    found = growing()
    assert [name for name in found if name not in LIMITED and name not in UNLIMITED] == []
    assert [name for name in (*LIMITED, *UNLIMITED) if name not in found] == []
    assert [name for name in LIMITED if name in UNLIMITED] == []


def test_the_list_names_limits_that_exist_and_all_of_them_are_filled() -> None:
    names = limit_names()
    assert [name for name in LIMITED.values() if name not in names] == []
    assert sorted([*FILLED, *ELSEWHERE]) == sorted(names)
    for where in ELSEWHERE.values():
        path, _, test = where.partition("::")
        assert re.search(rf"def {test}\(", (ROOT / "tests" / path).read_text()), where


@virtual
async def test_snapshots_show_every_limit() -> None:
    """But for what hangs on sockets: HTTP, operations, and the log of the process."""
    async with cluster(nodes=2) as (world, client):
        shown = {limit.name for limit in client.snapshot().session.limits}
        for member in world.members:
            process = member.node or member.gate
            assert process is not None
            shown |= {limit.name for limit in process.snapshot().limits}
    on_demand = {"object.background_tasks", "object.inner_calls"}
    on_demand |= {"node.pushes", "node.push_bytes", "object.uncommitted_turns"}
    on_demand |= {"object.running_turns", "object.waiting_calls"}
    sockets = {name for name in limit_names() if name.split(".")[0] in ("http", "ops", "log")}
    assert limit_names() - shown == sockets | on_demand


# -- one link ---------------------------------------------------------------------------------

FEW = replace(LimitSettings(), max_inflight_calls=4, max_inflight_bytes=10_000)


@fills("link.calls_out")
async def test_calls_out() -> None:
    world = await pair(target := Held(), near_limits=FEW)
    calls = start(world.near.invoke(call()) for _ in range(4))
    await eventually(lambda: full(world.near.limits(), "link.calls_out"))
    await refused(world.near.invoke(call()))
    assert (await world.far.invoke(call(b"other way"))).payload == b"other way"
    target.free.set()
    await asyncio.gather(*calls)
    await eventually(lambda: at_rest([*world.near.limits(), *world.far.limits()]))


@fills("link.bytes_out")
async def test_bytes_out() -> None:
    world = await pair(target := Held(), near_limits=FEW)
    large = start([world.near.invoke(call(bytes(9_000)))])
    await eventually(lambda: used(world.near.limits(), "link.bytes_out")[0] > 9_000)
    await refused(world.near.invoke(call(bytes(1_000))))
    small = start([world.near.invoke(call(b"small"))])
    target.free.set()
    await asyncio.gather(*large, *small)
    await eventually(lambda: at_rest([*world.near.limits(), *world.far.limits()]))


@fills("link.calls_in")
async def test_calls_in() -> None:
    world = await pair(target := Held(), far_limits=FEW)
    calls = start(world.near.invoke(call()) for _ in range(4))
    await eventually(lambda: full(world.far.limits(), "link.calls_in"))
    await refused(world.near.invoke(call()))
    assert (await world.far.invoke(call(b"other way"))).payload == b"other way"
    target.free.set()
    await asyncio.gather(*calls)
    await eventually(lambda: at_rest([*world.near.limits(), *world.far.limits()]))


@fills("link.bytes_in", "link.calls_arriving_bytes")
async def test_bytes_in() -> None:
    limits = replace(FEW, max_chunk_bytes=1_000)
    world = await pair(target := Held(), far_limits=limits)
    large = start([world.near.invoke(call(bytes(9_000)))])
    await eventually(lambda: used(world.far.limits(), "link.bytes_in")[0] == 9_000)
    await refused(world.near.invoke(call(bytes(1_001))))
    small = start([world.near.invoke(call(b"small"))])
    target.free.set()
    await asyncio.gather(*large, *small)
    await eventually(lambda: at_rest([*world.near.limits(), *world.far.limits()]))


@fills("link.queued_frames", "link.streams")
async def test_queued_frames_and_streams() -> None:
    """The carrier takes nothing more: calls come, large ones among them, and are given up."""
    limits = replace(LimitSettings(), max_inflight_calls=6, max_chunk_bytes=100)
    link, peer, hub = await raw_pair(limits=limits)
    peer.valve.shut()
    large = start(link.invoke(call(bytes(500))) for _ in range(3))
    await eventually(lambda: used(link.limits(), "link.streams")[0] == 3)
    refusals = 0
    while not refusals:
        given_up = asyncio.create_task(link.invoke(call(b"x")))
        await elapse(0)
        given_up.cancel()
        (outcome,) = await asyncio.gather(given_up, return_exceptions=True)
        refusals += isinstance(outcome, Overloaded)
        assert used(link.limits(), "link.queued_frames")[0] <= 12
    now, most = used(link.limits(), "link.queued_frames")
    assert 12 <= now <= most
    for task in large:
        task.cancel()
    await asyncio.wait(large)
    peer.valve.open()
    await eventually(lambda: at_rest(link.limits()))
    link.abort("done")
    await link.wait_closed()
    peer.carrier.abort("done")
    assert hub.connections() == 0


@fills("pool.waiting_calls")
async def test_calls_that_wait_for_a_link() -> None:
    hub = LoopbackHub()
    pool = LinkPool(
        hub.network("a"), lambda: hello(Role.NODE, "a"), LinkConfig(FEW, Runtime(), "a")
    )
    target = pool.target(MemberId("b", "1"), "nowhere:1")
    calls = start(target.invoke(call(timeout_s=5)) for _ in range(4))
    await eventually(lambda: full(pool.limits(), "pool.waiting_calls"))
    await refused(target.invoke(call()))
    await asyncio.wait(calls)
    assert at_rest(pool.limits())
    await pool.close(1)


# -- a node -----------------------------------------------------------------------------------


@fills("node.links")
async def test_links_of_members() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("goverse_node.inbound.MAX_LINKS", 2)
        hub = LoopbackHub()
        node = InboundLinks(
            lambda: hello(Role.NODE, "n1"),
            Target(),
            LinkConfig(LimitSettings(), Runtime(), "n1"),
            lambda link: None,
        )
        listener = await hub.network("n1").listen("n1:1", node.accept)
        pools = [
            LinkPool(
                hub.network(name),
                functools.partial(hello, Role.NODE, name),
                LinkConfig(LimitSettings(), Runtime(random=random.Random(name)), name),
            )
            for name in ("a", "b", "c")
        ]
        to = MemberId("n1", "1")
        for pool in pools[:2]:
            await pool.target(to, "n1:1").invoke(call())
        assert full(node.limits(), "node.links")
        with pytest.raises(GoverseError, match="2 links are open"):
            await pools[2].target(to, "n1:1").invoke(call(timeout_s=1))
        await pools[0].target(to, "n1:1").invoke(call())
        for pool in pools:
            await pool.close(1)
        await eventually(lambda: not used(node.limits(), "node.links")[0])
        await node.close(1)
        await listener.close()


@fills("node.gone_members", "node.warned_digests")
async def test_what_a_node_remembers() -> None:
    """There is nobody to refuse: the oldest is forgotten."""
    node = InboundLinks(
        lambda: hello(Role.NODE, "n1"),
        Target(),
        LinkConfig(LimitSettings(), Runtime(), "n1"),
        lambda link: None,
    )
    for number in range(MAX_REMEMBERED + 5):
        node.drop(MemberId(f"n{number}", "1"))
    for number in range(MAX_WARNED_DIGESTS + 5):
        other = our_hello(Role.NODE, MemberId("n2", "1"), types_digest=f"digest {number}")
        node._compare_types(other)
    assert full(node.limits(), "node.gone_members")
    assert full(node.limits(), "node.warned_digests")


@fills("node.local_calls")
async def test_calls_of_a_node_to_itself() -> None:
    local = LocalCalls(2)
    local.bind(target := Held())
    calls = start(local.invoke(call()) for _ in range(2))
    await eventually(lambda: full(local.limits(), "node.local_calls"))
    await refused(local.invoke(call()))
    target.free.set()
    await asyncio.gather(*calls)
    assert at_rest(local.limits())
    await local.invoke(call())


@fills("node.admin_calls")
async def test_calls_of_operators() -> None:
    free = asyncio.Event()

    class Slow:
        async def list_nodes(self) -> Any:
            await free.wait()
            return METHODS["list_nodes"].model()

    class Context:
        def peer(self) -> str:
            return "ipv4:127.0.0.1:5000"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admin_service, "_MAX_CONCURRENT", 2)
        service = admin_service.AdminService(Slow(), OperatorRule(""))  # type: ignore[arg-type]
        method = METHODS["list_nodes"]

        def ask() -> Coroutine[Any, Any, Any]:
            return service._answer(method, method.request(), Context())  # type: ignore[arg-type]

        calls = start(ask() for _ in range(2))
        await eventually(lambda: full(service.limits(), "node.admin_calls"))
        await refused(ask())
        free.set()
        await asyncio.gather(*calls)
        assert at_rest(service.limits())


@fills("watch.items")
async def test_changes_that_nobody_reads_yet() -> None:
    """The pump waits: nothing is lost, and what is not read is not fetched."""
    sent = 0

    async def pump(feed: Feed) -> None:
        nonlocal sent
        await feed.put(Snapshot(0, {}))
        while sent < 3 * MAX_BUFFERED_ITEMS:
            sent += 1
            await feed.put(Changes(sent, {}))

    feed = Feed("/a/", Tasks("test"), Runtime().clock, pump)
    await anext(feed)
    await eventually(lambda: feed.full)
    assert feed.snapshot().buffered == MAX_BUFFERED_ITEMS
    revisions = [(await anext(feed)).revision for _ in range(3 * MAX_BUFFERED_ITEMS)]
    assert revisions == list(range(1, 3 * MAX_BUFFERED_ITEMS + 1))
    assert feed.snapshot().buffered == 0
    await feed.aclose()


@fills("ownership.claims_due", "ownership.releases_due")
async def test_claims_and_releases_that_are_due() -> None:
    """However often it is asked for, a shard is in each list once."""

    class View:
        num_shards = 8

    unused: Any = None
    queue = ClaimQueue(View(), unused, unused, Runtime(), unused)  # type: ignore[arg-type]
    for _ in range(3):
        for shard in range(8):
            queue.claim(shard)
            queue.release(shard, 100 + shard)
    assert full(queue.limits(), "ownership.claims_due")
    assert full(queue.limits(), "ownership.releases_due")
    queue.clear()
    assert at_rest(queue.limits())


@fills("ownership.closes_due")
async def test_shards_that_wait_to_close() -> None:
    window = ClosingWindow(lambda shard: None, max_closing=0)
    for _ in range(3):
        for shard in range(8):
            window.ask(shard)
    assert full(window.limits(8), "ownership.closes_due")
    window.clear()
    assert at_rest(window.limits(8))


# -- objects, through a whole cluster ---------------------------------------------------------


class Busy(goverse.Object, reentrancy="allow"):
    @goverse.method
    async def wait(self) -> None:
        await asyncio.Event().wait()

    @goverse.method(read_only=True)
    async def look(self) -> None:
        await asyncio.Event().wait()

    @goverse.method
    async def echo(self, text: str) -> str:
        return text

    @goverse.method
    async def slow_echo(self, text: str) -> str:
        await elapse(0.001)
        return text

    @goverse.method
    async def spawn_until_refused(self) -> int:
        for number in range(1_000):
            try:
                self.spawn(asyncio.Event().wait(), name=f"{number}")
            except Overloaded:
                return number
        return -1

    @goverse.method
    async def call_itself(self, times: int) -> int:
        """How many of so many calls at once were refused."""
        me = goverse.get(Busy, self.id)
        outcomes = await asyncio.gather(
            *(me.slow_echo(text="") for _ in range(times)), return_exceptions=True
        )
        assert all(isinstance(outcome, str | Overloaded) for outcome in outcomes)
        return sum(isinstance(outcome, Overloaded) for outcome in outcomes)


@asynccontextmanager
async def cluster(nodes: int = 1, **limits: int) -> AsyncIterator[tuple[Cluster, Any]]:
    """A cluster and a client; in the end everything in it must be at rest."""
    settings = replace(TEST_SETTINGS, limits=replace(TEST_SETTINGS.limits, **limits))
    async with Cluster(Busy, nodes=nodes, settings=settings) as world:
        client = await world.client()
        yield world, client
        await world.wait_until(lambda: at_rest(_all_limits(world, client)), 10)


def _all_limits(world: Cluster, client: Any) -> list[Limit]:
    found = list(client.snapshot().session.limits)
    for member in world.members:
        process = member.node or member.gate
        if member.alive and process is not None:
            found.extend(process.snapshot().limits)
    return found


async def give_up(calls: list[asyncio.Task[Any]]) -> None:
    for task in calls:
        task.cancel()
    await asyncio.wait(calls)


@fills("object.waiting_calls")
async def test_calls_that_wait_for_their_turn() -> None:
    async with cluster(max_mailbox_calls=3) as (world, client):
        busy = client.get(Busy, "a")
        calls = start(busy.wait() for _ in range(4))
        await world.wait_until(lambda: full(_all_limits(world, client), "object.waiting_calls"))
        await refused(busy.wait())
        assert await client.get(Busy, "b").echo(text="beside") == "beside"
        await give_up(calls)


@fills("object.running_turns")
async def test_turns_that_run_together() -> None:
    async with cluster(max_mailbox_calls=3) as (world, client):
        busy = client.get(Busy, "a")
        calls = start(busy.look() for _ in range(3))
        await world.wait_until(lambda: full(_all_limits(world, client), "object.running_turns"))
        await refused(busy.look())
        assert await client.get(Busy, "b").echo(text="beside") == "beside"
        await give_up(calls)


@fills("object.background_tasks")
async def test_background_tasks_of_an_object() -> None:
    async with cluster(max_mailbox_calls=3) as (world, client):
        busy = client.get(Busy, "a")
        assert await busy.spawn_until_refused() == 3
        assert full(_all_limits(world, client), "object.background_tasks")
        assert await busy.echo(text="still here") == "still here"
        await client.delete(Busy, "a")


@fills("object.inner_calls")
async def test_calls_of_a_turn_to_its_own_object() -> None:
    async with cluster() as (_, client):
        busy = client.get(Busy, "a")
        assert await busy.call_itself(times=reentry.MAX_INNER) == 0
        assert await busy.call_itself(times=reentry.MAX_INNER + 7) > 0
        assert await busy.echo(text="still here") == "still here"


@fills("objects.held_calls")
async def test_calls_that_a_closed_shard_holds_back() -> None:
    async with cluster(max_waiting_calls=3) as (world, client):
        node = world.member("n1").node
        assert node is not None
        shard = node.member.view.shard_of("a")
        other = next(f"b{n}" for n in range(99) if node.member.view.shard_of(f"b{n}") != shard)
        epoch = node.catalog.shards.by_number[shard].epoch
        assert await node.catalog.shards.close_shard(shard, drain_timeout_s=1)
        node.catalog.shards.begin_opening(shard, Epoch(epoch.generation, epoch.revision))
        calls = start(client.get(Busy, "a").echo(text=f"{n}") for n in range(3))
        await world.wait_until(lambda: full(_all_limits(world, client), "objects.held_calls"))
        await refused(client.get(Busy, "a").echo(text="too many"))
        assert await client.get(Busy, other).echo(text="beside") == "beside"
        await node.catalog.shards.open_shard(shard, epoch)
        assert await asyncio.gather(*calls) == ["0", "1", "2"]


@fills("view.waiting_calls")
async def test_calls_that_wait_for_an_owner() -> None:
    settings = replace(TEST_SETTINGS, limits=replace(TEST_SETTINGS.limits, max_waiting_calls=3))
    async with Cluster(Busy, nodes=0, settings=settings) as world:
        await world.start_node("n1")
        await world.wait_all_claimed()
        client = await world.client()
        world.kill("n1")
        await world.wait_until(lambda: not world.owners())
        calls = start(client.get(Busy, "a").echo(text=f"{n}") for n in range(3))
        await world.wait_until(lambda: full(_all_limits(world, client), "view.waiting_calls"))
        await refused(client.get(Busy, "b").echo(text="too many"))
        await world.start_node("n1")
        assert await asyncio.gather(*calls) == ["0", "1", "2"]
        await world.wait_until(lambda: at_rest(_all_limits(world, client)), 10)


# -- a gate and a client ----------------------------------------------------------------------


@fills("gate.calls")
async def test_calls_of_all_clients() -> None:
    async with cluster(max_inflight_calls=3) as (world, client):
        calls = start(client.get(Busy, f"{n}").wait() for n in range(3))
        await world.wait_until(lambda: full(_all_limits(world, client), "gate.calls"))
        await refused(client.get(Busy, "d").echo(text="too many"))
        await give_up(calls)
        await world.wait_until(lambda: at_rest(_all_limits(world, client)), 10)
        assert await client.get(Busy, "d").echo(text="again") == "again"


@fills("door.calls")
async def test_calls_of_one_caller() -> None:
    target = Held()
    ingress = Ingress(target, LimitSettings(), Metrics("g1"))
    door = ingress.door(client_id="c1", max_calls=2)
    other = ingress.door(client_id="c2", max_calls=2)
    calls = start(door.invoke(call()) for _ in range(2))
    await eventually(lambda: full(ingress.limits(), "door.calls"))
    await refused(door.invoke(call()), RateLimited)
    beside = start([other.invoke(call())])
    target.free.set()
    await asyncio.gather(*calls, *beside)
    assert at_rest(ingress.limits())
    for each in (door, other):
        each.close()
    assert ingress.snapshot().doors == 0


@fills("gate.call_bytes")
async def test_bytes_of_all_clients() -> None:
    """As much as one link may carry, whoever sends it."""
    target = Held()
    ingress = Ingress(target, replace(LimitSettings(), max_inflight_bytes=1_000), Metrics("g1"))
    doors = [ingress.door(client_id=f"c{n}", max_calls=9) for n in range(3)]
    calls = start(door.invoke(call(bytes(500))) for door in doors[:2])
    await eventually(lambda: full(ingress.limits(), "gate.call_bytes"))
    await refused(doors[2].invoke(call(b"x")))
    beside = start([doors[2].invoke(call(b""))])
    target.free.set()
    await asyncio.gather(*calls, *beside)
    assert at_rest(ingress.limits())


def registry(**limits: int) -> Clients:
    chosen = replace(LimitSettings(), **limits)
    metrics = Metrics("g1")
    ingress = Ingress(Target(), chosen, metrics)
    return Clients(ingress, "g1", chosen, random.Random(1), metrics, resume_grace_s=30.0)


def nothing() -> None:
    pass


@fills("gate.clients")
async def test_clients_of_a_gate() -> None:
    clients = registry(max_sessions=2)
    found = [clients.connect(Transport.GRPC, nothing) for _ in range(2)]
    assert full(clients.limits(), "gate.clients")
    with pytest.raises(Overloaded):
        clients.connect(Transport.GRPC, nothing)
    assert clients.put(found[0].client_id, Message("Note", b"still served")) is None
    for attachment in found:
        attachment.detach()
    assert used(clients.limits(), "gate.clients")[0] == 0


@fills("client.messages", "client.message_bytes", "gate.message_bytes")
async def test_messages_that_a_client_does_not_read() -> None:
    """The push is refused and counted, not dropped in silence; another client's goes on."""
    clients = registry(
        max_push_messages=3, max_push_bytes=100, max_push_queue_bytes=100, max_inflight_bytes=220
    )
    many, large, other = (clients.connect(Transport.GRPC, nothing) for _ in range(3))

    def put(to: Attachment, size: int) -> bool:
        return clients.put(to.client_id, Message("Note", bytes(size))) is None

    assert [put(many, 1) for _ in range(4)] == [True, True, True, False]
    assert full(clients.limits(), "client.messages")
    assert [put(large, 100), put(large, 1)] == [True, False]
    assert full(clients.limits(), "client.message_bytes")
    assert put(other, 90)
    last = clients.connect(Transport.GRPC, nothing)
    assert [put(last, 28), put(last, 27)] == [False, True]  # all of them have a limit together
    assert full(clients.limits(), "gate.message_bytes")
    for attachment in (many, large, other, last):
        attachment.detach()
    assert at_rest(clients.limits())


@fills("gate_service.calls", "gate_service.held_bytes")
async def test_calls_over_grpc() -> None:
    class Context:
        def peer(self) -> str:
            return "ipv4:10.0.0.1:5000"

        def time_remaining(self) -> float | None:
            return 5.0

    limits = replace(LimitSettings(), max_inflight_calls=3, max_inflight_bytes=100)
    target = Held()
    ingress = Ingress(target, LimitSettings(), Metrics("g1"))
    service = GateService(ingress, registry(), limits)

    def ask(size: int) -> Coroutine[Any, Any, Any]:
        request = gate_pb2.CallObjectRequest(type="Counter", id="a", method="m" * size)
        raw = request.SerializeToString()
        context: Any = Context()
        return service._answer(gate_pb2.CallObjectRequest, service._call, raw, context)

    small = start(ask(1) for _ in range(3))
    await eventually(lambda: full(service.limits(), "gate_service.calls"))
    await refused(ask(1))
    target.free.set()
    await asyncio.gather(*small, return_exceptions=True)
    target.free.clear()
    large = start([ask(70)])
    await eventually(lambda: used(service.limits(), "gate_service.held_bytes")[0] > 80)
    await refused(ask(70))
    target.free.set()
    await asyncio.gather(*large, return_exceptions=True)
    assert at_rest([*service.limits(), *ingress.limits()])


@fills("gate.sessions")
async def test_sessions_of_a_gate() -> None:
    async with cluster(max_sessions=1) as (world, client):
        gate = world.member("g1").gate
        assert gate is not None and full(gate.snapshot().limits, "gate.sessions")
        with pytest.raises(GoverseError, match="as many as it takes"):
            await world.client(name="second")
        assert await client.get(Busy, "a").echo(text="first") == "first"


@fills("http.requests", "http.held_bytes")
async def test_requests_over_http() -> None:
    free = asyncio.Event()

    class Door:
        async def invoke(self, call: Call) -> Reply:
            await free.wait()
            return Reply(b"1", Codec.JSON)

    app = HttpApp(Doors(Door()), HttpLimits(max_requests=3, max_held_bytes=100))
    first = start([_post(app, b" " * 60), _post(app, b" " * 40)])
    await eventually(lambda: full(app.limits(), "http.held_bytes"))
    assert await _post(app, b" ") == (503, "overloaded")
    third = start([_post(app, b"")])
    await eventually(lambda: full(app.limits(), "http.requests"))
    assert await _post(app, b"") == (503, "overloaded")
    free.set()
    assert await asyncio.gather(*first, *third) == [(200, ""), (200, ""), (200, "")]
    assert at_rest(app.limits())


async def _post(app: HttpApp, body: bytes) -> tuple[int, str]:
    """Status and error code of one request."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    path = b"/v1/objects/Counter/a/add"
    scope = {"type": "http", "method": "POST", "raw_path": path, "query_string": b"", "headers": []}
    await app(scope, receive, send)
    code = re.search(rb'"code":"(\w+)"', sent[1]["body"])
    return sent[0]["status"], code[1].decode() if code else ""


@fills("client.waiting_calls")
async def test_calls_that_wait_for_a_gate() -> None:
    async with cluster() as (_, client):
        limits = replace(LimitSettings(), max_session_calls=2)
        network = LoopbackHub().network("program")
        session = Session(network, ("nowhere:1",), limits, Runtime())
        waiting = start(session.invoke(call(timeout_s=math.inf)) for _ in range(2))
        await eventually(lambda: full(session.limits(), "client.waiting_calls"))
        await refused(session.invoke(call()))
        assert await client.get(Busy, "a").echo(text="another") == "another"
        await give_up(waiting)
        assert at_rest(session.limits())
        await session.close(1)
