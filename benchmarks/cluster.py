"""A cluster of real processes that has settled: opening shards is not what is measured."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import psycopg

from goverse.aio.runtime import Runtime
from goverse.config.settings import ClusterSettings, StorageSettings
from goverse.coordination.supervised import EtcdOptions, EtcdProcess
from goverse.storage.postgres import PostgresStore
from goverse.storage.supervised import DATABASE, USER, PostgresOptions, PostgresProcess
from goverse.testing.processes import ProcessCluster, http_get, process_cluster

SETTLE_S = 60.0
BALANCED_S = 90.0
#: How far from the ideal count of shards a node may be.
UNEVEN = 0.10
STILL_S = 1.5
#: With which a confirmed commit survives a crash of the machine.
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
#: No checkpoint within a run: after one, each page is written whole when it is touched.
POSTGRES_SETTINGS = ("shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=30min")
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
async def postgres_process() -> AsyncIterator[PostgresProcess]:
    """The PostgreSQL that comes with the extra ``dev``, in a folder that nobody can reach as well.

    Raises RuntimeError if what it confirms could be lost.
    """
    folder = Path(tempfile.mkdtemp(prefix="goverse-benchmark."))
    folder.chmod(0o755)
    data = folder / "data"
    settings = (*POSTGRES_SETTINGS, f"unix_socket_directories={data}")
    server = PostgresProcess(PostgresOptions(data, settings=settings))
    try:
        await server.start()
        durability = postgres_durability(server)
        if set(durability.values()) != {"on"}:
            raise RuntimeError(f"PostgreSQL would lose what it confirms: {durability}")
        yield server
    finally:
        await server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def socket_url(server: PostgresProcess) -> str:
    """The server's address as a socket of this machine."""
    options = server.options
    return f"postgresql://{USER}@/{DATABASE}?host={options.data_dir}&port={options.port}"


def postgres_durability(server: PostgresProcess) -> dict[str, str]:
    """The settings that durability depends on, as the server says them."""
    with psycopg.connect(server.url, password=server.password) as session:
        return {
            name: str(*session.execute("SELECT current_setting(%s)", (name,)).fetchone() or "")
            for name in DURABLE
        }


@contextlib.asynccontextmanager
async def one_node_and_a_gate(
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    modules: Sequence[str] = (),
    store: PostgresProcess | None = None,
) -> AsyncIterator[ProcessCluster]:
    """etcd, ``node`` with the objects of the benchmarks, and ``gate``; all shards are open.

    :param modules: further ones that the node hosts.
    :param store: where it keeps durable objects and reliable calls.
    """
    kept = {}
    if store is not None:
        kept = {
            "GOVERSE_STORAGE__URL": socket_url(store),
            "GOVERSE_STORAGE__PASSWORD": store.password,
        }
        settings = StorageSettings(url=socket_url(store), password=store.password)
        prepared = PostgresStore(settings, Runtime())
        await prepared.migrate()
        await prepared.close()
    async with (
        etcd_process(folder) as etcd,
        process_cluster(
            etcd.endpoint,
            folder,
            modules=("benchmarks.objects", *modules),
            environment={
                "GOVERSE_CLUSTER__STABILITY_DURATION": "200ms",
                **kept,
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


async def balanced(cluster: ProcessCluster, nodes: Sequence[str]) -> float:
    """Wait until all shards are open, as many on each node as on any other, and none has moved
    for `STILL_S`; when the last one had. Raises RuntimeError."""
    ideal = NUM_SHARDS / len(nodes)
    before: dict[str, int] = {}
    since = time.monotonic()
    try:
        async with asyncio.timeout(BALANCED_S):
            while True:
                now = time.monotonic()
                counts = {name: await _open_or_none(cluster, name) for name in nodes}
                if counts != before:
                    before, since = counts, now
                even = all(abs(count - ideal) <= UNEVEN * ideal for count in counts.values())
                if even and sum(counts.values()) == NUM_SHARDS and now - since > STILL_S:
                    return since
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise RuntimeError(f"not balanced after {BALANCED_S:g} s: {before}") from None


async def _open_or_none(cluster: ProcessCluster, node: str) -> int:
    """As `open_shards`; 0 while the node does not answer."""
    with contextlib.suppress(OSError, TimeoutError):
        return await open_shards(cluster, node)
    return 0


def cpu_seconds(cluster: ProcessCluster) -> dict[str, float]:
    """Processor time used so far, by process."""
    return {name: server.cpu_seconds() for name, server in cluster.servers.items()}
