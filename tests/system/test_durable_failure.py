"""Durable objects on PostgreSQL while nodes are killed or paused and the database goes away."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import goverse.client
from goverse.aio.children import free_port
from goverse.coordination.supervised import EtcdProcess
from goverse.errors import Executed, GoverseError
from goverse.sharding import slot_of
from goverse.storage.supervised import PostgresOptions
from goverse.testing.processes import ProcessCluster, http_get, process_cluster
from tests.support.durable_counter import DurableCounter, Load
from tests.support.eventually import eventually
from tests.support.holding_proxy import HoldingProxy
from tests.support.postgres import PASSWORD, PostgresServer, installation, open_folder
from tests.system.conftest import LEASE_TTL_S

pytestmark = pytest.mark.system

NODES = ("n1", "n2", "n3")
COUNTERS, CALLERS = 12, 36
OUTAGE_S = 4.0


@asynccontextmanager
async def running(
    etcd: EtcdProcess, folder: Path, version: str, *, port: int = 0, port_of_n1: int = 0
) -> AsyncIterator[tuple[ProcessCluster, PostgresServer]]:
    """PostgreSQL with a schema, three nodes and a gate, ready.

    :param port: of PostgreSQL; 0: a free one. :param port_of_n1: where n1 finds it; 0: there.
    """
    with open_folder() as place:
        options = PostgresOptions(place / "data", installation(version), PASSWORD, port)
        postgres = PostgresServer(options)
        await postgres.start()
        try:
            await postgres.migrate()
            async with process_cluster(
                etcd.endpoint,
                folder,
                modules=("tests.support.durable_counter",),
                environment={
                    "GOVERSE_CLUSTER__LEASE_TTL": f"{LEASE_TTL_S:g}s",
                    "GOVERSE_CLUSTER__STABILITY_DURATION": "200ms",
                    "GOVERSE_CLUSTER__INITIAL_NUM_SHARDS": "256",
                    "GOVERSE_STORAGE__PASSWORD": PASSWORD,
                    "LOG_FORMAT": "json",
                },
            ) as cluster:
                for name in NODES:
                    url = postgres.settings(port=port_of_n1 if name == "n1" else 0).url
                    await cluster.start_node(name, GOVERSE_STORAGE__URL=url)
                await cluster.start_gate("g1")
                await cluster.wait_ready()
                yield cluster, postgres
        finally:
            await postgres.kill()


async def refused_commits(cluster: ProcessCluster, node: str, reason: str) -> int:
    _, text = await http_get(cluster.servers[node].ops_address, "/metrics")
    found = re.findall(
        rf'^goverse_refused_commits_total{{[^}}]*reason="{reason}"[^}}]*}} ([0-9.e+]+)$', text, re.M
    )
    return int(sum(float(value) for value in found))


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
        async with goverse.client.connect(cluster.servers["g1"].address) as client:
            load = Load(client, counters=COUNTERS, callers=CALLERS)
            load.start()
            await eventually(lambda: load.all_answered_after(0) and load.answered > 500)
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
        async with goverse.client.connect(cluster.servers["g1"].address) as client:
            load = Load(client, counters=COUNTERS, callers=CALLERS)
            load.start()
            await eventually(lambda: load.all_answered_after(0))
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
        async with goverse.client.connect(cluster.servers["g1"].address) as client:
            load = Load(client, counters=COUNTERS, callers=CALLERS)
            load.start()
            await eventually(lambda: load.all_answered_after(0))
            lines = {name: cluster.servers[name].log().count("\n") for name in NODES}
            cpu = {name: cluster.servers[name].cpu_seconds() for name in NODES}
            gone_at = time.monotonic()
            await postgres.kill()
            await eventually(lambda: time.monotonic() - gone_at > OUTAGE_S, timeout_s=30)
            attempts = {}
            for name in NODES:
                attempts[name] = await refused_commits(cluster, name, "unavailable")
                attempts[name] += await refused_commits(cluster, name, "unknown")
                lines[name] = cluster.servers[name].log().count("\n") - lines[name]
                cpu[name] = cluster.servers[name].cpu_seconds() - cpu[name]
            print(f"in {OUTAGE_S:g} s: attempts {attempts}, log lines {lines}, CPU seconds {cpu}")
            assert sum(attempts.values()) > 0
            assert all(count < 15 * OUTAGE_S for count in attempts.values())
            assert all(count < 40 * OUTAGE_S for count in lines.values())
            assert all(seconds < OUTAGE_S / 2 for seconds in cpu.values())
            back_at = time.monotonic()
            postgres.spawn()
            await postgres.wait_ready()
            await eventually(lambda: load.all_answered_after(back_at), timeout_s=30)
            print(f"all answered {time.monotonic() - back_at:.1f} s after its start")
            await load.stop()
            await load.check()
            pids = {cluster.servers[name].process.pid for name in NODES}
            assert {told.pid for told in load.told.values()} <= pids
            for told in load.told.values():
                assert all(
                    error.startswith(("unavailable", "overloaded", "deadline_exceeded"))
                    for error in told.errors
                ), told.errors
