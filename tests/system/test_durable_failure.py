"""Durable objects on PostgreSQL while nodes are killed or paused and the database goes away."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import goverse.client
from goverse.aio.children import free_port
from goverse.coordination.supervised import EtcdProcess
from goverse.errors import Executed, GoverseError, ObjectFailed
from goverse.sharding import slot_of
from goverse.testing.processes import ProcessCluster, http_get
from tests.support.durable_cluster import COUNTERS, LEASE_TTL_S, database_away, running
from tests.support.durable_counter import DurableCounter, Load
from tests.support.eventually import eventually
from tests.support.holding_proxy import HoldingProxy

pytestmark = pytest.mark.system

CALLERS = 36
OUTAGE_S = 4.0


@pytest.fixture
def postgres_port() -> int:
    return free_port()


@pytest.fixture
async def late_store(postgres_port: int) -> AsyncIterator[HoldingProxy]:
    """A way to PostgreSQL on which commits can be late."""
    proxy = await HoldingProxy(postgres_port).start()
    yield proxy
    await proxy.close()


def fence_of(session: Any, name: str) -> int:
    """The revision of the epoch under which a counter's slot was opened."""
    row = session.execute(
        "SELECT revision FROM goverse_fences WHERE slot = %s", (slot_of(name),)
    ).fetchone()
    return int(row[0])


def stored(session: Any, name: str) -> tuple[int, bytes]:
    """Version and state of a counter in the database."""
    row = session.execute(
        "SELECT version, state FROM goverse_objects WHERE object_id = %s", (name,)
    ).fetchone()
    assert row is not None
    return int(row[0]), bytes(row[1])


async def test_L11_kill_9_of_the_owner_loses_no_acknowledged_addition(
    etcd: EtcdProcess, tmp_path: Path
) -> None:
    async with running(etcd, tmp_path, "15") as (cluster, _):
        async with (
            goverse.client.connect(cluster.servers["g1"].address) as client,
            Load(client, counters=COUNTERS, callers=CALLERS) as load,
        ):
            await eventually(lambda: load.all_answered_after(0) and load.answered > 500, 60)
            victim = cluster.servers["n2"].process.pid
            moved = load.on(victim)
            assert moved, "no counter lived on the node to be killed"
            killed_at = time.monotonic()
            await cluster.kill("n2")
            await eventually(lambda: load.all_answered_after(killed_at), timeout_s=30)
            await load.stop()
            print(f"{len(moved)} counters moved; the slowest call took {load.slowest_s:.1f} s")
            assert load.unknown > 0, "nothing was in flight: the fault was too mild"
            assert load.slowest_s < LEASE_TTL_S + 3
            assert not load.on(victim)
            await load.check()


async def test_L02_a_commit_of_a_paused_owner_that_arrives_late_is_refused(
    etcd: EtcdProcess, tmp_path: Path, late_store: HoldingProxy, postgres_port: int
) -> None:
    cluster_of_three = running(etcd, tmp_path, "18", port=postgres_port, port_of_n1=late_store.port)
    async with cluster_of_three as (cluster, postgres):
        async with (
            goverse.client.connect(cluster.servers["g1"].address) as client,
            Load(client, counters=COUNTERS, callers=CALLERS) as load,
        ):
            await eventually(lambda: load.all_answered_after(0), timeout_s=30)
            await load.stop()
            paused = cluster.servers["n1"]
            mine = load.on(paused.process.pid)
            assert mine, "no counter lives on the node to be paused"
            name = mine[0]
            counter = client.get(DurableCounter, name)
            with postgres.connect() as session:
                before = stored(session, name)
                fence = fence_of(session, name)
                # The commit has left its node, and is on its way until `release`.
                late_store.hold()
                late = asyncio.create_task(goverse.options(counter, timeout_s=60).add())
                await eventually(lambda: late_store.holds)
                paused.signal(signal.SIGSTOP)
                try:
                    with pytest.raises(GoverseError) as told:
                        await late
                    assert told.value.executed is Executed.UNKNOWN
                    await eventually(lambda: fence_of(session, name) != fence, timeout_s=30)
                    value, pid = await counter.get()
                    assert pid != paused.process.pid
                    await late_store.release()
                    assert stored(session, name) == before, "the old owner's commit was taken"
                    load.told[name].values.append((await counter.add())[0])
                    assert load.told[name].values[-1] == value + 1
                    written = {each: stored(session, each) for each in load.told}
                    late_store.heal()
                finally:
                    paused.signal(signal.SIGCONT)
                await eventually(lambda: "lost its lease" in paused.log(), timeout_s=30)
                await cluster.wait_ready("n1")
                assert {each: stored(session, each) for each in load.told} == written
            await load.check()


async def test_L27_while_the_database_is_away_calls_wait_and_nothing_spins(
    etcd: EtcdProcess, tmp_path: Path
) -> None:
    async with running(etcd, tmp_path, "18") as (cluster, postgres):
        print(await database_away(cluster, postgres, outage_s=OUTAGE_S, callers=CALLERS))


async def has_run(cluster: ProcessCluster, node: str, turns: int) -> bool:
    _, text = await http_get(cluster.servers[node].ops_address, "/metrics")
    counted = 'goverse_turn_duration_seconds_count{method="add",status="ok",type="DurableCounter"}'
    return f"{counted} {turns:.1f}" in text


async def test_one_poisoned_object_of_64_fails_and_the_others_are_committed(
    etcd: EtcdProcess, tmp_path: Path
) -> None:
    names = [f"c{number}" for number in range(64)]
    async with running(etcd, tmp_path, "18", nodes=("n1",)) as (cluster, postgres):
        async with goverse.client.connect(cluster.servers["g1"].address) as client:
            with postgres.connect() as session, postgres.connect() as other:
                session.execute(
                    "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                    " RAISE EXCEPTION 'poisoned'; END $$"
                )
                session.execute(
                    "CREATE TRIGGER poison BEFORE INSERT OR UPDATE ON goverse_objects FOR EACH ROW"
                    " WHEN (NEW.object_id = 'c17') EXECUTE FUNCTION poison()"
                )
                # While the first batches wait for this lock, all the others gather behind them.
                with other.transaction():
                    other.execute("LOCK TABLE goverse_objects IN SHARE MODE")
                    calls = [
                        asyncio.create_task(client.get(DurableCounter, n).add()) for n in names
                    ]
                    await eventually(lambda: has_run(cluster, "n1", len(names)))
                results = await asyncio.gather(*calls, return_exceptions=True)
                poisoned = results.pop(17)
                assert results == [[1, cluster.servers["n1"].process.pid]] * 63
                assert isinstance(poisoned, ObjectFailed)
                assert poisoned.details["rolled_back"]
                stored = session.execute("SELECT count(*) FROM goverse_objects").fetchone()
                assert stored == (63,)
                # The object itself is not lost: it works again once the database takes it.
                session.execute("DROP TRIGGER poison ON goverse_objects")
                assert (await client.get(DurableCounter, "c17").add())[0] == 1
