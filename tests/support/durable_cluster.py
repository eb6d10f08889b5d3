"""Nodes with durable counters on a database, and what happens while it is away."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import goverse.client
from goverse.coordination.supervised import EtcdProcess
from goverse.testing.processes import ProcessCluster, http_get, process_cluster
from tests.support.balance import balanced
from tests.support.databases import DatabaseServer, database
from tests.support.durable_counter import Load
from tests.support.eventually import eventually
from tests.support.postgres import PASSWORD, open_folder

NODES = ("n1", "n2", "n3")
LEASE_TTL_S = 3.0
COUNTERS = 12
MIB = 1024 * 1024
#: What a node may grow by while the database is away: its callers, each with one call, wait.
MAX_GROWTH_BYTES = 48 * MIB


@asynccontextmanager
async def running(
    etcd: EtcdProcess,
    folder: Path,
    kind: str,
    *,
    port: int = 0,
    port_of_n1: int = 0,
    nodes: tuple[str, ...] = NODES,
    modules: tuple[str, ...] = ("tests.support.durable_counter",),
) -> AsyncIterator[tuple[ProcessCluster, Any]]:
    """A database with a schema, nodes that host ``modules``, and a gate, ready and balanced.

    :param kind: one of `DATABASES`. :param port: of the database; 0: a free one.
    :param port_of_n1: where n1 finds it; 0: there.
    """
    with open_folder() as place:
        postgres = database(kind, place / "data", port=port)
        await postgres.start()
        try:
            await postgres.migrate()
            async with process_cluster(
                etcd.endpoint,
                folder,
                modules=modules,
                environment={
                    "GOVERSE_CLUSTER__LEASE_TTL": f"{LEASE_TTL_S:g}s",
                    "GOVERSE_CLUSTER__STABILITY_DURATION": "200ms",
                    "GOVERSE_CLUSTER__INITIAL_NUM_SHARDS": "256",
                    "GOVERSE_STORAGE__PASSWORD": PASSWORD,
                    "LOG_FORMAT": "json",
                },
            ) as cluster:
                for name in nodes:
                    url = postgres.settings(port=port_of_n1 if name == "n1" else 0).url
                    await cluster.start_node(name, GOVERSE_STORAGE__URL=url)
                await cluster.start_gate("g1")
                await cluster.wait_ready()
                await balanced(cluster, *nodes)
                yield cluster, postgres
        finally:
            await postgres.kill()


async def refused_commits(cluster: ProcessCluster, node: str, reason: str) -> int:
    _, text = await http_get(cluster.servers[node].ops_address, "/metrics")
    found = re.findall(
        rf'^goverse_refused_commits_total{{[^}}]*reason="{reason}"[^}}]*}} ([0-9.e+]+)$', text, re.M
    )
    return int(sum(float(value) for value in found))


@dataclass(frozen=True)
class Outage:
    """What each node did while the database was away.

    :param attempts: to commit. :param grown: bytes of memory.
    """

    outage_s: float
    attempts: Mapping[str, int]
    lines: Mapping[str, int]
    cpu_s: Mapping[str, float]
    grown: Mapping[str, int]
    answered_s: float
    errors: Mapping[str, int]

    def __str__(self) -> str:
        cpu = {name: round(seconds, 2) for name, seconds in self.cpu_s.items()}
        grown = {name: f"{bytes / MIB:.1f} MiB" for name, bytes in self.grown.items()}
        return (
            f"database away for {self.outage_s:g} s: attempts {self.attempts}, log lines "
            f"{self.lines}, CPU seconds {cpu}, memory grown by {grown}; all answered "
            f"{self.answered_s:.1f} s after its start; errors told {self.errors}"
        )


async def database_away(
    cluster: ProcessCluster, postgres: DatabaseServer, *, outage_s: float, callers: int
) -> Outage:
    """Take the database away under load. Raises AssertionError unless calls wait or are told
    `unavailable`, nothing spins or grows, and all recovers by itself and adds up."""
    servers = {name: cluster.servers[name] for name in NODES}
    async with (
        goverse.client.connect(cluster.servers["g1"].address) as client,
        Load(client, counters=COUNTERS, callers=callers) as load,
    ):
        await eventually(lambda: load.all_answered_after(0) and load.answered > 500, 60)
        lines = {name: server.log().count("\n") for name, server in servers.items()}
        cpu = {name: server.cpu_seconds() for name, server in servers.items()}
        memory = {name: server.memory_bytes() for name, server in servers.items()}
        gone_at = time.monotonic()
        await postgres.kill()
        await eventually(lambda: time.monotonic() - gone_at > outage_s, timeout_s=outage_s + 30)
        attempts = {}
        for name, server in servers.items():
            attempts[name] = await refused_commits(cluster, name, "unavailable")
            attempts[name] += await refused_commits(cluster, name, "unknown")
            lines[name] = server.log().count("\n") - lines[name]
            cpu[name] = server.cpu_seconds() - cpu[name]
            memory[name] = server.memory_bytes() - memory[name]
        back_at = time.monotonic()
        postgres.spawn()
        await postgres.wait_ready()
        await eventually(lambda: load.all_answered_after(back_at), timeout_s=30)
        answered_s = time.monotonic() - back_at
        await load.stop()
        await load.check()
    errors: dict[str, int] = {}
    for told in load.told.values():
        for error in told.errors:
            code = error.partition(":")[0]
            errors[code] = errors.get(code, 0) + 1
    outage = Outage(outage_s, attempts, lines, cpu, memory, answered_s, errors)
    assert sum(attempts.values()) > 0, outage
    assert all(count < 15 * outage_s for count in attempts.values()), outage
    assert all(count < 40 * outage_s for count in lines.values()), outage
    assert all(seconds < outage_s / 2 for seconds in cpu.values()), outage
    assert all(bytes < MAX_GROWTH_BYTES for bytes in memory.values()), outage
    assert errors.keys() <= {"unavailable", "overloaded", "deadline_exceeded"}, outage
    pids = {server.process.pid for server in servers.values()}
    assert {told.pid for told in load.told.values()} <= pids, "a node has ended"
    return outage
