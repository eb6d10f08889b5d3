"""A cluster of real processes that has settled: opening shards is not what is measured."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from goverse.config.settings import ClusterSettings
from goverse.coordination.supervised import EtcdOptions, EtcdProcess
from goverse.testing.processes import ProcessCluster, http_get, process_cluster

SETTLE_S = 60.0
NUM_SHARDS = ClusterSettings().initial_num_shards

_OPEN_SHARDS = re.compile(r'^goverse_shards\{[^}]*state="open"[^}]*\} (\d+)', re.MULTILINE)


@contextlib.asynccontextmanager
async def etcd_process(folder: Path) -> AsyncIterator[EtcdProcess]:
    etcd = EtcdProcess(EtcdOptions(folder / "etcd"))
    try:
        await etcd.start()
        yield etcd
    finally:
        await etcd.stop()


@contextlib.asynccontextmanager
async def one_node_and_a_gate(
    folder: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[ProcessCluster]:
    """etcd, ``node`` with the objects of the benchmarks, and ``gate``; all shards are open."""
    async with (
        etcd_process(folder) as etcd,
        process_cluster(
            etcd.endpoint,
            folder,
            modules=("benchmarks.objects",),
            environment={
                "GOVERSE_CLUSTER__STABILITY_DURATION": "200ms",
                **(environment or {}),
            },
        ) as cluster,
    ):
        await cluster.start_node("node")
        await cluster.start_gate("gate")
        await cluster.wait_ready()
        async with asyncio.timeout(SETTLE_S):
            while await open_shards(cluster, "node") < NUM_SHARDS:
                await asyncio.sleep(0.1)
        yield cluster


async def open_shards(cluster: ProcessCluster, node: str) -> int:
    """How many shards ``node`` says it has open."""
    _, text = await http_get(cluster.servers[node].ops_address, "/metrics")
    found = _OPEN_SHARDS.search(text)
    return int(found.group(1)) if found else 0


def cpu_seconds(cluster: ProcessCluster) -> dict[str, float]:
    """Processor time used so far, by process."""
    return {name: server.cpu_seconds() for name, server in cluster.servers.items()}
