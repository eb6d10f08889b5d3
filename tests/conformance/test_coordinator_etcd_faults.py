"""etcd in trouble: members killed, stopped and cut off, restarts, partitions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from goverse.aio.runtime import Runtime
from goverse.config.settings import EtcdSettings
from goverse.coordination import Coordinator, CoordinatorUnavailable, Put, TxnResult
from goverse.coordination.etcd import EtcdCoordinator, watch
from goverse.testing.conformance.coordinator import View
from tests.support.etcd import Etcd, EtcdCluster, etcd_options
from tests.support.eventually import eventually
from tests.support.pacing import last
from tests.support.proxy import Proxy

#: Seconds within which a client works again after the member that it used is lost. It notices
#: within three, and the others may have to elect a leader.
RECOVERY_S = 6.0


class Troubled:
    """Three members behind proxies, and ways to lose one of them."""

    def __init__(self, cluster: EtcdCluster) -> None:
        self.cluster = cluster
        self.proxies = [Proxy(endpoint).start() for endpoint in cluster.endpoints]

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(proxy.endpoint for proxy in self.proxies)

    def index(self, endpoint: str) -> int:
        return self.endpoints.index(endpoint)

    async def strike(self, how: str, index: int) -> None:
        if how == "kill":
            await self.cluster.members[index].kill()
        elif how == "stop":
            self.cluster.members[index].pause()
        else:
            self.proxies[index].cut()

    async def heal(self, how: str, index: int) -> None:
        if how == "kill":
            await self.cluster.members[index].start()
        elif how == "stop":
            self.cluster.members[index].resume()
        else:
            self.proxies[index].heal()

    async def close(self) -> None:
        for proxy in self.proxies:
            proxy.close()
        await self.cluster.stop()


@pytest.fixture
async def troubled(tmp_path: Path) -> AsyncIterator[Troubled]:
    cluster = EtcdCluster("3.4", tmp_path)
    await cluster.start()
    troubled = Troubled(cluster)
    yield troubled
    await troubled.close()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[tuple[str, ...]], Coordinator]]:
    async with AsyncExitStack() as stack:

        def connect(endpoints: tuple[str, ...]) -> Coordinator:
            client = EtcdCoordinator(EtcdSettings(endpoints=endpoints), Runtime())
            stack.push_async_callback(client.close)
            return client

        yield connect


async def insist(operation: Callable[[], Awaitable[TxnResult]]) -> TxnResult:
    """Repeat a write as its caller would who knows that it can be repeated."""
    while True:
        try:
            return await operation()
        except CoordinatorUnavailable:
            continue


@pytest.mark.parametrize("how", ["kill", "stop", "cut"])
async def test_L22_the_used_member_is_lost(
    troubled: Troubled, connect: Callable[[tuple[str, ...]], Coordinator], how: str
) -> None:
    client = connect(troubled.endpoints)
    loop = asyncio.get_running_loop()
    view = View(client.watch("/t/"))
    await view.advance()
    lost: list[str] = []
    lease = await client.grant(5)
    lease.on_lost(lambda: lost.append("lost"))
    await client.transact([], [Put("/t/leased", b"", lease.id)])
    await view.advance()
    used = troubled.index(client.snapshot().endpoint)

    struck_at = loop.time()
    await troubled.strike(how, used)
    async with asyncio.timeout(RECOVERY_S):
        results = await asyncio.gather(
            client.get("/t/leased"),
            client.list("/t/"),
            insist(lambda: client.transact([], [Put("/t/after", b"")])),
        )
        reading_s = loop.time() - struck_at
        await view.reach(lambda: view.revision >= results[2].revision)
    assert results[0] is not None
    assert troubled.index(client.snapshot().endpoint) != used
    assert view.snapshots == 1, "the watch resumes, it does not start anew"
    print(f"{how}: operations after {reading_s:.2f} s, watch after {loop.time() - struck_at:.2f} s")

    deadline = lease.deadline
    await eventually(lambda: lease.deadline > deadline + 3)
    assert not lost
    assert "/t/leased" in (await client.list("/t/")).items


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_the_leader_is_lost_while_another_member_is_used(
    troubled: Troubled, connect: Callable[[tuple[str, ...]], Coordinator], how: str
) -> None:
    """etcd itself says only after 7 s that a write was forwarded to a leader that died."""
    leaders = [await member.is_leader() for member in troubled.cluster.members]
    leader = leaders.index(True)
    others = [endpoint for endpoint in troubled.endpoints if troubled.index(endpoint) != leader]
    client = connect(tuple(others))
    view = View(client.watch("/t/"))
    await view.advance()
    loop = asyncio.get_running_loop()
    struck_at = loop.time()
    await troubled.strike(how, leader)
    async with asyncio.timeout(RECOVERY_S):
        result = await insist(lambda: client.transact([], [Put("/t/after", b"")]))
        await client.get("/t/after")
        await view.reach(lambda: view.revision >= result.revision)
    print(f"{how} leader: all works after {loop.time() - struck_at:.2f} s")


@pytest.mark.parametrize("how", ["stop", "cut"])
async def test_L22_a_lost_keep_alive_does_not_cost_the_lease(
    troubled: Troubled, connect: Callable[[tuple[str, ...]], Coordinator], how: str
) -> None:
    """Every member is lost in turn, so the one that the thread uses is among them."""
    client = connect(troubled.endpoints)
    lost: list[str] = []
    lease = await client.grant(5)
    lease.on_lost(lambda: lost.append("lost"))
    await insist(lambda: client.transact([], [Put("/t/leased", b"", lease.id)]))
    for index in range(3):
        await troubled.strike(how, index)
        deadline = lease.deadline
        await eventually(lambda deadline=deadline: lease.deadline > deadline + 2)
        await troubled.heal(how, index)
    assert not lost
    found = await client.get("/t/leased")
    assert found is not None
    assert found.lease == lease.id


async def test_without_a_majority_nothing_is_read_or_written_and_afterwards_all_is(
    troubled: Troubled, connect: Callable[[tuple[str, ...]], Coordinator]
) -> None:
    client = connect(troubled.endpoints)
    view = View(client.watch("/t/"))
    await view.advance()
    await client.transact([], [Put("/t/a", b"1")])
    await view.advance()
    used = troubled.index(client.snapshot().endpoint)
    others = [index for index in range(3) if index != used]
    for index in others:
        await troubled.strike("stop", index)
    reading = asyncio.ensure_future(client.get("/t/a"))
    await asyncio.wait([reading], timeout=4)
    assert not reading.done(), "a read was answered by a member that cannot know"
    for index in others:
        await troubled.heal("stop", index)
    async with asyncio.timeout(RECOVERY_S):
        assert (await reading) is not None
        result = await insist(lambda: client.transact([], [Put("/t/a", b"2")]))
        await view.reach(lambda: view.revision >= result.revision)


async def test_an_answer_that_is_here_before_its_request_is_written_has_been_heard(
    tmp_path: Path,
    connect: Callable[[tuple[str, ...]], Coordinator],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As in a busy process, which left etcd as silent every few seconds."""
    write = watch._write

    async def written_late(stream: Any, message: Any) -> None:
        await write(stream, message)
        await last(0.2)

    monkeypatch.setattr(watch, "_write", written_late)
    monkeypatch.setattr(watch, "HEARTBEAT_S", 0.3)
    etcd = Etcd(etcd_options("3.4", tmp_path / "etcd"))
    await etcd.start()
    try:
        view = View(connect((etcd.endpoint,)).watch("/t/"))
        await view.advance()
        await last(8 * 0.3)
    finally:
        await etcd.kill()
    assert "silent" not in caplog.text


