"""Leases on etcd: the thread that renews them, and when it must not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from goverse.aio.runtime import Runtime
from goverse.config.settings import EtcdSettings
from goverse.coordination import Coordinator, Put
from goverse.coordination.api import Lease
from goverse.coordination.etcd import EtcdCoordinator
from tests.support.blocking import block_loop
from tests.support.etcd import Etcd, etcd_options
from tests.support.eventually import eventually

TTL_S = 2.0
KEY = "/t/leased"


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[Etcd]:
    server = Etcd(etcd_options("3.4", tmp_path / "etcd"))
    await server.start()
    yield server
    await server.kill()


class Holder:
    """A process that holds a lease with one key."""

    def __init__(self, etcd: Etcd, loop_stall_limit_s: float) -> None:
        self.runtime = Runtime()
        self.client: Coordinator = EtcdCoordinator(
            EtcdSettings(endpoints=(etcd.endpoint,)),
            self.runtime,
            loop_stall_limit_s=loop_stall_limit_s,
        )
        self.lost: list[str] = []

    async def take(self, ttl_s: float) -> Lease:
        lease = await self.client.grant(ttl_s)
        lease.on_lost(lambda: self.lost.append("lost"))
        await self.client.transact([], [Put(KEY, b"", lease.id)])
        return lease

    async def holds(self) -> bool:
        return await self.client.get(KEY) is not None


async def test_a_loop_that_is_blocked_for_a_while_keeps_its_lease(etcd: Etcd) -> None:
    holder = Holder(etcd, loop_stall_limit_s=10)
    lease = await holder.take(TTL_S)
    block_loop(2.5 * TTL_S)
    assert lease.deadline > holder.runtime.clock.now()
    assert await holder.holds()
    assert not holder.lost
    await holder.client.close()


async def test_a_loop_that_is_blocked_for_too_long_loses_its_lease(etcd: Etcd) -> None:
    holder = Holder(etcd, loop_stall_limit_s=1)
    lease = await holder.take(TTL_S)
    block_loop(1 + TTL_S + 2)
    assert lease.deadline < holder.runtime.clock.now(), "known at once, before the loop runs"
    assert not await holder.holds()
    await eventually(lambda: holder.lost == ["lost"])
    assert lease.deadline == 0
    await holder.client.close()


async def test_renewing_resumes_if_the_loop_comes_back_in_time(etcd: Etcd) -> None:
    holder = Holder(etcd, loop_stall_limit_s=0.5)
    lease = await holder.take(6)
    before = lease.deadline
    block_loop(3)
    assert lease.deadline < before + 2, "it was not renewed while the loop hung"
    await eventually(lambda: lease.deadline > before + 3)
    assert await holder.holds()
    assert not holder.lost
    await holder.client.close()


async def test_late_answers_do_not_extend_a_lease(etcd: Etcd) -> None:
    holder = Holder(etcd, loop_stall_limit_s=10)
    clock = holder.runtime.clock
    lease = await holder.take(TTL_S)
    await eventually(lambda: lease.deadline > clock.now() + TTL_S - 0.1)
    etcd.pause()
    paused_at = clock.now()
    await eventually(lambda: clock.now() > paused_at + 1.5 * TTL_S)
    # Nothing asked before the pause can be answered any more with an effect.
    assert lease.deadline <= paused_at + TTL_S + 0.1
    assert lease.deadline < clock.now()
    resumed_at = clock.now()
    etcd.resume()

    async def settled() -> bool:
        # Either etcd ended it or it did not: what the holder believes is what etcd says.
        extended = lease.deadline >= resumed_at + TTL_S - 0.5
        return await holder.holds() if extended else bool(holder.lost)

    await eventually(settled)
    if holder.lost:
        assert not await holder.holds()
    await holder.client.close()


@pytest.mark.parametrize("end", ["close", "abandon", "revoke"])
async def test_no_thread_is_left(etcd: Etcd, end: str) -> None:
    holder = Holder(etcd, loop_stall_limit_s=10)
    lease = await holder.take(60)
    names = [thread.name for thread in threading.enumerate()]
    assert f"lease {lease.id:x}" in names
    if end == "abandon":
        await lease.abandon()
    elif end == "revoke":
        await lease.revoke()
    else:
        await holder.client.close()
    await eventually(
        lambda: f"lease {lease.id:x}" not in [thread.name for thread in threading.enumerate()]
    )
    await holder.client.close()


async def test_a_stopped_etcd_does_not_hold_up_the_end(etcd: Etcd) -> None:
    holder = Holder(etcd, loop_stall_limit_s=10)
    lease = await holder.take(TTL_S)
    etcd.pause()
    async with asyncio.timeout(TTL_S + 2):
        await lease.revoke()
        await holder.client.close()
    etcd.resume()


async def test_a_loop_that_hung_does_not_blame_etcd(etcd: Etcd) -> None:
    holder = Holder(etcd, loop_stall_limit_s=10)
    watch = holder.client.watch("/t/")
    await anext(watch)
    for _ in range(2):
        contact = watch.contact
        await eventually(lambda contact=contact: watch.contact > contact)
        block_loop(4)
    contact = watch.contact
    await eventually(lambda: watch.contact > contact + 2)
    assert holder.client.snapshot().last_error == ""
    await holder.client.close()