async def test_L22_later_losses_do_not_wait_longer_and_longer(
    tmp_path: Path, connect: Callable[[tuple[str, ...]], Coordinator]
) -> None:
    etcd = Etcd(etcd_options("3.4", tmp_path / "etcd"))
    await etcd.start()
    loop = asyncio.get_running_loop()
    client = connect((etcd.endpoint,))
    view = View(client.watch("/t/"))
    await view.advance()
    taken = []
    try:
        for outage_s in (0.5, 2.0, 4.0):
            await etcd.kill()
            reading = asyncio.ensure_future(client.get("/t/a"))
            await asyncio.wait([reading], timeout=outage_s)
            await etcd.start()
            started_at = loop.time()
            await reading
            result = await client.transact([], [Put("/t/a", b"")])
            await view.reach(lambda result=result: view.revision >= result.revision)
            taken.append(loop.time() - started_at)
        print("back after", [f"{seconds:.2f}" for seconds in taken])
        assert max(taken) < 2
        assert view.snapshots == 1
    finally:
        await etcd.kill()


async def test_a_restart_while_idle_costs_no_operation(
    tmp_path: Path, connect: Callable[[tuple[str, ...]], Coordinator]
) -> None:
    """A connection that broke while nothing was sent on it must not make a write's fate unknown."""
    etcd = Etcd(etcd_options("3.4", tmp_path / "etcd"))
    await etcd.start()
    client = connect((etcd.endpoint,))
    await client.transact([], [Put("/t/a", b"1")])
    await etcd.stop()
    await etcd.start()
    await client.transact([], [Put("/t/a", b"2")])
    await etcd.kill()


async def test_L36_who_only_watches_finds_out_that_an_old_copy_was_restored(
    tmp_path: Path, connect: Callable[[tuple[str, ...]], Coordinator]
) -> None:
    """Its listing is older than the copy, and what it heard since is newer."""
    etcd = Etcd(etcd_options("3.4", tmp_path / "etcd"))
    await etcd.start()
    watching, writing = connect((etcd.endpoint,)), connect((etcd.endpoint,))
    view = View(watching.watch("/w/"))
    try:
        await view.advance()
        await writing.transact([], [Put("/w/copied", b"")])
        await view.reach(lambda: "/w/copied" in view.items)
        await etcd.copy(tmp_path / "copy")
        await writing.transact([], [Put("/w/forgotten", b"")])
        await view.reach(lambda: "/w/forgotten" in view.items)
        await etcd.restore(tmp_path / "copy")
        await view.reach(lambda: "/w/forgotten" not in view.items)
        assert list(view.items) == ["/w/copied"]
    finally:
        await etcd.kill()


async def test_processes_spread_over_the_members(
    troubled: Troubled, connect: Callable[[tuple[str, ...]], Coordinator]
) -> None:
    used = {}
    for seed in range(8):
        client = EtcdCoordinator(
            EtcdSettings(endpoints=troubled.endpoints), Runtime(random=random.Random(seed))
        )
        await client.get("/t/a")
        used[client.snapshot().endpoint] = True
        await client.close()
    assert len(used) == 3
